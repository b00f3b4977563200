"""Equality with the authors' own code: output, gradient of the input, gradients of all parameters, in float64.

The tensors are read from ``$SACCADE_ORACLES``; each file holds one forward and backward of an official module with
random parameters and statistics.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade import create

FOLDER = os.environ.get("SACCADE_ORACLES", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="SACCADE_ORACLES is not set")

SE = {"fc.0": "squeeze", "fc.2": "excite"}
CBAM = {
    "ChannelGate.mlp.1": "mlp.0",
    "ChannelGate.mlp.3": "mlp.2",
    "SpatialGate.spatial.conv": "conv",
    "SpatialGate.spatial.bn": "bn",
}
# Oracle: mechanism, its options, the official name of each layer and ours.
ORACLES = {
    "se_nobias": ("se", {"bias": False}, SE),
    "se_bias": ("se", {}, SE),
    "eca": ("eca", {"kernel_size": 3}, {"conv": "conv"}),
    "cbam": ("cbam", {}, CBAM),
    "cbam_train": ("cbam", {}, CBAM),
}


def _tensors(oracle):
    with np.load(Path(FOLDER, f"{oracle}.npz")) as archive:
        meta = json.loads(str(archive["meta"]))
        return meta, {key: torch.from_numpy(archive[key]) for key in archive.files if key != "meta"}


def _ours(name, layers):
    layer, _, last = name.rpartition(".")
    return f"{layers[layer]}.{last}"


def _disagreement(oracle, change=lambda module: module, options=()):
    """The largest absolute difference of each tensor, ours against the authors'; infinite where ours is missing."""
    name, own_options, layers = ORACLES[oracle]
    meta, found = _tensors(oracle)
    module = create(name, found["x"].shape[1], **{**own_options, **dict(options)}).double()
    parts = {key: key.partition(":") for key in found}
    state = {_ours(n, layers): found[key] for key, (kind, _, n) in parts.items() if kind in ("param", "buffer")}
    own = module.state_dict()
    assert {n for n in own if not n.endswith("num_batches_tracked")} <= set(state)
    module.load_state_dict({n: state.get(n, value) for n, value in own.items()})
    module = change(module.train(meta["mode"] == "train"))

    x = found["x"].clone().requires_grad_()
    y = module(x)
    (y * found["cotangent"]).sum().backward()
    values = {"y": y, "grad_x": x.grad}
    values |= {f"grad:{n}": p.grad for n, p in module.named_parameters()}
    values |= {f"buffer_after:{n}": b for n, b in module.named_buffers()}
    expected = {"y": found["y"], "grad_x": found["grad_x"]}
    for key, (kind, _, n) in parts.items():
        if kind in ("grad", "buffer_after"):
            expected[f"{kind}:{_ours(n, layers)}"] = found[key]
    return {key: (values[key] - e).abs().max().item() if key in values else float("inf") for key, e in expected.items()}


@pytest.mark.parametrize("oracle", ORACLES)
def test_equals_the_authors_code(oracle):
    off = _disagreement(oracle)
    name, options, _ = ORACLES[oracle]
    assert {"y", "grad_x", *(f"grad:{n}" for n, _ in create(name, 64, **options).named_parameters())} <= set(off)
    assert max(off.values()) < 1e-9, off


def test_the_trained_statistics_are_compared_too():
    assert {"buffer_after:bn.running_mean", "buffer_after:bn.running_var"} <= set(_disagreement("cbam_train"))


def _swapped(module):
    module.conv.weight.data = module.conv.weight.data.flip(1)  # [mean; max] in place of [max; mean]
    return module


def _common_momentum(module):
    module.bn.momentum = 0.1
    return module


def _mean_alone(module):
    class Mean(type(module)):
        def gate(self, x):
            return super().gate(x.mean((2, 3), keepdim=True).expand_as(x))

    module.__class__ = Mean
    return module


def _reversed_kernel(module):
    module.conv.weight.data = module.conv.weight.data.flip(2)
    return module


@pytest.mark.parametrize(
    ("oracle", "change", "options", "tensor"),
    [
        ("se_bias", lambda module: module, {"bias": False}, "y"),
        ("eca", _reversed_kernel, {}, "y"),
        ("cbam", _swapped, {}, "y"),
        ("cbam", _mean_alone, {}, "y"),
        ("cbam", lambda module: module.train(), {}, "y"),
        ("cbam_train", lambda module: module.eval(), {}, "y"),
        ("cbam_train", _common_momentum, {}, "buffer_after:bn.running_var"),
    ],
)
def test_a_near_miss_does_not_agree(oracle, change, options, tensor):
    assert _disagreement(oracle, change, options)[tensor] > 1e-4
