"""The size of a picture as users write it."""

import pytest
import torch

from saccade import UserError
from saccade.image_size import parse_size


@pytest.mark.parametrize("given", [(3, 8, 6), [3, 8, 6], torch.Size([3, 8, 6]), "3,8,6", "3x8x6", " 3, 8, 6"])
def test_three_positive_integers(given):
    assert parse_size(given) == (3, 8, 6)


@pytest.mark.parametrize(
    "given", [(3, 8), (3, 8, 0), (3, 8.0, 6), 3, None, "3,8", "3,8,-1", "3,a,8", "", torch.zeros(3, 8, 6)]
)
def test_anything_else_is_refused(given):
    with pytest.raises(UserError, match=r"^it is three positive integers \(C, H, W\), got .*; for example 3,224,224$"):
        parse_size(given, "it")
