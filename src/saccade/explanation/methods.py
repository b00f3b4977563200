"""The methods for activation maps: the classes of the package ``grad-cam`` that work on any of our networks."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

from saccade.errors import UserError, did_you_mean

__all__ = ["METHODS", "Method", "find_method", "method_class"]


class Method(NamedTuple):
    """One method.

    Attributes:
        class_name: class in ``pytorch_grad_cam``.
        title: name in captions.
        source: paper.
        uses_gradients: False if the map needs no gradient of the score.
        reruns: True if the network runs again for each channel of the layer.
    """

    class_name: str
    title: str
    source: str
    uses_gradients: bool = True
    reruns: bool = False


METHODS = {
    "gradcam": Method("GradCAM", "Grad-CAM", "Selvaraju et al., arXiv:1610.02391"),
    "gradcam++": Method("GradCAMPlusPlus", "Grad-CAM++", "Chattopadhay et al., arXiv:1710.11063"),
    "layercam": Method("LayerCAM", "LayerCAM", "Jiang et al., IEEE TIP 2021"),
    "hirescam": Method("HiResCAM", "HiResCAM", "Draelos et al., arXiv:2011.08891"),
    "xgradcam": Method("XGradCAM", "XGrad-CAM", "Fu et al., arXiv:2008.02312"),
    "eigencam": Method("EigenCAM", "Eigen-CAM", "Muhammad and Yeasin, arXiv:2008.00299", uses_gradients=False),
    "scorecam": Method("ScoreCAM", "Score-CAM", "Wang et al., arXiv:1910.01279", uses_gradients=False, reruns=True),
    "ablationcam": Method("AblationCAM", "Ablation-CAM", "Desai and Ramaswamy, WACV 2020", False, True),
}
"""Maps name to method. Eigen-CAM shows no class, and its sign is arbitrary."""


def find_method(name: str) -> Method:
    """Return the method ``name``; raise UserError for an unknown name."""
    if name.lower() not in METHODS:
        raise UserError(f"no method is called {name!r}.{did_you_mean(name, METHODS)} There are {', '.join(METHODS)}.")
    return METHODS[name.lower()]


def method_class(method: Method) -> Any:
    """Return the class of the package; raise UserError if ``grad-cam`` is not installed."""
    try:
        return getattr(import_module("pytorch_grad_cam"), method.class_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'saccade-attention[explain]'") from error
