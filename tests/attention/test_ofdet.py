"""The reading of OFDet worked out on paper; σ(ln k) = k / (1 + k)."""

from math import log

import pytest

from by_hand import equals, gates, image, with_values
from saccade import create
from saccade.attention.ofdet import ThreeAttentions

LN3 = log(3)
X = image([[1, 3]], [[2, 2]])
MIDDLE = [0, 0, 0, 0, 1, 0, 0, 0, 0]


def _ofdet(**values):
    return with_values(create("ofdet", 2, rd_ratio=0.5, kernel_size=1), **values)


def test_three_halves_where_all_are_silent():
    equals(gates(_ofdet()(X), X), [[1.5, 1.5], [1.5, 1.5]])


def test_the_channel_gate():
    # means (2, 2); the unit takes the first, 2 − 1 = 1; logits (ln 3, −ln 3): 3/4 and 1/4, and two halves
    ofdet = _ofdet(channel__0__weight=[1, 0], channel__0__bias=[-1], channel__2__weight=[LN3, -LN3])
    equals(gates(ofdet(X), X), [[1.75, 1.75], [1.25, 1.25]])


def test_the_spatial_gate_reads_the_maximum_first_and_the_mean_second():
    # max (2, 3), mean (1.5, 2.5): ln 3 · (2·max − 2·mean) = ln 3 in both places; ln 3 · (mean − 1.5) = 0, ln 3
    ofdet = _ofdet(spatial__weight=[2 * LN3, -2 * LN3])
    equals(gates(ofdet(X), X), [[1.75, 1.75], [1.75, 1.75]])
    ofdet = _ofdet(spatial__weight=[0, LN3], spatial__bias=[-1.5 * LN3])
    equals(gates(ofdet(X), X), [[1.5, 1.75], [1.5, 1.75]])


def test_the_joint_gate_has_a_value_of_its_own_everywhere():
    # the unit is ReLU(x₀ − 2) = (0, 1); ln 3 of it to channel 0, −ln 3 to channel 1
    taps = [[LN3 * t for t in MIDDLE], [-LN3 * t for t in MIDDLE]]
    ofdet = _ofdet(joint__0__weight=[1, 0], joint__0__bias=[-2], joint__2__weight=taps)
    equals(gates(ofdet(X), X), [[1.5, 1.75], [1.5, 1.25]])


def test_options_decide_the_size():
    # C = 32, two units: 2·32·2 + 34 and 32·2 + 9·2·32 + 34; 2·9 + 1
    assert sum(p.numel() for p in create("ofdet", 32, kernel_size=3).parameters()) == 162 + 674 + 19


@pytest.mark.parametrize("options", [{"rd_ratio": 0.05}, {"kernel_size": 4}, {"kernel_size": -1}])
def test_what_cannot_be_built_is_refused(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        ThreeAttentions(16, **options)
