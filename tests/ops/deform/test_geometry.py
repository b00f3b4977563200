"""Operands of a deformable convolution that do not belong together: refused, with their numbers."""

import pytest
import torch

from saccade.ops.deform import deform_conv2d, deform_conv2d_definition

FORMS = pytest.mark.parametrize("form", [deform_conv2d, deform_conv2d_definition], ids=["fast", "definition"])
X, OFFSET, WEIGHT = torch.zeros(2, 6, 5, 7), torch.zeros(2, 18, 5, 7), torch.zeros(4, 6, 3, 3)


@FORMS
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": X[0]}, r"input must have 4 dimensions, got shape \(6, 5, 7\)"),
        ({"bias": torch.zeros(4, 1)}, r"bias must have 1 dimensions, got shape \(4, 1\)"),
        ({"bias": torch.zeros(3)}, r"bias must have the shape \(4,\), got \(3,\)"),
        ({"offset": OFFSET[:, :17]}, r"multiple of 2 \* 3 \* 3 = 18 channels, got 17"),
        ({"offset": OFFSET[:, :0]}, r"multiple of 2 \* 3 \* 3 = 18 channels, got 0"),
        ({"offset": OFFSET.repeat(1, 4, 1, 1)}, r"72 channels, 18 .* these 4 groups do not divide the 6 input"),
        ({"offset": OFFSET[:, :, :4]}, r"offset must have the shape \(2, 18, 5, 7\), got \(2, 18, 4, 7\)"),
        ({"offset": OFFSET[:1]}, r"offset must have the shape \(2, 18, 5, 7\), got \(1, 18, 5, 7\)"),
        ({"stride": 2}, r"offset must have the shape \(2, 18, 3, 4\), got \(2, 18, 5, 7\)"),
        ({"mask": torch.zeros(2, 18, 5, 7)}, r"mask must have the shape \(2, 9, 5, 7\), got \(2, 18, 5, 7\)"),
        ({"weight": WEIGHT[:, :4]}, r"6 channels, not a multiple of the 4 that weight takes"),
        ({"weight": WEIGHT[:3, :3]}, r"6 channels and weight takes 3: these 2 groups do not divide the 3 output"),
        ({"weight": WEIGHT[:, :, :0]}, r"weight must have no empty dimension"),
        ({"stride": 0}, r"stride must be a whole number >= 1 or a pair of them, got 0"),
        ({"padding": (1, -1)}, r"padding must be a whole number >= 0 or a pair of them, got \(1, -1\)"),
        ({"dilation": (1, 1, 1)}, r"dilation must be .* got \(1, 1, 1\)"),
        ({"stride": 1.5}, r"stride must be .* got 1.5"),
        ({"dilation": 4}, r"map of 5x7 with padding \(1, 1\) has no room for a 3x3 kernel with dilation \(4, 4\)"),
        ({"offset": OFFSET.double()}, r"one dtype, got input float32, offset float64, weight float32"),
        ({"input": X.long()}, r"floating point, got input int64"),
        ({"offset": OFFSET.to("meta")}, r"one device, got input cpu, offset meta"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_numbers(form, change, message):
    with pytest.raises(ValueError, match=message):
        form(**({"input": X, "offset": OFFSET, "weight": WEIGHT, "padding": 1} | change))
