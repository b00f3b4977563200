"""The visual-transformer block worked out on paper, and against its equations as printed."""

from math import log

import pytest
import torch

from by_hand import equals, image, with_values
from saccade import create
from saccade.attention.visual_transformer import VisualTransformer

LN3 = log(3)


def test_without_weights_every_pixel_gets_twice_the_mean():
    # T = the mean, in each of two tokens; the transformer adds the mean of the tokens: T' = 2·mean; Y = X + T'
    vt = with_values(create("vt", 1, tokens=2))
    equals(vt(image([[1, 2, 6]])), [[[[7, 8, 12]]]])


def test_tokens_are_weighted_sums_over_the_pixels():
    # W_A = (1, −1), x = (0, ln 3): token 1 weighs the pixels (1/4, 3/4), token 2 (3/4, 1/4): T = (¾ ln 3, ¼ ln 3).
    # Their mean is ½ ln 3, T' = (5/4 ln 3, 3/4 ln 3), and every pixel gets the mean of these, ln 3.
    vt = with_values(create("vt", 1, tokens=2), tokenize__weight=[1, -1])
    equals(vt(image([[0, LN3]])), [[[[LN3, 2 * LN3]]]])


def test_the_layers_over_tokens():
    # T = 3 everywhere, T' = 6; ReLU(6·F₁)·F₂ with F₁ = 2, F₂ = −½: −6. So T″ = 0, and with F₁ = −2 it stays 6.
    x = image([[1, 5]])
    equals(with_values(create("vt", 1, tokens=2), widen__weight=[2], narrow__weight=[-0.5])(x), [[[[1, 5]]]])
    equals(with_values(create("vt", 1, tokens=2), widen__weight=[-2], narrow__weight=[-0.5])(x), [[[[7, 11]]]])


def test_pixels_ask_and_tokens_answer():
    # T' = (5/4 ln 3, 3/4 ln 3) as above; with W_Q = 2/ln 3, W_K = 1 the pixel ln 3 has logits (5/2 ln 3, 3/2 ln 3):
    # weights 3/4 and 1/4, 9/8 ln 3; the pixel 0 has none: ln 3. Its key alone is asked for, not its query.
    vt = with_values(
        create("vt", 1, tokens=2), tokenize__weight=[1, -1], pixel_query__weight=[2 / LN3], token_key__weight=[1]
    )
    equals(vt(image([[0, LN3]])), [[[[LN3, LN3 + 9 / 8 * LN3]]]])


def _printed(vt, x, scale):
    """Equations 1, 3, 4 and 5, line by line."""
    pixels = x.flatten(2).transpose(1, 2)
    t = (vt.tokenize(pixels) * scale).softmax(1).transpose(1, 2) @ pixels
    t = t + (vt.key(t) @ vt.query(t).transpose(1, 2) * scale).softmax(2) @ t
    t = t + vt.narrow(vt.widen(t).relu())
    asked = vt.pixel_query(pixels) @ vt.token_key(t).transpose(1, 2)
    return (pixels + (asked * scale).softmax(2) @ t).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("scaled", [False, True])
def test_equals_the_printed_equations(scaled):
    torch.manual_seed(0)
    vt = create("vt", 9, tokens=5, scaled=scaled).double()
    with torch.no_grad():
        for p in vt.parameters():
            p.normal_(std=0.5)
    x = torch.randn(3, 9, 4, 7, dtype=torch.float64)
    equals(vt(x), _printed(vt, x, 1 / 3 if scaled else 1).tolist(), within=1e-11)
    assert (vt(x) - _printed(vt, x, 1 if scaled else 1 / 3)).abs().max() > 1e-2


def test_six_square_layers_and_the_tokenizer():
    assert sum(p.numel() for p in create("vt", 10).parameters()) == 16 * 10 + 6 * 100


def test_one_token_is_refused():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        VisualTransformer(4, tokens=1)
