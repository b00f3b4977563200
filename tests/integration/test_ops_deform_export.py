"""Deformable convolution compiled, exported and traced: the same values for any size."""

import pytest
import torch
from torch import nn

from saccade.ops.deform import deform_conv2d


class Pack(nn.Module):
    """DCN v2: a convolution makes offsets and masks."""

    def __init__(self, channels, outputs):
        super().__init__()
        self.offset = nn.Conv2d(channels, 27, 3, padding=1)
        self.deform = nn.Conv2d(channels, outputs, 3, padding=1)

    def forward(self, x):
        offset, mask = self.offset(x).split([18, 9], 1)
        return deform_conv2d(x, offset * 3, self.deform.weight, self.deform.bias, padding=1, mask=mask.sigmoid())


def test_compiles_as_one_graph():
    torch.manual_seed(0)
    net = Pack(3, 4).double()
    x = torch.randn(2, 3, 5, 7).double()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    grads = []
    for module in (net, compiled):
        net.zero_grad()
        y = module(x)
        y.square().sum().backward()
        grads.append([y.detach(), *(p.grad.clone() for p in net.parameters())])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_exports_with_any_size():
    torch.manual_seed(0)
    net = Pack(3, 4).double().eval()
    sizes = {axis: torch.export.Dim(name) for axis, name in ((0, "batch"), (2, "height"), (3, "width"))}
    exported = torch.export.export(net, (torch.randn(2, 3, 5, 7).double(),), dynamic_shapes=(sizes,)).module()
    for shape in ((2, 3, 5, 7), (3, 3, 11, 4)):
        x = torch.randn(shape).double()
        torch.testing.assert_close(exported(x), net(x), rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:FutureWarning")
def test_traces_with_any_size():
    torch.manual_seed(0)
    net = Pack(3, 4).double().eval()
    traced = torch.jit.trace(net, (torch.randn(2, 3, 5, 7).double(),))
    for shape in ((2, 3, 5, 7), (2, 3, 11, 4)):
        x = torch.randn(shape).double()
        torch.testing.assert_close(traced(x), net(x), rtol=1e-10, atol=1e-10)
