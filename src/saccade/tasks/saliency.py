"""Prediction of where people look: a density over the pixels, measured against eye fixations.

The density Q is the softmax of the logits over all pixels. The truth P is the map of fixations, 0 outside the image,
blurred by a Gaussian of ``task.sigma`` pixels and divided by its sum.

    loss = mean of Σ P·log(P/Q) over the images with fixations

The negatives of shuffled AUC are at most 10,000 fixations of training images, drawn with a fixed seed, the same for
every test image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from saccade.errors import UserError
from saccade.heat_maps import draw_heat_map
from saccade.metrics.fixations import (
    CENTRE_SIGMA,
    SIGMA,
    auc,
    auc_judd,
    blur,
    correlation,
    count_fixations,
    gaussian_at_centre,
    kl_divergence,
    normalise,
    nss,
    similarity,
)
from saccade.metrics.metric import Metric
from saccade.metrics.rows import concatenate
from saccade.models import create_host, dense_model, host_as_saved
from saccade.tasks.base import Drawing, Task, logits_problem

if TYPE_CHECKING:
    from saccade.metrics.rows import Rows
    from saccade.recipe import Model

__all__ = ["Saliency"]

_N_NEGATIVES = 10_000
_CHUNK = 16


def _metric(name: str, key: str, margin: float, low: float | None, high: float | None, higher: bool = True) -> Metric:
    return Metric(
        name=name, unit="", margin=margin, low=low, high=high, higher_is_better=higher, digits=3,
        values=lambda rows: rows[key].double(),
    )  # fmt: skip


@final
class Saliency(Task):
    """Densities of fixations: the network maps images (B, C, H, W) to one tensor of logits (B, 1, H, W).

    Rows, each (N,): ``nss``, ``cc``, ``kl``, ``sim``, ``auc_judd`` and ``auc_shuffled``, float64; ``fixations``, the
    number of fixations.
    """

    target = "fixations"
    metrics = (
        _metric("NSS", "nss", 0.05, None, None),
        _metric("CC", "cc", 0.01, -1.0, 1.0),
        _metric("KL", "kl", 0.02, 0.0, None, higher=False),
        _metric("SIM", "sim", 0.01, 0.0, 1.0),
        _metric("AUC-Judd", "auc_judd", 0.005, 0.0, 1.0),
        _metric("shuffled AUC", "auc_shuffled", 0.005, 0.0, 1.0),
    )
    truth_keys = ("fixations",)
    has_sigma = True
    has_positions = True
    has_label_smoothing = False

    @property
    def sigma(self) -> float:
        """Standard deviation in pixels of the Gaussian that fixations are blurred with."""
        return self.recipe.task.sigma or SIGMA * max(self.data.size)

    def build(self, model: Model) -> nn.Module:
        test = self.data.test
        if n_without := sum(not len(test.target(i)["points"]) for i in range(len(test))):
            height, width = self.data.size
            raise UserError(
                f"{n_without} of {len(test)} test images have no fixation within the {height}×{width} pixels that are "
                'used, so that nothing can be scored on them; set data.resize = "pad" or "stretch" to cut nothing off'
            )
        return create_host(dense_model(model), 1, self.data.channels)

    def host(self, model: Model) -> Mapping[str, Any]:
        return host_as_saved(dense_model(model), 1, self.data.channels)

    def output_problem(self, output: Any, images: Tensor) -> str | None:
        if problem := logits_problem(output, (len(images), 1, *images.shape[2:])):
            return problem
        if bool((output >= 0).all()) and torch.allclose(output.sum((1, 2, 3)), torch.ones(()), atol=1e-4):
            return "gives a density, which adds up to 1 over the pixels; logits are needed: remove the softmax"
        return None

    def loss(self, network: nn.Module, images: Tensor, targets: Any) -> dict[str, Tensor]:
        log_density = network(images).float().flatten(1).log_softmax(1)
        counts = self._counts(targets).float()
        truth = self._density(counts).flatten(1)
        divergences = (torch.xlogy(truth, truth) - truth * log_density).sum(1)
        is_seen = counts.sum((1, 2)) > 0
        return {"KL": (divergences * is_seen).sum() / is_seen.sum().clamp(min=1)}

    def rows(self, network: nn.Module, images: Tensor, targets: Any) -> Rows:
        return self._measure(_predict(network, images), self._counts(targets))

    def _counts(self, targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        return count_fixations([target["points"] for target in targets], self.data.size)

    def _density(self, counts: Tensor) -> Tensor:
        return normalise(blur(counts, self.sigma))

    def _measure(self, density: Tensor, counts: Tensor) -> Rows:
        truth = self._density(counts)
        negatives = self._negatives.to(counts.device).expand_as(counts)
        return {
            "nss": nss(density, counts),
            "cc": correlation(density, truth),
            "kl": kl_divergence(density, truth),
            "sim": similarity(density, truth),
            "auc_judd": auc_judd(density, counts),
            "auc_shuffled": auc(density, counts, negatives),
            "fixations": counts.sum((1, 2)).long(),
        }

    @cached_property
    def _negatives(self) -> Tensor:
        """Sampled training fixations per pixel (H, W)."""
        train = self.data.train
        points = torch.cat([train.target(i)["points"].as_subclass(Tensor) for i in range(len(train))])
        order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
        return count_fixations([points[order[:_N_NEGATIVES]]], self.data.size)[0]

    def _measure_test(self, measure: Callable[[list[Any]], Rows]) -> Rows:
        """Return the rows of all test images; ``measure`` maps targets to rows."""
        targets = [self.data.test.target(i) for i in range(len(self.data.test))]
        return concatenate([measure(targets[n : n + _CHUNK]) for n in range(0, len(targets), _CHUNK)])

    def _measure_constant(self, density: Tensor) -> Rows:
        """Return the rows of all test images for one ``density`` (1, H, W)."""

        def measure(targets: list[Any]) -> Rows:
            counts = self._counts(targets)
            return self._measure(density.expand_as(counts), counts)

        return self._measure_test(measure)

    def trivial_baseline(self) -> tuple[str, Rows]:
        mean = torch.zeros(1, *self.data.size, dtype=torch.float64)
        for i in range(len(self.data.train)):
            counts = self._counts([self.data.train.target(i)])
            mean += counts / counts.sum().clamp(min=1)
        return "where training images are looked at", self._measure_constant(self._density(mean))

    def references(self) -> dict[str, Rows]:
        """Return the rows of a Gaussian at the centre, and of one half of the viewers predicting the other.

        The viewers of an image alternate between the halves; the results of both directions are averaged. Left out
        unless two viewers of every test image are known.
        """
        centre = gaussian_at_centre(self.data.size, CENTRE_SIGMA * max(self.data.size))
        references = {"a Gaussian at the centre": self._measure_constant(centre)}
        test = self.data.test
        if all(_has_two_viewers(test.target(i)["viewers"]) for i in range(len(test))):
            references["one half of the viewers predicts the other"] = self._measure_test(self._measure_halves)
        return references

    def _measure_halves(self, targets: list[Any]) -> Rows:
        halves = [self._counts([_half(target, n) for target in targets]) for n in (0, 1)]
        results = [self._measure(self._density(halves[n]), halves[1 - n]) for n in (0, 1)]
        rows = {key: (first + results[1][key]) / 2 for key, first in results[0].items()}
        return {**rows, "fixations": (halves[0] + halves[1]).sum((1, 2)).long()}

    def draw(self, indices: Sequence[int], network: nn.Module | None) -> list[Drawing]:
        counts = self._counts([self.data.test.target(i) for i in indices])
        if network is None:
            captions = [f"{n:.0f} fixations" for n in counts.sum((1, 2)).tolist()]
            density = self._density(counts)
        else:
            density = _predict(network, self.images(indices))
            captions = [f"NSS {value:.2f}" for value in nss(density, counts).tolist()]
        pictures = [draw_heat_map(values / values.max()) for values in density]
        return [
            Drawing(caption, None, picture, smooth=True) for caption, picture in zip(captions, pictures, strict=True)
        ]


def _predict(network: nn.Module, images: Tensor) -> Tensor:
    """Return the density (B, H, W), float64, for images (B, C, H, W)."""
    logits = network(images).double()
    return logits.flatten(1).softmax(1).view(len(images), *images.shape[2:])


def _has_two_viewers(viewers: Tensor) -> bool:
    return len(viewers) > 0 and int(viewers.min()) >= 0 and len(viewers.unique()) > 1


def _half(target: Mapping[str, Tensor], half: int) -> dict[str, Tensor]:
    """Return the fixations of every second viewer."""
    rank = target["viewers"].unique(return_inverse=True)[1]
    return {"points": target["points"].as_subclass(Tensor)[rank % 2 == half]}
