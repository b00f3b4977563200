"""VT-FPN: its cost, what its levels read, its tokens, and errors. What it shares is in ``test_semantic_fpn.py``."""

import pytest
import torch
from pyramid_networks import SIZE, macs, make, pictures

from saccade.errors import UserError


def test_the_cost_of_the_pyramid_is_the_printed_one():
    """VT, arXiv:2006.03677, tables 9 and 10: 8.5 and 2.0 G, where the pyramid of semantic_fpn takes 55.1 and 12.8."""
    pyramid, head = macs("vt_fpn", 800, 1216)
    assert pyramid == pytest.approx(8.5, abs=0.15)
    assert macs("vt_fpn", 473, 473)[0] == pytest.approx(2.0, abs=0.1)
    assert head == macs("semantic_fpn", 800, 1216)[1]
    # by hand: laterals; filters, averages, query and two products of attention at every pixel; the rest per token
    pixels = 200 * 304 / 4 ** torch.arange(4.0)
    laterals = float((256 * pixels * torch.tensor([256, 512, 1024, 2048])).sum())
    at_pixels = float(pixels.sum()) * 256 * (8 + 8 + 256 / 16 + 8 + 8)
    layers = 1024 * (512 / 4 * 2 + 1024 / 4 + 1024) + 1024 * (256 + 49) + 1024 * 256 * 2
    assert pyramid == pytest.approx((laterals + at_pixels + 32 * layers) / 1e9, rel=1e-3)


def test_levels_read_each_other_through_the_tokens_alone():
    net = make("vt_fpn")
    maps = net.encoder(pictures())
    levels = net.pyramid(maps)
    for changed in range(4):
        other = net.pyramid([x + (n == changed) for n, x in enumerate(maps)])
        assert not any(torch.allclose(x, y, atol=1e-4) for x, y in zip(levels, other, strict=True))
    net.pyramid.transformer.value.weight.data.zero_()  # tokens no longer read tokens
    levels = net.pyramid(maps)
    other = net.pyramid([x + (n == 0) for n, x in enumerate(maps)])
    assert [torch.equal(x, y) for x, y in zip(levels, other, strict=True)] == [False, True, True, True]


def test_the_forward_pass_by_hand():
    net = make("vt_fpn", tokens=3)
    pyramid, maps = net.pyramid, net.encoder(pictures())
    laterals, tokens = [], []
    for lateral, tokenizer, x in zip(pyramid.laterals, pyramid.tokenizers, maps, strict=True):
        y = lateral(x)
        attention = (torch.einsum("lc,bchw->blhw", tokenizer.filters.weight[:, :, 0], y) / 32**0.5).flatten(2)
        attention = attention.softmax(2).unflatten(2, y.shape[2:])
        average = torch.einsum("blhw,bchw->bcl", attention, y)
        code = torch.cat([average, tokenizer.position(attention)], 1)
        tokens.append(torch.einsum("oc,bcl->bol", tokenizer.output.weight[:, :, 0], code))
        laterals.append(y)
    assert [t.shape for t in tokens] == [(2, 128, 3)] * 4
    related = pyramid.transformer(torch.cat(tokens, 2))
    expected = [
        projector(y, related[:, :, 3 * k : 3 * k + 3])
        for k, (projector, y) in enumerate(zip(pyramid.projectors, laterals, strict=True))
    ]
    for found, level in zip(pyramid(maps), expected, strict=True):
        torch.testing.assert_close(found, level, rtol=1e-4, atol=1e-4)


def test_the_maps_of_the_tokens_pass_through_taps():
    net, seen = make("vt_fpn"), []
    for tokenizer in net.pyramid.tokenizers:
        tokenizer.tap.register_forward_hook(lambda module, inputs, maps: seen.append(maps))
    net(pictures())
    assert [maps.shape for maps in seen] == [(2, 8, 33, 46), (2, 8, 17, 23), (2, 8, 9, 12), (2, 8, 5, 6)]
    for maps in seen:
        torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 8))
        assert maps.std() > 0


def test_width_and_numbers_of_tokens():
    net = make("vt_fpn", width=0.3, tokens=5, token_channels=100)
    assert [tokenizer.output.weight.shape[:1] for tokenizer in net.pyramid.tokenizers] == [(32,)] * 4
    assert (net.pyramid.channels, net.head.classifier.in_channels) == (80, 40)
    assert net(pictures(1)).shape == (1, 5, *SIZE)
    with pytest.raises(UserError, match="tokens must be at least 1, got 0"):
        make("vt_fpn", tokens=0)
