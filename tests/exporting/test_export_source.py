"""Networks that cannot be exported are refused with the reason; axes and outputs are named."""

import logging

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from export_samples import SIZE, Body, Named, NotDeterministic, Pair, distance, random_images, run_onnx, small_network
from saccade import UserError, export, plug, plugs
from saccade.contract.randomize import perturb
from saccade.parent_class import base_class
from saccade.tensors import tensors_in


@pytest.mark.parametrize(
    ("dynamic", "axes", "shapes"),
    [
        ("batch", ("batch", 3, 64, 48), [(1, 3, 64, 48), (3, 3, 64, 48), (9, 3, 64, 48)]),
        ("none", (1, 3, 64, 48), [(1, 3, 64, 48), (1, 3, 64, 48)]),
    ],
)
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_axes_that_are_fixed(format, dynamic, axes, shapes, tmp_path):
    done = export(small_network(), tmp_path / "net", format, SIZE, dynamic=dynamic)
    assert (done.inputs["image"], done.smallest) == (axes, (64, 48))
    assert [row.shape for row in done.compared] == shapes
    if format == "onnx":
        shape = onnx.load(str(tmp_path / "net")).graph.input[0].type.tensor_type.shape.dim
        assert tuple(each.dim_param or each.dim_value for each in shape) == axes


def test_a_picture_so_small_that_a_map_is_one_pixel(tmp_path):
    host = nn.Sequential(*(nn.Conv2d(3 if n == 0 else 16, 16, 3, 2, 1) for n in range(5)), nn.Flatten(2))
    network = plug(host, "se", where="4", input=(3, 32, 32))
    done = export(perturb(network), tmp_path / "net.onnx", input=(3, 32, 32))
    assert done.compared[0].shape == (1, 3, 32, 32)
    images = random_images(4, 3, 32, 41)
    assert distance(network, images, run_onnx(tmp_path / "net.onnx", images)[0]) <= 1e-5


@pytest.mark.parametrize("format", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("network", "names"), [(Named, ("map", "logits")), (Pair, ("output_0", "output_1", "output_2"))]
)
def test_several_outputs(format, network, names, tmp_path):
    done = export(network(), tmp_path / "net", format, (3, 20, 24))
    assert done.outputs == names
    if format == "onnx":
        assert [output.name for output in onnx.load(str(tmp_path / "net")).graph.output] == list(names)


class Branch(Body):
    def forward(self, x):
        y = self.conv(x)
        if y.mean() > 0:
            y = 2 * y
        return y.mean((2, 3))


class Item(Body):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y * float(y.max())


class Array(Body):
    def forward(self, x):
        return torch.from_numpy(np.tanh(self.conv(x).mean((2, 3)).detach().numpy()))


class Decomposed(Body):
    def forward(self, x):
        return torch.linalg.svdvals(self.conv(x).mean(1))


class FixedSize(Body):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8 * 20 * 24, 5)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


class Parity(Body):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y if x.shape[2] % 2 == 0 else 2 * y


class Endless(Body):
    def forward(self, x):
        return self.conv(x).mean((2, 3)) / 0


class Twice(Body):
    def forward(self, x, again):
        return self.conv(x) + again


class Text(Body):
    def forward(self, x):
        return "a picture"


REFUSED = {
    ("onnx", Branch): r"Branch cannot be exported: its forward branches on pixel values, .* "
    r"\(test_export_source.py, line \d+: if y.mean\(\) > 0:\)",
    ("torch", Branch): "Branch cannot be exported: its forward branches on pixel values",
    ("onnx", Item): r"Item cannot be exported: .*line \d+: return y \* float\(y.max\(\)\)\)",
    ("torch", Array): r"Array cannot be exported: .*numpy.*\(test_export_source.py, line \d+: return torch.from_numpy",
    ("onnx", Decomposed): "ONNX export does not support the operator aten._linalg_svd",
    ("onnx", FixedSize): r"FixedSize accepts only images of 3×20×24; another size fails with: .*mat1 and mat2 .*"
    r"Export it with dynamic='batch'",
    ("torch", FixedSize): "FixedSize accepts only images of 3×20×24",
    ("onnx", Parity): r"Parity at 3×3×23×19: the file differs from the network by 5.0e-01 of the largest value of a "
    r"channel; the limit is 1e-04. Export it for one size, dynamic='batch' \(the trace excludes this size: "
    r"Guard failed: x.size\(\)\[2\] % 2 == 0\)",
    ("torch", Parity): r"Parity at 3×3×23×19: the file differs from the network by 5.0e-01 .* % 2 == 0\)",
    ("onnx", Endless): "Endless at 1×3×20×24: the network returns values that are not finite",
    ("onnx", Twice): r"Twice does not run on 2×3×20×24: TypeError: .*'again'.*its forward must take one batch"[:47],
    ("onnx", Text): "Text returns no tensor for 2×3×20×24",
}  # fmt: skip


@pytest.mark.parametrize(("format", "kind"), REFUSED, ids=lambda each: getattr(each, "__name__", each))
def test_a_network_that_cannot_be_exported_is_told_why(format, kind, tmp_path, capfd):
    (tmp_path / "net").write_text("an older file")
    with pytest.raises(UserError, match=REFUSED[format, kind]):
        export(kind(), tmp_path / "net", format, (3, 20, 24))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("net", "an older file")]
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("kind", [FixedSize, Parity])
def test_for_one_size_they_can_be_exported(kind, tmp_path):
    network = kind()
    done = export(network, tmp_path / "net", input=(3, 20, 24), dynamic="batch")
    assert [row.shape for row in done.compared] == [(1, 3, 20, 24), (3, 3, 20, 24), (9, 3, 20, 24)]
    images = random_images(5, 3, 20, 24)
    assert distance(network, images, run_onnx(tmp_path / "net", images)[0]) <= 1e-5


def test_the_decomposed_network_is_no_trouble_for_torch(tmp_path):
    assert export(Decomposed(), tmp_path / "net", "torch", (3, 20, 24)).compared[1].difference <= 1e-5


@pytest.mark.parametrize("kind", ["counts", "draws"])
def test_what_computes_something_else_each_time_is_refused_and_the_generator_kept(kind, tmp_path):
    torch.manual_seed(5)
    network, state = NotDeterministic(kind), torch.get_rng_state()
    with pytest.raises(UserError, match="NotDeterministic is not deterministic in eval mode"):
        export(network, tmp_path / "net", input=(3, 20, 24))
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    assert network.count.item() == 0
    # The twin: a draw that changes nothing is exported, and leaves the generator too.
    export(NotDeterministic("neither"), tmp_path / "net", "torch", (3, 20, 24), dynamic="none")
    torch.set_rng_state(state)
    network(torch.zeros(1, 3, 20, 24))
    assert kind == "counts" or not torch.equal(torch.get_rng_state(), state)


class Mixed(Body):
    def forward(self, x):
        return [self.conv(x), 3, None]


class Image(Body):
    def forward(self, x):
        return {"image": self.conv(x), "logits": self.conv(x).mean((2, 3))}


@pytest.mark.parametrize(("kind", "names"), [(Mixed, ("output_0",)), (Image, ("image_output", "logits"))])
def test_outputs_that_need_another_name_or_are_no_tensors(kind, names, tmp_path):
    network = kind()
    assert export(network, tmp_path / "net.onnx", input=(3, 20, 24)).outputs == names
    images = random_images(2, 3, 21, 26)
    with torch.no_grad():
        wanted = list(tensors_in(network(images)))
    torch.testing.assert_close(run_onnx(tmp_path / "net.onnx", images), wanted, rtol=1e-4, atol=1e-5)
    assert export(network, tmp_path / "net.pt2", "torch", (3, 20, 24)).outputs == names


def test_another_default_dtype(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        done = export(Pair(), tmp_path / "net.onnx", input=(3, 20, 24), dynamic="none")
    finally:
        torch.set_default_dtype(torch.float32)
    assert done.compared[0].difference <= 1e-5


def test_a_detector_is_refused_by_the_line_that_decides(tmp_path):
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=8, padding=1), nn.ReLU())
    backbone.out_channels = 8
    anchors = AnchorGenerator(sizes=((16,),), aspect_ratios=((1.0,),))
    network = RetinaNet(backbone, 3, anchor_generator=anchors, min_size=32, max_size=64)
    with pytest.raises(UserError, match=r"RetinaNet cannot be exported: .*\(\w+\.py, line \d+: .+\)"):
        export(network, tmp_path / "net.onnx", input=(3, 32, 40), dynamic="none")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_lost_a_plug_is_not_exported(tmp_path):
    network = small_network("se")
    plugs(network)
    parent = network.get_submodule(plugs(network)[0].parent)
    parent.__class__ = base_class(parent)
    with pytest.raises(UserError, match="is lost"):
        export(network, tmp_path / "net.onnx", input=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_network_is_refused(tmp_path):
    for network in (torch.compile(Pair()), nn.Sequential(torch.compile(nn.Conv2d(3, 4, 3)))):
        with pytest.raises(UserError, match="is compiled, all or in part: export the network before compiling"):
            export(network, tmp_path / "net.onnx", input=(3, 20, 24))
    assert list(tmp_path.iterdir()) == []
