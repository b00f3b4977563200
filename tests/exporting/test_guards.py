"""Branches that depend on the size of the images are found."""

import onnx
import pytest
import torch
from torch import nn

from export_samples import Body, Pair
from saccade import UserError, export


class SizeDependent(Body):
    """Decides by the size or number of its pictures."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        pictures, _, height, width = x.shape
        if self.kind == "boxes":
            return torch.cat([1e3 * y, (y if height % 2 == 0 else 3 * y).sigmoid()], 1)
        plain = {"low": height <= 100, "few": pictures < 8, "tall": width <= height, "area": height * width < 3000}
        return y if plain[self.kind] else 3 * y


REFUSALS = [
    ("low", "all", "traced for a height of at most 100 only, .*Export it for one size, dynamic='batch'"),
    ("few", "all", "traced for a batch of at most 7 only, .*dynamic='none'"),
    ("few", "batch", "traced for a batch of at most 7 only"),
    ("tall", "all", r"at 1×3×37×45: the file differs .*Guard failed: x.size\(\)\[3\] <= x.size\(\)\[2\]"),
    ("area", "all", "SizeDependent at .*: the file differs .*Guard failed"),
    ("boxes", "all", "SizeDependent at 3×3×37×25: the file differs"),
]


@pytest.mark.parametrize(("kind", "dynamic", "message"), REFUSALS)
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_forward_that_branches_on_size_is_refused(format, kind, dynamic, message, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = SizeDependent(kind)
    with pytest.raises(UserError, match=message):
        export(network, tmp_path / "net", format, (3, 32, 32), dynamic=dynamic)
    assert list(tmp_path.iterdir()) == []
    last = "none" if kind == "few" else "batch"
    assert export(network, tmp_path / "net", format, (3, 32, 32), dynamic=last).compared[0].difference <= 1e-5


class Halved(Body):
    def forward(self, x):
        y = self.conv(x)
        return y + nn.functional.interpolate(nn.functional.max_pool2d(y, 4), scale_factor=4)


def test_multiples_that_a_network_needs_are_told(tmp_path):
    done = export(Halved(), tmp_path / "net.onnx", input=(3, 32, 48))
    assert done.metadata["multiple"] == 4
    entries = {entry.key: entry.value for entry in onnx.load(str(tmp_path / "net.onnx")).metadata_props}
    assert entries["multiple"] == "4"
    assert "multiple" not in export(Pair(), tmp_path / "net.onnx", input=(3, 32, 48)).metadata
