"""Self-attention in place of a convolution. σ(ln k) = k / (1 + k)."""

from math import log

import pytest
import torch
from torch import nn

import saccade
from by_hand import equals, image, with_values
from saccade import create

LN3 = log(3)


def test_it_is_self_attention_where_no_width_changes():
    torch.manual_seed(0)
    ours, plain = create("self_attention_conv", 16), create("self_attention", 16)
    state = ours.state_dict() | {"gamma": torch.tensor([0.7])}
    ours.load_state_dict(state)
    plain.load_state_dict(state)
    x = torch.randn(2, 16, 5, 7)
    assert torch.equal(ours(x), plain(x))
    ours.gamma.data.zero_()
    assert torch.equal(ours(x), x)


def test_a_wider_output_by_hand():
    # As for self_attention: weights (3/4, 1/4) and (9/10, 1/10) of the values (8, 16), o = (10, 8.8); γ = 1/2. P takes
    # channel 0 into output 3 and nothing else; the bias is 1 in output 0.
    values = {"query__weight": [1, 0, 0], "key__weight": [0, 1, 0], "gamma": [0.5], "bias": [1, 0, 0, 0],
              "value__weight": [*[0] * 3, *[0] * 3, 0, 0, 1, *[0] * 3],
              "shortcut__weight": [*[0] * 9, 1, 0, 0]}  # fmt: skip
    layer = with_values(create("self_attention_conv", 3, out_channels=4, bias=True, rd_ratio=1 / 3), **values)
    equals(layer(image([[1, 2]], [[LN3, 0]], [[8, 16]])), [[[[1, 1]], [[0, 0]], [[5, 4.4]], [[1, 2]]]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 2}, "stride and groups must be 1, got 2 and 1"),
        ({"groups": 2}, "stride and groups must be 1, got 1 and 2"),
        ({"padding": 0}, "padding must be dilation"),
        ({"kernel_size": 2}, "padding must be dilation"),
        ({"out_channels": 0}, "channels, out_channels and kernel_size must be at least 1"),
    ],
)
def test_a_geometry_that_changes_the_size_is_refused(options, message):
    with pytest.raises(saccade.UserError, match=message):
        create("self_attention_conv", 16, **options)
    assert create("self_attention_conv", 16, dilation=2, kernel_size=5, padding=4)


def test_spectral_norm_bounds_every_matrix():
    torch.manual_seed(0)
    for name in ("self_attention", "self_attention_conv"):
        plain, normed = create(name, 16), create(name, 16, spectral_norm=True)
        for layer in (normed.query, normed.key, normed.value):
            layer.parametrizations.weight.original.data.mul_(50)
        x = torch.randn(2, 16, 4, 4)
        for _ in range(30):
            normed(x)  # each forward pass in training improves the estimate
        norms = [
            torch.linalg.matrix_norm(m.weight.flatten(1), 2).item() for m in (normed.query, normed.key, normed.value)
        ]
        assert norms == pytest.approx([1] * 3, abs=0.02)
        assert all(
            abs(torch.linalg.matrix_norm(m.weight.flatten(1), 2).item() - 1) > 0.05 for m in (plain.query, plain.key)
        )
        assert not any(isinstance(m, nn.utils.parametrize.ParametrizationList) for m in plain.modules())
