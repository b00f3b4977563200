"""Promises about timm's interface of a network: its features, its head and its feature maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saccade.contract.advice import format_error
from saccade.contract.architectures.case import ArchitectureCase
from saccade.contract.harness import BrokenPromiseError, UntestableError, distance, expect

__all__ = ["gives_feature_maps", "resets_its_classifier", "splits_into_features_and_head"]

MAX_DIFFERENCE = 1e-12


def splits_into_features_and_head(case: ArchitectureCase) -> None:
    """``forward`` is ``forward_head(forward_features(x))``; with ``pre_logits=True`` the classifier is left out.

    The classifier of timm's interface is ``get_classifier()``, and its inputs have ``head_hidden_size`` channels.
    """
    network: Any = case.build_randomized()
    _require(network, "forward_features", "forward_head")
    x = case.random_maps()
    features = network.forward_features(x)
    error = distance(network.forward_head(features), case.logits(network, x))
    expect(error < MAX_DIFFERENCE, f"forward differs from forward_head(forward_features(x)) by {error:.1e}")
    hidden: Tensor = network.forward_head(features, pre_logits=True)
    size = getattr(network, "head_hidden_size", None)
    expect(
        hidden.shape[1:] == (size,),
        f"forward_head(…, pre_logits=True) gives {tuple(hidden.shape)}; head_hidden_size says {size}",
    )
    if hasattr(network, "get_classifier"):
        classifier = network.get_classifier()
        error = distance(classifier(hidden), case.logits(network, x))
        expect(error < MAX_DIFFERENCE, f"get_classifier() of pre_logits differs from forward by {error:.1e}")


def resets_its_classifier(case: ArchitectureCase) -> None:
    """After ``reset_classifier(n)`` there are n logits of the same dtype; n = 0, also at first, gives the features."""
    network: Any = case.build_randomized()
    _require(network, "reset_classifier")
    x, num_classes = case.random_maps(), case.num_classes + 2
    features = _features(network, x)
    network.reset_classifier(num_classes)  # keeps the dtype, float64
    y = case.logits(network, x)
    case.expect_logits(y, x, num_classes, f"after reset_classifier({num_classes})")
    found = getattr(network, "num_classes", None)
    expect(found == num_classes, f"after reset_classifier({num_classes}) num_classes is {found}")
    network.reset_classifier(0)
    if features is not None:
        error = distance(network(x), features)
        expect(error < MAX_DIFFERENCE, f"after reset_classifier(0) the output differs from pre_logits by {error:.1e}")
        built = case.randomized(case.build(0)).double()(x)
        expect(
            built.shape == features.shape,
            f"built with num_classes = 0 it gives {tuple(built.shape)}, pre_logits are {tuple(features.shape)}",
        )


def gives_feature_maps(case: ArchitectureCase) -> None:
    """With ``features_only=True`` there are maps, of the channels and reductions in ``feature_info``."""
    if not case.accepts("features_only"):
        raise UntestableError("features_only is not an argument")
    _require(case.build(), "forward_features")
    try:
        network: Any = case.randomized(case.build(features_only=True)).double()
        info = network.feature_info
    except Exception as error:
        raise BrokenPromiseError(f"features_only=True: {format_error(error)}") from error
    x = case.random_maps()
    maps = network(x)
    expected = list(zip(info.channels(), info.reduction(), strict=True))
    expect(len(maps) == len(expected) > 0, f"{len(maps)} maps; feature_info lists {len(expected)}")
    for index, (y, (channels, reduction)) in enumerate(zip(maps, expected, strict=True)):
        expect(
            y.shape[1] == channels, f"map {index} has {y.shape[1]} channels; feature_info says {channels} ({y.shape})"
        )
        for side, image_side in zip(y.shape[2:], x.shape[2:], strict=True):
            expect(
                image_side // reduction <= side <= -(-image_side // reduction),
                f"map {index} has sides {tuple(y.shape[2:])} for images of {tuple(x.shape[2:])}; feature_info says "
                f"that it is {reduction} times smaller",
            )
        expect(bool(y.isfinite().all()), f"map {index} has values that are not finite")


def _features(network: Any, x: Tensor) -> Tensor | None:
    """Return the classifier's inputs (B, N) for x (B, C, H, W), or None without timm's interface."""
    if not hasattr(network, "forward_features"):
        return None
    with torch.no_grad():
        features: Tensor = network.forward_head(network.forward_features(x), pre_logits=True)
    return features


def _require(network: nn.Module, *methods: str) -> None:
    """Raise UntestableError unless ``network`` has ``methods``."""
    for method in methods:
        if not hasattr(network, method):
            raise UntestableError(f"the network has no {method}")
