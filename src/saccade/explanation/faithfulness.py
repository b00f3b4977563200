r"""Faithfulness of a map: how much the probability of the class depends on the pixels that the map marks.

    deletion    ∫ p(the most salient k removed) dk           small if faithful
    insertion   ∫ p(all but the most salient k removed) dk   large if faithful
    road        mean_k (p(the least salient k removed) − p(the most salient k removed)) / 2

p is the probability, k a fraction of the pixels; integrals follow the trapezoidal rule over equal steps.

Sources: Petsiuk et al., RISE, arXiv:1806.07421; Rong et al., ROAD, arXiv:2202.00449, in the package grad-cam.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from saccade.errors import UserError, did_you_mean
from saccade.explanation.class_probabilities import class_probabilities
from saccade.explanation.random_maps import pixel_ranks, random_maps
from saccade.graph.states import without_gradients

__all__ = ["METHODS", "Faithfulness", "deletion", "faithfulness", "insertion", "road"]

Probability = Callable[[Tensor], Tensor]

_STEPS = 16
_FRACTIONS = (0.2, 0.4, 0.6, 0.8)
_BLUR = 1 / 20
"""Standard deviation of the blur as a fraction of the longer side."""


@dataclass(frozen=True)
class Faithfulness:
    """Scores (B,) of maps, of random maps with the same values, and of the map of the centre if given."""

    method: str
    score: Tensor
    random: Tensor
    centre: Tensor | None = None

    @property
    def difference(self) -> Tensor:
        """Advantage over the random map (B,), positive if the map is more faithful."""
        return self._advantage(self.random)

    @property
    def difference_from_centre(self) -> Tensor | None:
        """Advantage over the map of the centre (B,)."""
        return None if self.centre is None else self._advantage(self.centre)

    def _advantage(self, baseline: Tensor) -> Tensor:
        return baseline - self.score if self.method == "deletion" else self.score - baseline


def deletion(
    model: nn.Module, images: Tensor, maps: Tensor, classes: Sequence[int | None] | None = None, *,
    multilabel: bool = False, seed: int = 0, steps: int = _STEPS, fill: str = "mean",
) -> Tensor:  # fmt: skip
    """Return the integral (B,) while the most salient pixels are removed.

    Args:
        model: classifier, multi-label or segmentation network.
        images: images (B, C, H, W) as the network expects them.
        maps: saliency (B, H, W).
        classes: class of each image; None for the predicted one.
        multilabel: whether classes do not exclude each other.
        seed: seed + i ranks equal values of map i.
        steps: number of portions to remove.
        fill: ``mean`` of the channel, or ``blur``.

    Raises:
        UserError: a wrong shape or value, or the network is a detector.
    """
    with _opened(model, images, maps, classes, multilabel) as probability:
        return _integral(probability, _filled(images, fill), images, maps, seed, steps)


def insertion(
    model: nn.Module, images: Tensor, maps: Tensor, classes: Sequence[int | None] | None = None, *,
    multilabel: bool = False, seed: int = 0, steps: int = _STEPS, fill: str = "blur",
) -> Tensor:  # fmt: skip
    """Return the integral (B,) while the most salient pixels are put into ``fill``; see ``deletion``."""
    with _opened(model, images, maps, classes, multilabel) as probability:
        return _integral(probability, images, _filled(images, fill), maps, seed, steps)


def road(
    model: nn.Module, images: Tensor, maps: Tensor, classes: Sequence[int | None] | None = None, *,
    multilabel: bool = False, seed: int = 0, fractions: Sequence[float] = _FRACTIONS,
) -> Tensor:  # fmt: skip
    """Return half of the mean difference (B,); ``fractions`` of the pixels are removed.

    It takes about a second per image and fraction at 224×224 pixels. See ``deletion``; raises UserError too.
    """
    if not fractions or not all(0 < fraction < 1 for fraction in fractions):
        raise UserError(f"fractions = {list(fractions)}: numbers between 0 and 1 are needed")
    removers = _removers()
    mean = torch.zeros(len(images))
    with _opened(model, images, maps, classes, multilabel) as probability:
        # Of a map that is mostly 0, the package would remove all pixels; ranks have no equal values.
        saliency = 1 - pixel_ranks(maps, seed).cpu().double() / max(maps[0].numel() - 1, 1)
        for fraction in fractions:
            least, most = (
                probability(torch.stack([
                    _impute(remove(percentile=100 * (1 - fraction)).perturbation, image, ranks, seed + i)
                    for i, (image, ranks) in enumerate(zip(images, saliency, strict=True))
                ]))
                for remove in removers
            )  # fmt: skip
            mean += (least - most).cpu() / (2 * len(fractions))
    return mean


_FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {"deletion": deletion, "insertion": insertion, "road": road}
METHODS = tuple(_FUNCTIONS)


def faithfulness(
    model: nn.Module, images: Tensor, maps: Tensor, classes: Sequence[int | None] | None = None, *,
    method: str = "insertion", seed: int = 0, centre: Tensor | None = None, **options: Any,
) -> Faithfulness:  # fmt: skip
    """Return the scores of ``maps`` (B, H, W), of random maps with the same values, and of the map ``centre`` (H, W).

    The random map of image i is drawn with ``seed`` + i; ``options`` are those of the function ``method``. Raises
    UserError as that does.
    """
    if method not in _FUNCTIONS:
        raise UserError(f"no measure of faithfulness is called {method!r}.{did_you_mean(method, _FUNCTIONS)}")
    if centre is not None and centre.shape != maps.shape[1:]:
        raise UserError(f"centre has the shape {tuple(centre.shape)}; {tuple(maps.shape[1:])} is needed")

    def score(scored: Tensor) -> Tensor:
        return _FUNCTIONS[method](model, images, scored, classes, seed=seed, **options)

    return Faithfulness(
        method=method,
        score=score(maps),
        random=score(random_maps(maps, seed)),
        centre=None if centre is None else score(centre.to(maps).expand_as(maps)),
    )


@contextmanager
def _opened(
    model: nn.Module, images: Tensor, maps: Tensor, classes: Sequence[int | None] | None, multilabel: bool
) -> Iterator[Probability]:
    """Yield the function from images to probabilities."""
    if images.ndim != 4 or not len(images) or maps.shape != (len(images), *images.shape[2:]):
        raise UserError(
            f"maps of the shape {tuple(maps.shape)} do not fit images of the shape {tuple(images.shape)}: "
            "one map (height, width) per image is needed"
        )
    if not maps.is_floating_point() or not bool(maps.isfinite().all()):
        raise UserError("maps must be finite floating-point numbers")
    with without_gradients(model):
        yield class_probabilities(model, images, classes, multilabel=multilabel)


def _filled(images: Tensor, fill: str) -> Tensor:
    """Return images (B, C, H, W) in which every pixel is removed."""
    if fill == "mean":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    if fill != "blur":
        raise UserError(f"fill = {fill!r}: 'mean' or 'blur' is needed")
    height, width = images.shape[2:]
    sigma = _BLUR * max(height, width)
    radius = min(math.ceil(3 * sigma), height - 1, width - 1)  # the limit of padding by reflection
    return gaussian_blur(images, 2 * radius + 1, sigma)


def _integral(probability: Probability, salient: Tensor, rest: Tensor, maps: Tensor, seed: int, steps: int) -> Tensor:
    """Return the integral (B,) while pixels of ``salient`` replace those of ``rest``."""
    if steps < 1:
        raise UserError(f"steps = {steps}: at least 1 is needed")
    ranks = pixel_ranks(maps, seed).to(rest.device)[:, None]
    n_pixels = ranks[0].numel()
    counts = [round(step * n_pixels / steps) for step in range(steps + 1)]
    curve = torch.stack([probability(torch.where(ranks < count, salient, rest)) for count in counts])  # (steps + 1, B)
    return torch.trapezoid(curve, dim=0).div(steps).cpu()


def _removers() -> tuple[Any, Any]:
    """Return the classes of grad-cam that remove the least and the most salient pixels."""
    try:
        from pytorch_grad_cam.metrics.road import ROADLeastRelevantFirst, ROADMostRelevantFirst
    except ImportError as error:
        raise UserError(
            f"road needs the package grad-cam, which cannot be imported ({error}); install it with "
            'pip install "saccade-attention[explain]"'
        ) from None
    return ROADLeastRelevantFirst, ROADMostRelevantFirst


def _impute(perturbation: Callable[[Tensor, Tensor], Tensor], image: Tensor, saliency: Tensor, seed: int) -> Tensor:
    """Return ``image`` (C, H, W) without the pixels that ``perturbation`` removes."""
    torch.default_generator.manual_seed(seed)  # restored by without_gradients
    with warnings.catch_warnings():
        # The package hands a tensor to np.argwhere.
        warnings.filterwarnings("ignore", message="__array_wrap__ must accept", category=DeprecationWarning)
        return perturbation(image.detach().cpu().float(), saliency).to(image)
