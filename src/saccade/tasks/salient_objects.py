"""Salient object detection: every class of a mask but the background is salient.

The map S is the sigmoid of the logits, G the salient pixels. The loss is the binary cross-entropy plus

    IoU = mean of 1 − ΣSG/Σ(S + G − SG) over the images with a salient pixel

as in BASNet (Qin et al., CVPR 2019) without its third term. Void pixels do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.data.samples import VOID
from saccade.errors import UserError
from saccade.escaping import brief
from saccade.heat_maps import draw_heat_map
from saccade.metrics.metric import Metric
from saccade.metrics.rows import concatenate
from saccade.metrics.salient_objects import adaptive_f, f_curve, mean_absolute_error, s_measure, scale_to_range
from saccade.models import create_host, dense_model, host_as_saved
from saccade.tasks.base import Drawing, Subject, Task, logits_problem

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows
    from saccade.recipe import Model

__all__ = ["SalientObjects"]

_BACKGROUND_NAMES = ("background", "0")
"""Lower-case names of the first class; 0 if no file names the classes."""
_MAX_UNNAMED = 32
"""Number of classes without names from which masks are taken for grey levels."""
_CHUNK = 16


def _max_f(rows: Rows) -> float:
    return float(rows["f_curve"].double().mean(0).max())


def _max_f_without(rows: Rows, units: Tensor) -> Tensor:
    curves, n_units = rows["f_curve"].double(), int(units.max()) + 1
    sums = curves.new_zeros(n_units, curves.shape[1]).index_add_(0, units, curves)
    sizes = units.bincount(minlength=n_units)
    return (curves.sum(0) - sums).amax(1) / (len(curves) - sizes)


_PLAIN: dict[str, Any] = {"unit": "", "low": 0.0, "high": 1.0, "digits": 3}


@final
class SalientObjects(Task):
    """Salient objects: the network maps images (B, C, H, W) to one tensor of logits (B, 1, H, W).

    Rows: ``s_measure``, ``adaptive_f`` and ``mae`` (N,), float64; ``f_curve`` (N, 256), float32; ``salient`` (N,), the
    number of salient pixels.
    """

    target = "mask"
    is_default = False
    has_positions = True
    has_label_smoothing = False
    metrics = (
        Metric(name="S-measure", margin=0.01, values=lambda rows: rows["s_measure"].double(), **_PLAIN),
        Metric(name="max F", margin=0.01, score=_max_f, score_without=_max_f_without, **_PLAIN),
        Metric(name="adaptive F", margin=0.01, values=lambda rows: rows["adaptive_f"].double(), **_PLAIN),
        Metric(
            name="MAE", margin=0.005, higher_is_better=False, values=lambda rows: rows["mae"].double(),
            **_PLAIN | {"digits": 4},
        ),
    )  # fmt: skip
    truth_keys = ("salient",)

    def build(self, model: Model) -> nn.Module:
        self._check_masks()
        return create_host(dense_model(model), 1, self.data.channels)

    def _check_masks(self) -> None:
        classes, test = self.data.classes, self.data.test
        if not classes or classes[0].lower() not in _BACKGROUND_NAMES:
            found = f"the first is {brief(classes[0])!r}" if classes else "the masks have no class"
            raise UserError(
                f"every class of the masks but the first is salient, and the first must be called background; {found}"
            )
        if len(classes) > _MAX_UNNAMED and classes == [str(n) for n in range(len(classes))]:
            raise UserError(
                f"the masks have {len(classes)} classes without names, as grey levels have; set data.options.threshold "
                "= 128 if pixels above 128 are salient, or name the classes in classes.txt"
            )
        if n_void := sum(bool((test.target(i) == VOID).all()) for i in range(len(test))):
            raise UserError(f"{n_void} of {len(test)} test masks are void everywhere, so that nothing can be scored")
        for name, part in (("training", self.data.train), ("test", test)):
            if not any(bool(_is_salient(_mask(part.target(i))).any()) for i in range(len(part))):
                raise UserError(f"no pixel of the {len(part)} {name} masks is salient: every class but the first is")

    def host(self, model: Model) -> Mapping[str, Any]:
        return host_as_saved(dense_model(model), 1, self.data.channels)

    def output_problem(self, output: Any, images: Tensor) -> str | None:
        problem = logits_problem(output, (len(images), 1, *images.shape[2:]))
        # Without a gradient, probabilities look like logits between 0 and 1.
        if problem is None and type(output.grad_fn).__name__ == "SigmoidBackward0":
            return "gives probabilities, the output of a sigmoid; logits are needed: remove the sigmoid"
        return problem

    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        logits = network(images)[:, 0].float()
        labelled, salient = targets != VOID, _is_salient(targets).float()
        entropy = F.binary_cross_entropy_with_logits(logits, salient, reduction="none") * labelled
        predicted = logits.sigmoid() * labelled
        overlap = (predicted * salient).sum((1, 2))
        union = (predicted + salient).sum((1, 2)) - overlap
        is_present = salient.sum((1, 2)) > 0
        distance = torch.where(is_present, 1 - overlap / torch.where(is_present, union, 1), 0)
        return {
            "cross-entropy": entropy.sum() / labelled.sum().clamp(min=1),
            "IoU": distance.sum() / is_present.sum().clamp(min=1),
        }

    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        return _measure(network(images)[:, 0].double().sigmoid(), targets)

    def _test_masks(self) -> Iterator[Tensor]:
        test = self.data.test
        for start in range(0, len(test), _CHUNK):
            yield torch.stack([_mask(test.target(i)) for i in range(start, min(start + _CHUNK, len(test)))])

    def trivial_baseline(self) -> tuple[str, Rows]:
        train = self.data.train
        salient = torch.zeros(self.data.size, dtype=torch.float64)
        labelled = torch.zeros_like(salient)
        for i in range(len(train)):
            mask = _mask(train.target(i))
            salient += _is_salient(mask)
            labelled += mask != VOID
        mean = salient / labelled.clamp(min=1)
        batches = [_measure(mean.expand(masks.shape), masks) for masks in self._test_masks()]
        return "the mean training mask", concatenate(batches)

    def subjects(self, i: int) -> list[Subject]:
        region = _is_salient(_mask(self.data.test.target(i)))
        return [Subject(0, "salient", region)] if region.any() else []

    def draw(self, indices: Sequence[int], network: nn.Module | None) -> list[Drawing]:
        masks = torch.stack([_mask(self.data.test.target(i)) for i in indices])
        if network is None:
            salient = _is_salient(masks)
            captions = [f"{100 * share:.0f}\u202f% salient" for share in salient.double().mean((1, 2)).tolist()]
            maps = salient.double()
        else:
            maps = network(self.images(indices))[:, 0].double().sigmoid()
            captions = [f"S-measure {value:.2f}" for value in _measure(maps, masks)["s_measure"].tolist()]
        return [
            Drawing(caption, None, draw_heat_map(values), smooth=True)
            for caption, values in zip(captions, maps, strict=True)
        ]


def _mask(target: Any) -> Tensor:
    return torch.as_tensor(target).as_subclass(Tensor)


def _is_salient(masks: Tensor) -> Tensor:
    return (masks > 0) & (masks != VOID)


def _measure(probabilities: Tensor, masks: Tensor) -> Rows:
    """Return the rows of ``probabilities`` and ``masks``, both (B, H, W)."""
    labelled, salient = masks != VOID, _is_salient(masks)
    is_finite = torch.isfinite(probabilities).all((1, 2))
    maps = scale_to_range(probabilities.where(is_finite[:, None, None], 0), labelled)
    measures = {
        "s_measure": s_measure(maps, salient, labelled),
        "adaptive_f": adaptive_f(maps, salient, labelled),
        "mae": mean_absolute_error(maps, salient, labelled),
    }
    return {
        **{key: values.where(is_finite, torch.nan) for key, values in measures.items()},
        "f_curve": f_curve(maps, salient, labelled).float(),
        "salient": salient.sum((1, 2)),
    }
