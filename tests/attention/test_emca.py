"""EMCA worked out on paper: the local gate, the fusion with the stage before, SE in ECA's place, what is refused."""

import math

import pytest
import torch

from by_hand import equals, gates, image, with_values
from saccade import UserError, create
from saccade.attention.emca import EfficientMultiScaleChannelAttention as Emca

LN = math.log
X = image([[1, 3]], [[4, 0]], [[-1, -1]])  # means 2, 2, -1


def _vector(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def test_without_a_stage_before_the_gate_is_one_and_the_local_scale():
    # Each channel sees its left neighbour, itself and its right one: 0·1 + 2 ln 3 / 2 = ln 3, and so on.
    emca = with_values(Emca(3, kernel_size=3), local__conv__weight=[LN(3) / 2, 0, 0])
    # z left of channels 0, 1, 2: nothing, 2, 2.
    equals(gates(emca(X), X)[:, 0], [1 + 1 / 2, 1 + 3 / 4, 1 + 3 / 4])
    emca = with_values(Emca(3, kernel_size=3), local__conv__weight=[0, LN(3), 0])
    equals(gates(emca(X), X)[:, 0], [1.9, 1.9, 1.25])


def test_the_stage_before_and_the_own_vector_are_fused_and_weighed():
    emca = with_values(
        Emca(3, kernel_size=1, previous=1),
        local__conv__weight=[LN(3) / 2],
        stage__conv__weight=[LN(2)],
        take_in__weight=[3, 1],
        put_out__weight=[4, -3],
    )
    # v = (1, -1, 2): u = ReLU(3v + z) = (5, 0, 5); g = 32/33, 1/2, 32/33; l = 3/4, 3/4, σ(-ln 3 / 2).
    v = _vector(1, -1, 2)
    l2 = 1 / (1 + 3**0.5)
    scales = [4 * 0.75 - 3 * 32 / 33, 4 * 0.75 - 1.5, 4 * l2 - 3 * 32 / 33]
    wanted = [1 + 1 / (1 + math.exp(-s)) for s in scales]
    equals(emca.gate(X, [v])[0, :, 0, 0], wanted)
    equals((X * emca.gate(X, v[None]))[0, :, 0, 1], [3 * wanted[0], 0, -wanted[2]])


def test_two_vectors_in_their_order_each_repeated_and_cut():
    emca = with_values(
        Emca(3, kernel_size=1, previous=2),
        stage__conv__weight=[LN(2)],
        take_in__weight=[1, 10, 0],
        put_out__weight=[0, LN(9)],
    )
    # (1, 2) becomes 1, 2, 1; (3, 4, 5, 6) becomes 3, 4, 5: u = 31, 42, 51, and g is 1 but for 2^-31 and less.
    narrow, wide = _vector(1, 2), _vector(3, 4, 5, 6)
    g = [1 / (1 + 2.0**-u) for u in (31, 42, 51)]
    equals(emca.gate(X, [narrow, wide])[0, :, 0, 0], [1 + 1 / (1 + 9.0**-each) for each in g])
    # The other way round: 3 + 10, 4 + 20, 5 + 10.
    g = [1 / (1 + 2.0**-u) for u in (13, 24, 15)]
    equals(emca.gate(X, [wide, narrow])[0, :, 0, 0], [1 + 1 / (1 + 9.0**-each) for each in g], 1e-15)


def test_se_in_the_place_of_eca_and_one_for_both():
    values = {"local__squeeze__weight": [[1, 0, 1], [0, -1, 0]], "local__excite__weight": [[1, 0], [0, 1], [LN(3), 0]]}
    se = with_values(Emca(3, att="se", rd_ratio=2 / 3), **values)
    # W₁ z = (2 - 1, -2), ReLU: (1, 0); W₂: (1, 0, ln 3).
    equals(gates(se(X), X)[:, 0], [1 + 1 / (1 + math.exp(-1)), 1.5, 1.75])
    shared = with_values(
        Emca(3, att="se", rd_ratio=2 / 3, shared=True, previous=1),
        **values,
        take_in__weight=[1, 0],
        put_out__weight=[0, 1],
    )
    # u = v = (0, 3, 1): W₁ u = (1, -3), ReLU: (1, 0), as above.
    g = [1 / (1 + math.exp(-1)), 0.5, 0.75]
    equals(shared.gate(X, [_vector(0, 3, 1)])[0, :, 0, 0], [1 + 1 / (1 + math.exp(-each)) for each in g])
    assert sorted(dict(shared.named_parameters())) == [
        "local.excite.weight", "local.squeeze.weight", "put_out.weight", "take_in.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(("channels", "kernel"), [(64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)])
def test_the_kernel_goes_by_the_channels(channels, kernel):
    emca = Emca(channels, previous=1)
    assert emca.local.conv.kernel_size == emca.stage.conv.kernel_size == (kernel,)
    assert Emca(channels, kernel_size=9).local.conv.kernel_size == (9,)


def test_its_parameters_depend_on_what_it_reads():
    counts = [sum(p.numel() for p in Emca(64, previous=n).parameters()) for n in range(4)]
    assert counts == [3, 3 + 3 + 2 + 2, 3 + 3 + 3 + 2, 3 + 3 + 4 + 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"att": "srm"}, "att must be 'eca' or 'se', got 'srm'"),
        ({"kernel_size": 4}, "kernel_size must be odd and positive, got 4"),
        ({"att": "se", "rd_ratio": 0.01}, r"channels \* rd_ratio must be at least 1, got 64 \* 0.01"),
        ({"previous": -1}, "previous must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_built(options, message):
    with pytest.raises(UserError, match=message):
        create("emca", 64, **options)
    with pytest.raises(ValueError, match=message):
        Emca(64, **options)


def test_vectors_that_are_missing_or_too_many():
    x = torch.randn(2, 8, 3, 3)
    with pytest.raises(
        ValueError, match="previous=1 vectors of the previous stage are to be read, but the mechanism is not in"
    ):
        Emca(8, previous=1)(x)
    with pytest.raises(ValueError, match="there must be 1 vectors \\(previous=1\\), got 2"):
        Emca(8, previous=1).gate(x, [x.mean((2, 3))] * 2)
