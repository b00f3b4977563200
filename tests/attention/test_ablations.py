"""The ablations of SE's and CBAM's papers, worked out on paper. σ(ln k) = k / (1 + k), tanh(ln 3) = 4/5."""

from math import log

import pytest
import torch

from by_hand import equals, gates, image, with_values
from saccade import catalog, create
from saccade.contract import PROMISES, examine

LN2, LN3 = log(2), log(3)
X = image([[1, 3]], [[2, -1]])


def _se(**options):
    # the unit holds the first channel's squeeze: its mean 2 or its maximum 3
    return with_values(
        create("se", 2, rd_ratio=0.5, **options), squeeze__weight=[1, 0], excite__weight=[LN3 / 6, -LN3 / 6]
    )


@pytest.mark.parametrize(
    ("options", "gate"),
    [
        # logits ± ln 3 / 6 times the unit: of the mean ± ln 3 / 3, of the maximum ± ln 3 / 2
        ({}, [1 / (1 + 3 ** (-1 / 3)), 1 / (1 + 3 ** (1 / 3))]),
        ({"squeeze": "max"}, [1 / (1 + 3**-0.5), 1 / (1 + 3**0.5)]),
        ({"excitation": "relu"}, [LN3 / 3, 0]),
        ({"squeeze": "max", "excitation": "relu"}, [LN3 / 2, 0]),
        ({"squeeze": "max", "excitation": "tanh"}, [0.5, -0.5]),  # tanh(ln 3 / 2) = (3 − 1)/(3 + 1)
    ],
    ids=str,
)
def test_se_squeezes_and_excites_as_it_is_told(options, gate):
    equals(gates(_se(**options)(X), X), [[g, g] for g in gate])


def _cbam(**options):
    """One hidden unit that passes channel 0 on to channel 0; a 1×1 spatial convolution that adds what it sees."""
    branches = options.get("branches", "both")
    values = {}
    if branches != "spatial":
        values |= {"mlp__0__weight": [1, 0], "mlp__2__weight": [1, 0]}
    if branches != "channel":
        values |= {"conv__weight": [1] * (2 if options.get("spatial_pool", "both") == "both" else 1), "bn__weight": [1]}
    return with_values(create("cbam", 2, rd_ratio=0.5, spatial_kernel_size=1, **options), **values)


# Channel 0 has mean ln 2 and maximum 2 ln 2, channel 1 is 0 at both places.
PAIR = image([[0, 2 * LN2]], [[0, 0]])


@pytest.mark.parametrize(
    ("options", "gate"),
    [
        # of channel 0 at its second place, where max and mean of the channels are m = 2 ln 2 · M_c and m/2
        ({"branches": "channel"}, 8 / 9),
        ({"branches": "channel", "channel_pool": "mean"}, 2 / 3),
        ({"branches": "channel", "channel_pool": "max"}, 4 / 5),
        ({"branches": "spatial"}, 8 / 9),  # σ(2 ln 2 + ln 2)
        ({"branches": "spatial", "spatial_pool": "mean"}, 2 / 3),
        ({"branches": "spatial", "spatial_pool": "max"}, 4 / 5),
        ({"order": "parallel"}, 64 / 81),
        ({"order": "parallel", "channel_pool": "mean", "spatial_pool": "max"}, 2 / 3 * 4 / 5),
        # after M_c = 2/3 the spatial gate sees 4/3 ln 2
        ({"channel_pool": "mean", "spatial_pool": "max"}, 2 / 3 / (1 + 2 ** (-4 / 3))),
        # M_s = 4/5 there and 1/2 at the first place, where the map is 0: the mean becomes 4/5 ln 2
        ({"order": "spatial", "channel_pool": "mean", "spatial_pool": "max"}, 4 / 5 / (1 + 2 ** (-4 / 5))),
    ],
    ids=str,
)
def test_cbam_has_the_branches_pools_and_order_it_is_told(options, gate):
    y = _cbam(**options)(PAIR)
    equals(y[0, 0, 0, 1] / PAIR[0, 0, 0, 1], gate)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("se", {"squeeze": "std"}, "'mean' or 'max', got 'std'"),
        ("se", {"excitation": "gelu"}, "'sigmoid', 'relu' or 'tanh', got 'gelu'"),
        ("cbam", {"branches": "none"}, "'both', 'channel' or 'spatial', got 'none'"),
        ("cbam", {"channel_pool": "std"}, "channel_pool must be 'both', 'mean' or 'max', got 'std'"),
        ("cbam", {"spatial_pool": "std"}, "spatial_pool must be 'both', 'mean' or 'max', got 'std'"),
        ("cbam", {"order": "both"}, "'channel', 'spatial' or 'parallel', got 'both'"),
    ],
)
def test_there_are_no_others(name, options, message):
    with pytest.raises(ValueError, match=message):
        catalog.load(name)(16, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("se", {"squeeze": "max"}),
        ("se", {"excitation": "tanh"}),
        ("se", {"excitation": "relu"}),
        ("cbam", {"order": "spatial", "channel_pool": "mean", "spatial_pool": "max"}),
        ("cbam", {"order": "parallel", "channel_pool": "max"}),
        ("cbam", {"branches": "spatial", "spatial_pool": "mean"}),
        ("cbam", {"branches": "channel"}),
    ],
    ids=str,
)
def test_ablations_keep_every_promise(name, options):
    graphs = {"compiles_whole", "exports_for_any_size"}
    tried = [promise for promise in PROMISES if promise.__name__ not in graphs]
    records = examine(catalog.load(name), catalog.spec(name), options=options, promises=tried)
    assert {r.promise for r in records if r.status != "passed"} == set()


def test_the_defaults_are_those_of_the_authors():
    torch.manual_seed(0)
    plain = create("cbam", 16)
    torch.manual_seed(0)
    told = create("cbam", 16, branches="both", channel_pool="both", spatial_pool="both", order="channel")
    x = torch.randn(2, 16, 5, 4)
    assert torch.equal(plain(x), told(x))
