"""Controls for scores of heat maps: a Gaussian at the centre, and the network with random weights.

Source of the second: Adebayo et al., NeurIPS 2018, arXiv:1810.03292.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from saccade.errors import UserError
from saccade.metrics.fixations import CENTRE_SIGMA, gaussian_at_centre
from saccade.surgery import Plug
from saccade.surgery.mechanism import Mechanism

__all__ = ["centre_prior", "random_weights"]

_DEFAULT_STATISTICS = {"running_mean": 0.0, "running_var": 1.0, "weight": 1.0, "bias": 0.0}


def centre_prior(size: tuple[int, int]) -> Tensor:
    """Return a Gaussian (H, W) at the centre, float32, with maximum 1 and sigma 3/16 of the longer side."""
    density = gaussian_at_centre(size, CENTRE_SIGMA * max(size))[0]
    return (density / density.max()).float()


def random_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of ``model`` with new random parameters and default running statistics.

    Plugs start as built. Other layers are drawn by their ``reset_parameters``, but convolutions as by He et al., 2015,
    arXiv:1502.01852; parameters without it from a normal distribution of their root mean square.
    """
    network = copy.deepcopy(model)
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    network.cpu()
    scales = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for parameter in network.parameters():
            if parameter.is_floating_point():
                scales[parameter] = float(parameter.double().square().mean().sqrt())
                parameter.fill_(math.nan)  # not yet drawn
        for module in network.modules():
            _draw_layer(module)
        for module in network.modules():
            if isinstance(module, Plug):
                _draw_plug(module)
        for parameter, scale in scales.items():
            if parameter.isnan().any():
                parameter.normal_(0, scale if math.isfinite(scale) else 1.0)
    return network.to(device)


def _draw_layer(module: nn.Module) -> None:
    """Draw the parameters of ``module`` by its own method, if any, and reset running statistics."""
    if parametrize.is_parametrized(module):
        return  # its weight is computed, from NaN so far
    for name in ("reset_parameters", "_reset_parameters"):
        try:
            getattr(module, name, lambda: None)()
        except Exception:  # such as a missing argument; drawn from a normal distribution then
            continue
    if isinstance(module, _ConvNd) and "weight" in module._parameters:
        # PyTorch's default shrinks the activations by layer, until Grad-CAM vanishes.
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if "running_var" in module._buffers:
        for name, value in _DEFAULT_STATISTICS.items():
            if (buffer := module._buffers.get(name)) is not None:
                buffer.fill_(value)


def _draw_plug(plug: Plug) -> None:
    """Take the values of a newly built mechanism, if ``plug`` names one."""
    if plug.a is not None:
        plug.a.zero_()
    try:
        built = Mechanism.resolve(plug.name).build(plug.site, plug.options)
        plug.mechanism.load_state_dict(built.state_dict())
    except (UserError, RuntimeError):
        return
