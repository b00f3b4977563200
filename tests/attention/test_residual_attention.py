"""The soft mask of the residual attention network, worked out on paper and against its description, step by step."""

from math import exp, log

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from by_hand import equals, gates, image, with_values
from saccade import catalog, create
from saccade.attention.residual_attention import SoftMask
from saccade.contract import PROMISES, examine

LN3 = log(3)


def _ran(channels=1, **values):
    """Batch norms that change nothing, residual units that add nothing, unless ``values`` say so."""
    options = values.pop("options", {})
    ran = create("ran", channels, rd_ratio=1.0, **options)
    norms = {name: part for name, part in ran.named_modules() if isinstance(part, nn.BatchNorm2d)}
    ones = {f"{name}.weight".replace(".", "__"): [1.0] * part.num_features for name, part in norms.items()}
    return with_values(ran, **{**ones, **values})


def test_a_silent_mask_adds_half():
    x = image([[2, -4]], [[6, 8]])
    equals(gates(_ran(2)(x), x), [[1.5, 1.5], [1.5, 1.5]])


def test_the_maximum_of_neighbours_is_pooled_and_drawn_out_again():
    # Pooled around columns 0, 2 and 4: ln 3, ln 3, and -1, for zeros outside are no neighbours. Between them lines:
    # ln 3, ln 3, ln 3, (ln 3 - 1)/2, -1, and the head's ReLU makes the last 0. The gate is 1 and σ of them.
    x = image([[-1, LN3, -1, -1, -2]])
    between = 1 / (1 + exp((1 - LN3) / 2))
    ran = _ran(head__2__weight=[1], head__5__weight=[1])
    equals(gates(ran(x), x), [[1.75, 1.75, 1.75, 1 + between, 1.5]])


def test_a_residual_unit_adds_what_its_three_layers_make():
    # one pixel, x = 1: pooled 1; down adds 2·3·4·1 = 24 -> 25, less 24 by the head's shift: 1, times ln 3: 3/4
    middle = [0, 0, 0, 0, 3, 0, 0, 0, 0]
    ran = _ran(
        down__0__reduce__2__weight=[2], down__0__spread__weight=middle, down__0__restore__2__weight=[4],
        head__0__bias=[-24], head__2__weight=[1], head__5__weight=[LN3],
    )  # fmt: skip
    equals(ran(image([[1]])), [[[[1.75]]]])


def _described(ran, x):
    """The docstring, line by line, with no module of ours but the parameters."""

    def activated(layers, z):
        norm, _, conv = layers
        z = F.batch_norm(z, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps).relu()
        return F.conv2d(z, conv.weight, padding=conv.weight.shape[2] // 2)

    def unit(r, z):
        inner = activated(r.reduce[:3], z)
        inner = activated([r.reduce[3], r.reduce[4], r.spread], inner)
        return z + activated(r.restore, inner)

    def up(z, like):
        return F.interpolate(z, size=like.shape[2:], mode="bilinear", align_corners=True)

    z, d = x, []
    for down in ran.down:
        z = unit(down, F.max_pool2d(z, 3, 2, 1))
        d.append(z)
    u = unit(ran.bottom, d[-1])
    for i in range(len(d) - 2, -1, -1):
        u = unit(ran.up[i], up(u, d[i]) + unit(ran.skip[i], d[i]))
    mask = activated(ran.head[3:], activated(ran.head[:3], up(u, x))).sigmoid()
    return x * (1 + mask)


def _drawn(depth):
    torch.manual_seed(depth)
    ran = create("ran", 6, depth=depth, rd_ratio=0.5).double().eval()
    with torch.no_grad():
        for name, t in (*ran.named_parameters(), *ran.named_buffers()):
            if t.is_floating_point():
                t.uniform_(0.5, 1.5) if "var" in name else t.normal_(std=0.4)
    return ran


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_equals_its_description(depth):
    ran = _drawn(depth)
    for size in ((13, 9), (8, 8), (1, 1), (2, 5)):
        x = torch.randn(2, 6, *size, dtype=torch.float64)
        equals(ran(x), _described(ran, x).tolist())
    assert sum(p.numel() for p in ran.parameters()) == catalog.spec("ran").parameters(
        6, {"depth": depth, "rd_ratio": 0.5}
    )


@pytest.mark.parametrize("depth", [1, 3])
def test_the_graph_for_any_size_is_the_same_function(monkeypatch, depth):
    """What ``torch.export`` traces takes maps with rows that do not count; a junk row must not be seen."""
    ran = _drawn(depth)
    maps = [torch.randn(2, 6, *size, dtype=torch.float64) for size in ((13, 9), (8, 8), (1, 1), (2, 5), (16, 3))]
    known = [ran(x) for x in maps]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for x, expected in zip(maps, known, strict=True):
        equals(ran(x), expected.tolist(), within=1e-11)


def test_a_deeper_mask_keeps_the_promises_too():
    """But for two: where a halved side is one pixel ``torch.compile`` makes one more graph for training; and finite
    differences are too coarse for a batch norm over two values.
    """
    left = {"compiles_whole", "has_true_gradients"}
    promises = [p for p in PROMISES if p.__name__ not in left]
    records = list(examine(catalog.load("ran"), catalog.spec("ran"), options={"depth": 2}, promises=promises))
    assert len(records) == len(PROMISES) - 2
    assert [r for r in records if r.status != "passed"] == []


@pytest.mark.parametrize("options", [{"rd_ratio": 0.01}, {"depth": 0}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        SoftMask(16, **options)
