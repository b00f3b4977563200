"""A layout unlike the others: images in one flat folder beside a file called ``flat``."""

from collections import Counter
from typing import final

from saccade.data.labels import Unlabelled
from saccade.data.layouts._folder import FolderLayout
from saccade.data.survey import Part, images_of, surveyed


@final
class Flat(FolderLayout):
    """No classes, no parts."""

    name = "flat"
    rank = 5
    targets = ("none",)

    def check_folder(self, root):
        return None if (root / "flat").is_file() else "it holds no file called flat"

    def survey(self, root):
        return surveyed(root, *images_of({"train": Part("", {"": sorted(root.glob("*"))})}), Counter(), [])

    def load_labels(self, survey, sizes, notify):
        return Unlabelled()
