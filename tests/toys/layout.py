"""A layout of images in one folder together with a file called ``flat``."""

from collections import Counter
from typing import final

from saccade.data.labels import NoTargets
from saccade.data.layouts._folder import FolderLayout
from saccade.data.survey import SplitFiles, keep_images, make_survey


@final
class Flat(FolderLayout):
    """Images without classes and splits."""

    name = "flat"
    rank = 5
    targets = ("none",)

    def check_folder(self, root):
        return None if (root / "flat").is_file() else "it holds no file called flat"

    def survey(self, root):
        return make_survey(root, *keep_images({"train": SplitFiles("", {"": sorted(root.glob("*"))})}), Counter(), [])

    def load_targets(self, survey, sizes, notify):
        return NoTargets()
