"""Attention of all pixels, all channels or a few centres by hand: nl, danet, dra, a2; emattn, with a referee.

As everywhere here: softmax(ln 3, 0) = (3/4, 1/4), σ(ln 3) = 3/4.
"""

from math import log, sqrt

import pytest
import torch
import torch.nn.functional as F

from by_hand import equals, gates, image, unmoved, with_values
from saccade import create
from saccade.attention.dual_relation import _cells
from saccade.catalog import load
from saccade.cost import count_macs

LN3 = log(3)


# --------------------------------------------------------------------------------------------------------------------
# nl

NARROW = {"theta__weight": [1, 0], "phi__weight": [0, 1], "g__weight": [4, 0], "out__weight": [1, 2]}


def test_nl_of_two_pixels():
    # θ = (1, 0), φ = (ln 3, 0): rows (3/4, 1/4) and (1/2, 1/2); g = (4, 0); t = (3, 2), added as (t, 2t)
    nl = unmoved(with_values(create("nl", 2), **NARROW))
    equals(nl(image([[1, 0]], [[LN3, 0]])), [[[[4, 2]], [[LN3 + 6, 4]]]])


def test_nl_divides_by_the_root_of_its_width():
    # c = 4, all four the same: 4 · ln 3 / 2 · 1/√4 = ln 3
    values = {"theta__weight": [[1, 0]] * 4, "phi__weight": [[0, 1 / 2]] * 4, "g__weight": [[4, 0]] * 4}
    nl = unmoved(with_values(create("nl", 2, rd_ratio=2.0), **values, out__weight=[[1, 0, 0, 0], [0, 0, 0, 2]]))
    equals(nl(image([[1, 0]], [[LN3, 0]])), [[[[4, 2]], [[LN3 + 6, 4]]]])


def test_nl_of_dot_products_divides_by_their_number():
    # θ φ / 2 = 1 · 6 / 2 for the first pixel with itself, else 0: t = (12, 0)
    nl = unmoved(with_values(create("nl", 2, instantiation="dot_product"), **NARROW))
    equals(nl(image([[1, 0]], [[6, 0]])), [[[[13, 0]], [[30, 0]]]])


def test_nl_that_pools_sees_the_largest_of_four():
    # one window, so one key, whose g is 4 · 7; the odd column does not count
    nl = unmoved(with_values(create("nl", 2, pool=True), **NARROW))
    x = image([[1, 7, 9], [0, 2, 9]], [[0, 0, 0], [0, 0, 0]])
    equals((nl(x) - x)[0, 0], [[28] * 3] * 2)
    equals((nl(x[..., 2:]) - x[..., 2:])[0, 1], [[72]] * 2)  # of one column every pixel is a window's


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rd_ratio": 0.1}, r"channels \* rd_ratio must be at least 1, got 4 \* 0.1"),
        ({"instantiation": "concatenation"}, "'softmax' or 'dot_product', got 'concatenation'"),
    ],
)
def test_nl_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        load("nl")(4, **options)


# --------------------------------------------------------------------------------------------------------------------
# danet

PLACES = {"position__query__bias": [1], "position__key__weight": [1, 0], "position__value__weight": [[1, 0], [0, 0]],
          "position__value__bias": [0, 5], "position__gamma": [2]}  # fmt: skip


def test_danet_positions():
    # every query is 1, keys (ln 3, 0): weights (3/4, 1/4) everywhere; values (ln 3, 0) and (5, 5); doubled
    danet = with_values(create("danet", 2, rd_ratio=0.5, channel=False), **PLACES)
    equals(danet(image([[LN3, 0]], [[0, 1]])), [[[[2.5 * LN3, 1.5 * LN3]], [[10, 11]]]])


def test_danet_channels_take_the_least_alike():
    # a = (√ln 3, 0), b = (0, √ln 3): G = diag(ln 3), rows of X (1/4, 3/4) and (3/4, 1/4); doubled and added
    root = sqrt(LN3)
    danet = with_values(create("danet", 2, position=False), channel__gamma=[2])
    equals(danet(image([[root, 0]], [[0, root]])), [[[[1.5 * root, 1.5 * root]], [[1.5 * root, 1.5 * root]]]])


def test_danet_adds_its_branches_to_one_map():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    both = with_values(create("danet", 4, rd_ratio=0.5))
    with torch.no_grad():
        for p in both.parameters():
            p.normal_()
    alone = []
    for left_out in ("channel", "position"):
        branch = create("danet", 4, rd_ratio=0.5, **{left_out: False}).double()
        branch.load_state_dict({n: v for n, v in both.state_dict().items() if not n.startswith(left_out)})
        alone.append(branch(x) - x)
    equals(both(x), (x + alone[0] + alone[1]).tolist())
    assert min(part.abs().max() for part in alone) > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_danet_channels_of_large_values_do_not_overflow(dtype):
    # products of 300 · 300 over 35 pixels are far beyond the largest float16, 65504
    danet = create("danet", 8, position=False)
    torch.nn.init.ones_(danet.channel.gamma)
    x = (300 * torch.randn(1, 8, 7, 5)).to(dtype)
    y = danet.to(dtype)(x)
    assert y.isfinite().all()
    assert (y - x).abs().max() > 1


def test_danet_needs_a_branch():
    with pytest.raises(ValueError, match="one of position and channel"):
        load("danet")(8, position=False, channel=False)


# --------------------------------------------------------------------------------------------------------------------
# dra


def test_dra_has_fifty_centers():
    # Nothing is asked for, so P is the mean value: of one centre 1·2, four 2·2, nine 3·2 and 36 4·2, 180/50 · 2 = 7.2
    eye = torch.eye(4, dtype=torch.float64)
    scaled = {f"position__centers__{n}__0__weight": ((n + 1) * eye).tolist() for n in range(4)}
    dra = unmoved(with_values(create("dra", 4, channel=False), **scaled, position__value__weight=eye.tolist(),
                               position__scale=[1]))  # fmt: skip
    equals(dra(torch.full((1, 4, 7, 5), 2.0, dtype=torch.float64)), [[[[9.2] * 5] * 7] * 4])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 12), (7, 5), (13, 1), (17, 31)])
def test_cells_of_dra_are_those_of_adaptive_pooling(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for side, cells in zip((1, 2, 3, 6), _cells(x), strict=True):
        equals(cells, F.adaptive_avg_pool2d(x, side).tolist())


def test_dra_channels():
    # Y = x, which is positive: E = diag(ln 3), as in danet's case; two centres of two channels
    root = sqrt(LN3)
    dra = unmoved(with_values(create("dra", 2, position=False, center_ratio=1.0),
                               channel__centers__0__weight=[[1, 0], [0, 1]], channel__scale=[2]))  # fmt: skip
    equals(dra(image([[root, 0]], [[0, root]])), [[[[1.5 * root, 1.5 * root]], [[1.5 * root, 1.5 * root]]]])


def test_dra_of_one_center_of_channels_adds_it():
    # softmax of one is 1: y = x + ReLU(x₀ − x₁)
    dra = unmoved(with_values(create("dra", 2, position=False, center_ratio=0.5),
                               channel__centers__0__weight=[1, -1], channel__scale=[1]))  # fmt: skip
    equals(dra(image([[3, 1]], [[1, 2]])), [[[[5, 1]], [[3, 2]]]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rd_ratio": 0.1}, r"channels \* rd_ratio must be at least 1, got 8 \* 0.1"),
        ({"center_ratio": 0.1}, r"channels \* center_ratio must be at least 1, got 8 \* 0.1"),
        ({"position": False, "channel": False}, "one of position and channel must be true"),
    ],
)
def test_dra_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        load("dra")(8, **{"center_ratio": 0.5, **options})


# --------------------------------------------------------------------------------------------------------------------
# a2

GATHER = {"feature__weight": [[1, 0], [0, 0]], "gather__weight": [[0, 1], [0, 0]], "distribute__bias": [LN3, 0],
          "out__weight": [[1, 0], [0, 1]], "out__bias": [0, 7]}  # fmt: skip


def test_a2_of_two_descriptors():
    # One looks with (3/4, 1/4), the other with (1/2, 1/2), at (4, 0): 3 and 2. Each pixel wants 3/4 and 1/4 of them.
    a2 = with_values(create("a2", 2, rd_ratio=1.0), **GATHER)
    equals(a2(image([[4, 0]], [[LN3, 0]])), [[[[6.75, 2.75]], [[LN3 + 7, 7]]]])


def test_a2_number_of_descriptors():
    # a third, which looks everywhere as the second does: wanted (3, 1, 1)/5
    more = GATHER | {"gather__weight": [[0, 1], [0, 0], [0, 0]], "distribute__bias": [LN3, 0, 0]}
    a2 = with_values(create("a2", 2, rd_ratio=1.0, descriptors=3), **more)
    equals(a2(image([[4, 0]], [[LN3, 0]])), [[[[6.6, 2.6]], [[LN3 + 7, 7]]]])


@pytest.mark.parametrize(("pixels", "multiply_adds"), [((2, 2), 2 * 3 * 4 * 10), ((5, 4), 2 * 6 * 4 * 23)])
def test_a2_takes_the_order_with_fewer_products_and_either_is_the_equations(pixels, multiply_adds):
    # C = 6, m = 3, n = 4: both layers on N pixels are 2mN(C + n) products, on descriptors 2Cn(N + m).
    c, n, size = 6, 4, pixels[0] * pixels[1]
    torch.manual_seed(0)
    a2, x = create("a2", c, descriptors=n).double(), torch.randn(2, c, *pixels, dtype=torch.float64)
    for p in a2.parameters():
        torch.nn.init.normal_(p)
    where, which = a2.gather(x).flatten(2).softmax(2), a2.distribute(x).flatten(2).softmax(1)
    z = a2.out((a2.feature(x).flatten(2) @ where.mT @ which).unflatten(2, pixels))
    equals(a2(x), (x + z).tolist(), within=1e-10)
    assert count_macs(a2, x) == 2 * c * n * size + multiply_adds


def test_a2_with_a_norm_starts_as_the_identity():
    x = torch.randn(2, 8, 3, 5)
    assert torch.equal(create("a2", 8, norm=True)(x), x)
    assert not torch.equal(create("a2", 8)(x), x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rd_ratio": 0.1}, r"channels \* rd_ratio must be at least 1, got 8 \* 0.1"),
        ({"rd_ratio": 0.2}, "at least 2 descriptors, got 1"),
        ({"descriptors": 1}, "at least 2 descriptors, got 1"),
    ],
)
def test_a2_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        load("a2")(8, **options)


# --------------------------------------------------------------------------------------------------------------------
# emattn


def _emattn(**values):
    return with_values(create("emattn", 2, groups=1), **values)


def test_emattn_of_nothing_halves():
    equals(_emattn()(image([[2, 4]], [[6, -8]])), [[[[1, 2]], [[3, -4]]]])


def test_emattn_means_of_the_first_branch_are_its_shift():
    # u = β = (ln 3, 0) and v = b₃ = (ln 3, 0): both softmaxes are (3/4, 1/4), s = 3/4 ln 3 twice
    emattn = _emattn(norm_bias=[LN3, 0], near__bias=[LN3, 0])
    gate = 3**1.5 / (1 + 3**1.5)
    equals(gates(emattn(image([[2, 4]], [[6, 8]])), image([[2, 4]], [[6, 8]])), [[gate] * 2] * 2)


def test_emattn_3x3_branch():
    # v = (x₀, 0), weighed (1/2, 1/2): s = (ln 3, 0) of x₀ = (2 ln 3, 0)
    middle = [[[0, 0, 0], [0, 1, 0], [0, 0, 0]]]
    empty = [[[0, 0, 0]] * 3]
    emattn = _emattn(near__weight=[[*middle, *empty], [*empty, *empty]])
    equals(emattn(image([[2 * LN3, 0]], [[8, 8]])), [[[[1.5 * LN3, 0]], [[6, 4]]]])


def test_emattn_mean_of_the_3x3_branch_sees_zeros_outside():
    # The left tap, times 6 ln 3 / 5: at three pixels of ones it sees (0, 1, 1), mean 2/3, so v has means (0.8 ln 3, 0)
    # and softmax (3^0.8, 1)/(1 + 3^0.8). u = β = (0, ln 9); first softmax (1, 9)/10: s = 0.1 v₀ + ln 9/(1 + 3^0.8).
    left = [[[0, 0, 0], [1.2 * LN3, 0, 0], [0, 0, 0]]]
    empty = [[[0, 0, 0]] * 3]
    emattn = _emattn(near__weight=[[*left, *empty], [*empty, *empty]], norm_bias=[0, 2 * LN3])
    x = image([[1, 1, 1]], [[1, 1, 1]])
    powers = [3 ** (0.12 * seen + 2 / (1 + 3**0.8)) for seen in (0, 1, 1)]
    equals(gates(emattn(x), x)[0], [power / (1 + power) for power in powers])


def test_emattn_norm_of_the_1x1_branch():
    # σ(h) σ(w) = 1/4: ±1000 is normed to ±1 (variance 10⁶ against ε = 10⁻⁵), weighed 1/2: s = ±1/2 · ln 9
    emattn = _emattn(norm_weight=[2 * LN3, 0])
    x = image([[4000, -4000]], [[1, 1]])
    equals(gates(emattn(x), x)[1], [0.75, 0.25], within=1e-9)


def test_emattn_layers_serve_every_group():
    torch.manual_seed(0)
    halves, one = create("emattn", 6, groups=2).double(), create("emattn", 3, groups=1).double()
    one.load_state_dict(halves.state_dict())
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    equals(halves(x), torch.cat([one(part) for part in x.chunk(2, 1)], 1).tolist())


def test_emattn_takes_as_many_groups_as_fit():
    assert [create("emattn", channels).groups for channels in (7, 24, 64, 112)] == [1, 8, 32, 16]
    with pytest.raises(ValueError, match="emattn: groups must divide channels, got 32 and 24"):
        create("emattn", 24, groups=32)


def _plain(module, x):
    """The equations as they stand, with the map v."""
    batch, _, height, width = x.shape
    x = x.reshape(batch * module.groups, -1, height, width)
    h, w = module.sides(torch.cat([x.mean(3), x.mean(2)], 2)[..., None]).sigmoid().split([height, width], 2)
    u = F.group_norm(x * h * w.mT, x.shape[1], module.norm_weight, module.norm_bias)
    v = module.near(x)
    s = sum((a.mean((2, 3)).softmax(1)[:, :, None, None] * b).sum(1, keepdim=True) for a, b in ((u, v), (v, u)))
    return (x * s.sigmoid()).reshape(batch, -1, height, width)


@pytest.mark.parametrize("size", [(5, 7), (1, 6), (4, 1), (2, 2)])
def test_emattn_equals_its_equations(size):
    torch.manual_seed(1)
    emattn = create("emattn", 12, groups=3).double()
    for p in emattn.parameters():
        torch.nn.init.normal_(p)
    x, cotangent = torch.randn(2, 2, 12, *size, dtype=torch.float64)
    leaves = [x.requires_grad_(), *emattn.parameters()]
    found, known = (torch.autograd.grad(y, leaves, cotangent) for y in (emattn(x), _plain(emattn, x)))
    equals(emattn(x), _plain(emattn, x).tolist())
    torch.testing.assert_close(found, known, rtol=0, atol=1e-11)
