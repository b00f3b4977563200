"""Test images that several sections show: their choice, the networks beside them, and their SVG elements."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from saccade.errors import UserError
from saccade.metrics.rows import Rows, count_images, select_images
from saccade.study.arms import Arm
from saccade.study.plan import Study
from saccade.study.report.sections.base import ReportContext
from saccade.study.report.svg import element
from saccade.study.report.typeset import NARROW_SPACE
from saccade.study.run_notes import RunResult
from saccade.tasks.base import Task

__all__ = [
    "MAX_SIDE", "N_IMAGES", "choose_images", "disputed_images", "draw_overlay", "embed", "frame", "image_definition",
    "runs_to_show",
]  # fmt: skip

N_IMAGES = 6
"""Number of images shown."""
MAX_SIDE = 128
"""Longest side of an embedded image, in pixels."""


def runs_to_show(context: ReportContext, study: Study) -> tuple[dict[Arm, RunResult], int | None]:
    """Return the run to show for each arm, and the seed common to all of them, if any."""
    runs_by_arm: dict[Arm, dict[int, RunResult]] = {}
    for row in context.results.arms:
        for run in context.results.of(row.arm.name):
            if run.status == "done" and (study.folder / run.folder / "model.safetensors").exists():
                runs_by_arm.setdefault(row.arm, {})[run.seed] = run
    common_seed = next((seed for seed in study.seeds if all(seed in runs for runs in runs_by_arm.values())), None)
    return {
        arm: next(iter(runs.values())) if common_seed is None else runs[common_seed]
        for arm, runs in runs_by_arm.items()
    }, common_seed


def choose_images(n_images: int, task: Task, saved_rows: Sequence[Rows | None]) -> tuple[list[int], str]:
    """Return the images to show, half at random and half where the networks differ, and a sentence on them.

    All are random if the networks differ on every image or none. The order depends only on the number of images.

    Raises:
        UserError: the saved predictions cover a different number of images.
    """
    order, disputed = disputed_images(n_images, task, saved_rows)
    disputed_shown = disputed[: N_IMAGES // 2] if len(disputed) < n_images else []
    random_picks = [i for i in order if i not in disputed_shown][: N_IMAGES - len(disputed_shown)]
    if not disputed_shown:
        return random_picks, f"{len(random_picks)} test images, drawn at random."
    share = f"{100 * len(disputed) / n_images:.1f}{NARROW_SPACE}%"
    return random_picks + disputed_shown, (
        f"{len(random_picks)} test images drawn at random, then {len(disputed_shown)} drawn from the {share} of all "
        f"test images on which these networks {'score' if _image_scores(task) else 'predict'} differently."
    )


def disputed_images(n_images: int, task: Task, saved_rows: Sequence[Rows | None]) -> tuple[list[int], list[int]]:
    """Return all image indices in random order, and of these the images that the networks score differently.

    The order depends only on the number of images. Without scores of images, predictions are compared.

    Raises:
        UserError: the saved predictions cover a different number of images.
    """
    order = list(range(n_images))
    random.Random(n_images).shuffle(order)
    rows_of_runs = [rows for rows in saved_rows if rows is not None]
    for rows in rows_of_runs:
        if (n_scored := count_images(rows)) != n_images:
            raise UserError(f"the runs were scored on {n_scored} test images; there are {n_images} now")
    if (image_scores := _image_scores(task)) is not None:
        rows_of_runs = [{"value": image_scores(rows)} for rows in rows_of_runs]
    return order, [i for i in order if _predictions_differ([select_images(rows, [i]) for rows in rows_of_runs])]


def _image_scores(task: Task) -> Callable[[Rows], Tensor] | None:
    return next((metric.values for metric in task.metrics if metric.values is not None), None)


def _predictions_differ(rows: Sequence[Rows]) -> bool:
    """Return True if two networks predict differently."""
    return any(not torch.equal(other[key], rows[0][key]) for other in rows[1:] for key in other)


def image_definition(i: int, pixels: Tensor, max_side: int, prefix: str = "picture") -> Markup:
    """Return an image uint8 (C, H, W), downscaled to ``max_side``, as an element ``{prefix}-{i}`` for ``use``."""
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    # A photograph this large would take several times as many bytes as PNG.
    return embed(image, "JPEG" if max(image.size) > MAX_SIDE else "PNG", id=f"{prefix}-{i}")


def draw_overlay(index: int | None, heat_map: Image.Image | None, label: str, prefix: str = "picture") -> Markup:
    """Return an image, a gate map, or a gate map over the image in grey."""
    style_class = "base-image" if heat_map else None
    image_elements = [] if index is None else [element("use", href=f"#{prefix}-{index}", class_=style_class)]
    gate_elements = [] if heat_map is None else [embed(heat_map, class_="over" if image_elements else None)]
    return frame(*image_elements, *gate_elements, label=label, class_="plane")


def frame(*elements: Markup, label: str, class_: str) -> Markup:
    """Return an svg with a viewBox of 100 × 100; the style sheet sets its aspect ratio to that of the images."""
    view = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none"}
    return element("svg", *elements, class_=class_, **view, role="img", aria_label=label)


def embed(image: Image.Image, file_format: Literal["PNG", "JPEG"] = "PNG", **attributes: str | None) -> Markup:
    """Return an image element that embeds ``image``."""
    file = io.BytesIO()
    image.save(file, file_format, optimize=True, quality=90)
    href = f"data:image/{file_format.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return element("image", href=href, width=100, height=100, preserveAspectRatio="none", **attributes)
