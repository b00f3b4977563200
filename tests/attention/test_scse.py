"""scSE, worked out on paper. σ(ln k) = k / (1 + k)."""

from math import log

import pytest
import torch

from by_hand import equals, image, with_values
from saccade import create

LN2, LN3 = log(2), log(3)
# Means (1, 3): the unit holds 1 + 3 − 1 = 3, logits 3 · (ln 3 / 3, −ln 3 / 3): channel gates (3/4, 1/4).
# Place logits read channel 0, (ln 2, 2 − ln 2), and channel 1 not at all; its bias is 0: place gate 2/3 on the left.
X = image([[LN2, 2 - LN2]], [[-2, 8]])
VALUES = {"squeeze__weight": [1, 1], "squeeze__bias": [-1], "excite__weight": [LN3 / 3, -LN3 / 3]}


def _scse(**options):
    return with_values(create("scse", 2, rd_ratio=0.5, **options), **VALUES, place__weight=[1, 0])


def test_scse_adds_both():
    y = _scse()(X)
    equals(y[0, :, 0, 0], [(3 / 4 + 2 / 3) * LN2, (1 / 4 + 2 / 3) * -2])


def test_scse_takes_the_larger_value():
    # where x is negative the smaller gate gives the larger value: max(−2/4, −4/3) = −1/2
    y = _scse(combine="max")(X)
    equals(y[0, :, 0, 0], [3 / 4 * LN2, -0.5])


def test_scse_of_zeros_leaves_the_map_as_it_is():
    # both gates are 1/2: added they are 1, and the larger is 1/2
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    equals(with_values(create("scse", 16))(x), x.tolist())
    equals(with_values(create("scse", 16, combine="max"))(x), (x / 2).tolist())


def test_scse_refuses_another_combination():
    with pytest.raises(ValueError, match="'add' or 'max', got 'concat'"):
        create("scse", 16, combine="concat")


def test_scse_is_that_of_segmentation_models_pytorch():
    modules = pytest.importorskip("segmentation_models_pytorch.base.modules")
    torch.manual_seed(0)
    theirs, ours = modules.SCSEModule(32).eval(), create("scse", 32)
    names = {"squeeze": "cSE.1", "excite": "cSE.3", "place": "sSE.0"}
    state = theirs.state_dict()
    own = ours.state_dict()
    ours.load_state_dict(
        {k: state[f"{names[k.split('.')[0]]}.{k.split('.')[1]}"].reshape(v.shape) for k, v in own.items()}
    )
    x = torch.randn(2, 32, 7, 5)
    torch.testing.assert_close(ours(x), theirs(x))
