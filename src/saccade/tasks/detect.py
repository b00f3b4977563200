"""Object detection: trained with the detector's own losses; reports COCO's average precision.

The recipe's section ``data`` resizes and normalises the images; Saccade's detectors do neither. Inside a network,
class 0 is the background and labels are 1 to K, as in torchvision; everywhere else they are 0 to K − 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_iou

from saccade.errors import UserError
from saccade.escaping import brief, printable
from saccade.metrics.average_precision import METRICS, scored_classes
from saccade.metrics.by_value import restrict
from saccade.metrics.enough import is_enough
from saccade.metrics.localisation import box_region
from saccade.metrics.matching import AREAS, match
from saccade.metrics.metric import Metric
from saccade.metrics.rows import select_images
from saccade.models import DEFAULT_DETECTOR, create_host, host_as_saved, is_detector
from saccade.tasks.base import Box, Drawing, Subject, Task

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows
    from saccade.recipe import Model

__all__ = ["Detect"]

_SCORE_FROM = 0.5
"""Score from which a detection is drawn."""
_MAX_LISTED = 40
"""Number of classes that a sentence lists."""
_TYPICAL_IMAGES = 1000
"""Largest number of training images whose boxes the trivial prediction is chosen from."""
_TYPICAL_BOXES = 100
"""Largest number of boxes of the trivial prediction."""
_KEYS = {"boxes": (2, "XYXY (n, 4)"), "labels": (1, "(n,)"), "scores": (1, "(n,)")}


@final
class Detect(Task):
    """Detection: in eval mode the network maps images (B, C, H, W) to a list of B dictionaries.

    Each has ``boxes`` (n, 4), XYXY in pixels of the image; ``labels`` (n,), 1 to K; ``scores`` (n,), 0 to 1. In
    training mode ``network(images, targets)`` returns a dictionary of losses.

    Rows: the match tables of ``saccade.metrics.matching``; ``scored`` (N, K, 4), the same in every row, True for the
    classes and area ranges with a counted box in any test image.
    """

    target = "objects"
    metrics = METRICS
    truth_keys = ("truth/offsets", "truth/label", "truth/counted", "scored")
    has_positions = True

    @cached_property
    def _scored(self) -> Tensor:
        """True (K, 4) for the classes and area ranges with a counted box in any test image."""
        test = self.data.test
        truths = [_plain(test.target(i)) for i in range(len(test))]
        return scored_classes(match([_no_boxes()] * len(truths), truths), len(self.data.classes))

    def _detector(self, model: Model) -> Model:
        """Return ``model`` if it is a detector, else the default detector with ``model`` as its encoder."""
        if is_detector(model.name):
            return model
        options = {"encoder": model.name, "encoder_options": model.options}
        return model.model_copy(update={"name": DEFAULT_DETECTOR, "options": options})

    def build(self, model: Model) -> nn.Module:
        if smoothing := self.recipe.training.label_smoothing:
            raise UserError(
                f"training.label_smoothing = {smoothing:g}: a detector has losses of its own, without smoothing; leave "
                "it out"
            )
        host = create_host(self._detector(model), len(self.data.classes) + 1, self.data.channels)
        self._check_normalised_once(host, model.name)
        return host

    def _check_normalised_once(self, host: nn.Module, name: str) -> None:
        """Raise UserError if ``host`` normalises images that are already normalised."""
        is_normalised = any(self.data.mean) or any(value != 1 for value in self.data.std)
        for module in host.modules():
            if (
                is_normalised
                and isinstance(module, GeneralizedRCNNTransform)
                and (any(module.image_mean) or any(value != 1 for value in module.image_std))
            ):
                raise UserError(
                    f"model {name} normalises images itself, with image_mean = {list(module.image_mean)} and image_std "
                    f"= {list(module.image_std)}, and the data are normalised too; set data.mean = 0 and data.std = 1 "
                    "(--set data.mean=0 --set data.std=1), or build it with image_mean=[0, 0, 0], image_std=[1, 1, 1]"
                )

    def host(self, model: Model) -> Mapping[str, Any]:
        return host_as_saved(self._detector(model), len(self.data.classes) + 1, self.data.channels)

    def output_problem(self, output: Any, images: Tensor) -> str | None:
        needed = f"a list of {len(images)} dictionaries with boxes, labels and scores is needed"
        if not isinstance(output, Sequence) or isinstance(output, str):
            keys = f" with {', '.join(map(repr, output))}" if isinstance(output, Mapping) else ""
            return f"gives a {type(output).__name__}{keys}; {needed}"
        if len(output) != len(images):
            return f"gives a {type(output).__name__} of {len(output)} for {len(images)} images; {needed}"
        problems = (_prediction_problem(found, len(self.data.classes)) for found in output)
        if (problem := next(filter(None, problems), None)) is not None:
            return problem
        boxes = torch.cat([found["boxes"] for found in output])
        if bool(((boxes >= 0) & (boxes <= 1)).all()) and bool((boxes % 1).any()):
            return "gives boxes within 0 to 1; pixels of the image are needed: multiply them by its width and height"
        return None

    def training_problem(self, network: nn.Module, images: Tensor) -> str | None:
        height, width = images.shape[2:]
        box = torch.tensor([[0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]], device=images.device)

        def losses_for(label: int) -> Any:
            labels = torch.full((1,), label, device=images.device)
            return network(images, [{"boxes": box.clone(), "labels": labels} for _ in images])

        last = len(self.data.classes)
        try:
            losses = losses_for(last)
        except Exception as error:
            losses_for(1)  # another fault raises here too
            return (
                f"fails on the label {last} ({brief(error, 100)}), but not on 1; labels are 1 to {last}, and "
                f"num_classes = {last + 1} counts the background"
            )
        if isinstance(losses, Mapping) and losses and all(_is_scalar(loss) for loss in losses.values()):
            return None
        return (
            f"gives a {type(losses).__name__} for images and targets; a dictionary of scalar losses is needed, or a "
            "method training_loss(images, targets) that returns one"
        )

    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        losses = network(images, self.network_targets(targets))
        return {name: loss.float() for name, loss in losses.items()}

    def network_targets(self, targets: Any) -> Any:
        return [{**(plain := _plain(target)), "labels": plain["labels"] + 1} for target in targets]

    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        predictions = [_without_background(found) for found in network(images)]
        if not any(len(found["boxes"]) for found in predictions) and not _has_finite_weights(network):
            # Comparisons with NaN are false, so that such a network finds nothing; match keeps the NaN.
            nan = torch.full((1,), torch.nan)
            predictions[0] = {"boxes": nan.expand(1, 4), "labels": torch.zeros(1, dtype=torch.int64), "scores": nan}
        return self._with_scored(match(predictions, [_plain(target) for target in targets]))

    def _with_scored(self, rows: Rows) -> Rows:
        return {**rows, "scored": self._scored.repeat(len(rows["found/offsets"]) - 1, 1, 1)}

    def trivial_baseline(self) -> tuple[str, Rows]:
        train, test, n_classes = self.data.train, self.data.test, len(self.data.classes)
        count = min(len(train), _TYPICAL_IMAGES)
        objects = [_plain(train.target(n * len(train) // count)) for n in range(count)]
        boxes, labels = (torch.cat([target[key] for target in objects]) for key in ("boxes", "labels"))
        n_boxes = max(1, _TYPICAL_BOXES // n_classes)
        found = [_typical_boxes(boxes[labels == k], n_boxes, count, k) for k in range(n_classes)]
        prediction = {key: torch.cat([part[key] for part in found]) for key in _KEYS}
        truths = [_plain(test.target(i)) for i in range(len(test))]
        return "the most frequent boxes", self._with_scored(match([prediction] * len(truths), truths))

    def applicable_metrics(self) -> tuple[Metric, ...]:
        """Return the metrics of the area ranges that test images have.

        Raises:
            UserError: no test image shows an object.
        """
        has_objects = self._scored.any(0)
        if not has_objects[0]:
            raise UserError(f"no object is in any of the {len(self.data.test)} test images; at least one is needed")
        return tuple(metric for metric in self.metrics if has_objects[_area_index(metric)])

    @classmethod
    def metrics_by(
        cls, metrics: Sequence[Metric], column: str, values: Sequence[str], rows: Rows
    ) -> tuple[Metric, ...]:
        """Return ``metrics`` of each of ``values`` that has enough images, over the classes that these show."""
        restricted: list[Metric] = []
        for code, value in enumerate(values):
            chosen = rows["by"] == code
            if bool(is_enough(chosen[:, None], rows.get("group"))):
                images = torch.nonzero(chosen)[:, 0]
                scored = scored_classes(select_images(rows, images), rows["scored"].shape[1])
                restricted += [
                    restrict(metric, f"{metric.name} ({printable(f'{column} = {value}')})", code, {"scored": scored})
                    for metric in metrics
                    if scored[:, _area_index(metric)].any()
                ]
        return tuple(restricted)

    def unscored(self) -> list[str]:
        sentences = super().unscored()
        names = [brief(self.data.classes[k]) for k in torch.nonzero(~self._scored[:, 0])[:, 0].tolist()]
        if names:
            more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
            sentences.append(f"Not scored, for lack of a test image: {', '.join(names[:_MAX_LISTED])}{more}.")
        return sentences

    def subjects(self, i: int) -> list[Subject]:
        """Return the classes of the objects, by the network's labels; regions are unions of masks, else of boxes."""
        target = self.data.test.target(i)
        labels, masks, size = target["labels"], target.get("masks"), self.data.size
        regions = {
            k: box_region(_plain(target)["boxes"][labels == k], size)
            if masks is None
            else masks.as_subclass(Tensor)[labels == k].bool().any(0)
            for k in labels.unique().tolist()
        }
        ranked = sorted(regions, key=lambda k: -int(regions[k].sum()))
        return [Subject(k + 1, self.data.classes[k], regions[k]) for k in ranked]

    def draw(self, indices: Sequence[int], network: nn.Module | None) -> list[Drawing]:
        truths = [_plain(self.data.test.target(i)) for i in indices]
        if network is None:
            counts = [len(truth["boxes"]) for truth in truths]
            captions = [f"{count} object{'s' * (count != 1)}" for count in counts]
            return [Drawing(text, boxes=self._boxes(truth)) for text, truth in zip(captions, truths, strict=True)]
        drawings = []
        for found, truth in zip(network(self.images(indices)), truths, strict=True):
            objects = _without_background(found)
            drawn = {key: values[objects["scores"] >= _SCORE_FROM] for key, values in objects.items()}
            n_hits = int((match([drawn], [truth])["found/hit"][:, 0] & 1).sum())  # at an IoU of 0.5
            caption = f"{n_hits} of {len(truth['boxes'])} found, {len(drawn['boxes']) - n_hits} false"
            drawings.append(Drawing(caption, boxes=self._boxes(drawn)))
        return drawings

    def _boxes(self, objects: Mapping[str, Tensor]) -> tuple[Box, ...]:
        """Return ``objects`` as boxes of a drawing, with classes and scores as text."""
        height, width = self.data.size
        corners = (objects["boxes"].float() / torch.tensor([width, height, width, height])).tolist()
        labels = objects["labels"].tolist()
        texts = [self.data.classes[label] for label in labels]
        if "scores" in objects:
            texts = [f"{text} {score:.2f}" for text, score in zip(texts, objects["scores"].tolist(), strict=True)]
        return tuple(
            Box(left, top, right, bottom, label, text)
            for (left, top, right, bottom), label, text in zip(corners, labels, texts, strict=True)
        )


def _plain(target: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return boxes and labels of ``target`` as plain tensors; torchvision's subclasses slow every operation."""
    return {key: target[key].as_subclass(Tensor) for key in ("boxes", "labels")}


def _area_index(metric: Metric) -> int:
    """Return the index into ``AREAS`` of the area range of ``metric``."""
    return next((n for n, area in enumerate(AREAS) if metric.name == f"AP {area}"), 0)


def _no_boxes() -> dict[str, Tensor]:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}


def _without_background(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's detections of one image without those of the background, with labels from 0."""
    is_object = found["labels"] > 0
    objects = {key: found[key][is_object] for key in _KEYS}
    return {**objects, "labels": objects["labels"] - 1}


def _has_finite_weights(network: nn.Module) -> bool:
    tensors = [*network.parameters(), *network.buffers()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _is_scalar(loss: Any) -> bool:
    return isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point()


def _prediction_problem(found: Any, n_classes: int) -> str | None:
    """Return None if ``found`` is the prediction for one image, else a message for ``output_problem``."""
    if not isinstance(found, Mapping) or not _KEYS.keys() <= found.keys():
        keys = f" with {', '.join(map(repr, found)) or 'no entry'}" if isinstance(found, Mapping) else ""
        return (
            f"gives a {type(found).__name__}{keys} for an image; a dictionary with boxes, labels and scores is needed"
        )
    for key, (ndim, shape) in _KEYS.items():
        value = found[key]
        if not isinstance(value, Tensor) or value.ndim != ndim or len(value) != len(found["boxes"]):
            described = (
                f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"
            )
            return f"gives {key!r} as {described}; a tensor {shape} is needed"
    boxes, labels, scores = (found[key] for key in _KEYS)
    if boxes.shape[1] != 4 or not boxes.is_floating_point():
        return f"gives boxes of {boxes.dtype} and shape {tuple(boxes.shape)}; floating point (n, 4) is needed"
    if labels.is_floating_point() or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= n_classes):
        values = sorted(set(labels.tolist()))[:8]
        return f"gives the labels {values}; integers 1 to {n_classes} are needed, 0 is the background"
    if bool((is_reversed := (boxes[:, 2:] < boxes[:, :2]).any(1)).any()):
        numbers = " ".join(f"{value:.4g}" for value in boxes[is_reversed][0].tolist())
        return f"gives the box {numbers}; left, top, right, bottom are needed, with right ≥ left and bottom ≥ top"
    if len(scores) and not bool(((scores >= 0) & (scores <= 1)).all()):
        return f"gives scores from {float(scores.min()):g} to {float(scores.max()):g}; 0 to 1 is needed"
    return None


def _typical_boxes(boxes: Tensor, n_boxes: int, n_images: int, label: int) -> dict[str, Tensor]:
    """Return up to ``n_boxes`` of the ``boxes`` (n, 4) of one class that most others overlap, as a prediction.

    Each has the most remaining boxes at an IoU of at least 0.5, which then no longer count; its score is their number
    per image.
    """
    # Evenly spaced, because the table of overlaps grows with the square of the number of boxes.
    boxes = boxes[:: -(-len(boxes) // _TYPICAL_IMAGES)] if len(boxes) else boxes
    overlaps = box_iou(boxes, boxes) >= 0.5
    chosen, scores = [], []
    for _ in range(min(n_boxes, len(boxes))):
        counts = overlaps.sum(1)
        best = int(counts.argmax())
        if not counts[best]:
            break
        chosen.append(best)
        scores.append(float(counts[best]) / n_images)
        overlaps[:, overlaps[best].clone()] = False
    labels = torch.full((len(chosen),), label)
    return {"boxes": boxes[chosen], "labels": labels, "scores": torch.tensor(scores).clamp(max=1)}
