"""Synthetic scenes of handwritten digits, generated without a download: labels, vectors, masks, objects, fixations.

The source is the word ``digits``, which no other layout reads.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from saccade.data.duplicates import Duplicates
from saccade.data.layouts.base import Layout
from saccade.data.sheet import Cell
from saccade.events import Notify
from saccade.recipe import Data

if TYPE_CHECKING:
    from saccade.data.samples import ImageSequence, Splits

__all__ = ["Digits"]

_BACKGROUND = "background"


@final
class Digits(Layout):
    """One labelled digit among clutter and smaller digits."""

    name = "digits"
    rank = 0
    targets = ("label", "vector", "mask", "objects", "fixations")
    sources = ("digits",)
    task_recipes = MappingProxyType(
        {"detect": "digits_detect", "multilabel": "digits_multilabel", "saliency": "digits_saliency"}
    )
    n_seeds = 3
    caveat = (
        "This is a smoke test. Its images are generated from handwritten digits, so that it needs no download; these "
        "verdicts do not transfer to other data."
    )
    residual_sd = MappingProxyType({"top-1": 0.74})
    """Percentage points, measured with ``saccade compare --attention none,se,eca --seeds 10``."""

    def check_source(self, source: str) -> str | None:
        """Accept only the word ``digits``."""
        return None if source in self.sources else f"data.source is not {self.sources[0]!r}"

    def resolve_source(self, source: str) -> str:
        """Return the word itself."""
        return source

    def read(self, spec: Data, target: str, notify: Notify | None = None) -> Splits:
        """Generate the scenes: up front if they fit in memory, else on access."""
        from saccade.data.digits import CLASSES, make_regions, make_scenes, make_targets
        from saccade.data.normalisation import describe_settings, normalisation
        from saccade.data.samples import MEMORY_LIMIT, ImageSet, Splits, channel_statistics, digest_values

        train, test = make_scenes(spec, "train"), make_scenes(spec, "test")
        height, width = train.size
        is_materialised = (len(train) + len(test)) * height * width <= MEMORY_LIMIT
        images: list[ImageSequence] = [scenes.images() if is_materialised else scenes for scenes in (train, test)]
        spec = spec.model_copy(
            update={"interpolation": None, "crop_pct": None}
        )  # scenes are generated at their size, not resized
        mean, std = normalisation(spec, 1, lambda: channel_statistics(images[0]))
        sets = [
            ImageSet(
                images[n],
                make_targets(scenes, target, is_materialised),
                mean,
                std,
                spec.augment if scenes is train else (),
                regions=make_regions(scenes, target),
            )
            for n, scenes in enumerate((train, test))
        ]
        axis_note = " (height × width)" if height != width else ""
        return Splits(
            train=sets[0],
            test=sets[1],
            val=None,
            target=target,
            classes={"mask": [_BACKGROUND, *CLASSES], "fixations": [], "none": []}.get(target, list(CLASSES)),
            channels=1,
            size=train.size,
            mean=mean,
            std=std,
            description=(
                f"digits: {len(train)} training and {len(test)} test scenes of {height}×{width} pixels{axis_note} "
                f"(clutter {train.clutter}, distractors {train.distractors}, seed {spec.split_seed})"
                + describe_settings(spec)
            ),
            fingerprint=digest_values(
                ["digits", scenes.split, scenes.count, height if height == width else [height, width], scenes.clutter,
                 scenes.distractors, scenes.seed]
                for scenes in (train, test)
            ),
        )  # fmt: skip

    def describe(self, spec: Data, notify: Notify | None = None) -> dict[str, Any]:
        """See :meth:`Layout.describe`; nothing is refused."""
        from saccade.data.digits import CLASSES, SPLITS, make_scenes, source_digits

        scenes_by_split = {split: make_scenes(spec, split) for split in SPLITS}
        height, width = scenes_by_split["train"].size
        counts = {name: len(scenes) for name, scenes in scenes_by_split.items()}
        return {
            "source": self.sources[0],
            "layout": self.name,
            "parts": [
                {
                    "name": name,
                    "images": len(scenes),
                    "classes": {CLASSES[k]: n for k, n in sorted(Counter(scenes.labels).items())},
                }
                for name, scenes in scenes_by_split.items()
            ],
            "sizes": [{"size": [width, height], "images": sum(counts.values())}],
            "used": counts,
            "height": height,
            "width": width,
            "channels": 1,
            "same_bytes": Duplicates().counts(),
            "notes": [
                f"the labelled digits are taken from {len(source_digits('train'))} handwritten digits for training and "
                f"from {len(source_digits('test'))} others for testing",
            ],
            "left_out": [],
            "refused": [],
        }

    def stamp(self, spec: Data) -> tuple[Any, ...]:
        """Return a constant; generated scenes never change."""
        return ()

    def suggest_recipe(self, source: str) -> tuple[str, dict[str, Any]]:
        """Return the built-in recipe ``digits``."""
        return "digits", {}

    def read_cells(self, spec: Data, split: str, count: int) -> list[Cell]:
        """Return the first scenes with their boxes and masks."""
        from saccade.data.digits import CLASSES, make_scenes

        scenes = make_scenes(spec, "train" if split == "train" else "test")
        cells = []
        for i in range(min(count, len(scenes))):
            scene = scenes.scene(i)
            names = [CLASSES[label] for label in scene.box_labels.tolist()]
            boxes = [(*box, name) for box, name in zip(scene.boxes.tolist(), names, strict=True)]
            cells.append(Cell(scene.image, f"label {scene.label}", boxes, scene.masks.numpy()))
        return cells
