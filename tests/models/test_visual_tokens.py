"""Tokenizers, transformers and projectors of visual tokens, against their equations."""

import pytest
import torch
import torch.nn.functional as F

from saccade.errors import UserError
from saccade.models._visual_tokens import (
    ClusteringTokenizer,
    EquationProjector,
    EquationTransformer,
    FilterTokenizer,
    PoolingTokenizer,
    PositionCode,
    Projector,
    RecurrentTokenizer,
    TokenGraphConvolution,
    TokenTransformer,
)

B, C, L, CT = 2, 32, 4, 64
EACH_TOKENIZER = pytest.mark.parametrize(
    "kind", [FilterTokenizer, RecurrentTokenizer, PoolingTokenizer, ClusteringTokenizer]
)


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(kind, token_channels=CT, **options):
    return kind(C, L, token_channels, previous_channels=CT, **options)


def data(height=6, width=10):
    return torch.randn(B, C, height, width), torch.randn(B, CT, L)


def tapped(tokenizer, *inputs):
    """Return the tokens and the maps that pass through the tap."""
    seen = []
    handle = tokenizer.tap.register_forward_hook(lambda module, args, output: seen.append(output))
    tokens = tokenizer(*inputs)
    handle.remove()
    return tokens, *seen


def grouped(layer, x):
    """Multiply channels (B, C, N) by the weights of a grouped layer, one group at a time."""
    parts = zip(layer.weight[..., 0].chunk(layer.groups), x.chunk(layer.groups, 1), strict=True)
    return torch.cat([torch.einsum("oc,bcn->bon", weight, part) for weight, part in parts], 1)


def attention(query, key, value, heads):
    """Softmax attention (B, C, N) by head, with logits divided by the root of a head's channels."""
    result = []
    for q, k, v in zip(query.chunk(heads, 1), key.chunk(heads, 1), value.chunk(heads, 1), strict=True):
        weights = (torch.einsum("bcn,bcl->bnl", q, k) / q.shape[1] ** 0.5).softmax(2)
        result.append(torch.einsum("bnl,bcl->bcn", weights, v))
    return torch.cat(result, 1)


@EACH_TOKENIZER
def test_token_maps_sum_to_one_and_tokens_are_their_averages(kind):
    x, previous = data()
    tokenizer = make(kind)
    tokens, maps = tapped(tokenizer, x, previous)
    assert maps.shape == (B, L, 6, 10)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(B, L))
    averages = torch.einsum("bcn,bln->bcl", grouped(tokenizer.value, x.flatten(2)), maps.flatten(2))
    code = F.conv2d(
        F.interpolate(maps, (14, 14), mode="bilinear"), tokenizer.position.conv.weight, stride=2, padding=1, groups=L
    )
    parts = torch.cat([averages, code.flatten(2).mT, previous], 1)
    torch.testing.assert_close(tokens, torch.einsum("oi,bil->bol", tokenizer.output.weight[..., 0], parts))


@EACH_TOKENIZER
def test_plain_tokens_are_averages_of_the_map_itself(kind):
    x, previous = data()
    tokens, maps = tapped(make(kind, token_channels=None), x, previous)
    torch.testing.assert_close(tokens, torch.einsum("bchw,blhw->bcl", x, maps))


def test_maps_of_filters():
    x, previous = data()
    tokenizer = make(FilterTokenizer)
    _, maps = tapped(tokenizer, x, previous)
    logits = torch.einsum("lc,bchw->blhw", tokenizer.filters.weight[..., 0], x)
    torch.testing.assert_close(maps.flatten(2), (logits / C**0.5).flatten(2).softmax(2))
    plain = make(FilterTokenizer, token_channels=None)
    plain.load_state_dict({"filters.weight": tokenizer.filters.weight})
    torch.testing.assert_close(tapped(plain, x)[1].flatten(2), logits.flatten(2).softmax(2))


def test_maps_of_recurrent_filters():
    x, previous = data()
    tokenizer = make(RecurrentTokenizer)
    _, maps = tapped(tokenizer, x, previous)
    query = torch.einsum("oc,bcl->bol", tokenizer.query.weight[..., 0], previous)
    logits = torch.einsum("bcl,bcn->bln", query, grouped(tokenizer.key, x.flatten(2)))
    torch.testing.assert_close(maps.flatten(2), (logits / C**0.5).softmax(2))


@EACH_TOKENIZER
def test_only_recurrent_maps_depend_on_the_earlier_tokens(kind):
    x, previous = data()
    tokenizer = make(kind)
    tokens, maps = tapped(tokenizer, x, previous)
    other_tokens, other_maps = tapped(tokenizer, x, previous + 1)
    assert torch.equal(maps, other_maps) == (kind is not RecurrentTokenizer)
    assert not torch.equal(tokens, other_tokens)
    assert torch.equal(tapped(tokenizer, x + torch.randn_like(x), previous)[1], maps) == (kind is PoolingTokenizer)


@pytest.mark.parametrize("size", [(6, 10), (5, 7), (2, 3), (1, 1)])
def test_pooling_is_adaptive_average_pooling(size):
    x, _ = data(*size)
    tokens = PoolingTokenizer(C, 9, None)(x)
    torch.testing.assert_close(tokens, F.adaptive_avg_pool2d(x, 3).flatten(2))
    narrower = F.adaptive_avg_pool2d(x[..., :-1], 3).flatten(2) if size[1] > 1 else 0 * tokens
    assert not torch.allclose(tokens, narrower)


def test_clusters_are_found_and_averaged():
    centres = 5 * torch.eye(C)[:L]
    member = torch.randint(L, (B, 60))
    member[:, [7, 22, 37, 52]] = torch.arange(L)  # the pixels where the centroids start
    x = (centres[member] + 0.1 * torch.randn(B, 60, C)).mT.unflatten(2, (6, 10)).requires_grad_()
    tokens, maps = tapped(ClusteringTokenizer(C, L, None), x)
    expected = F.one_hot(member, L).mT / F.one_hot(member, L).sum(1)[:, :, None]
    torch.testing.assert_close(maps.flatten(2), expected)
    tokens[:, 0, 1].sum().backward()
    torch.testing.assert_close(x.grad[:, 0].flatten(1), expected[:, 1])
    assert x.grad[:, 1].abs().max() == 0


def test_clusters_of_fewer_pixels_than_tokens_keep_a_map_each():
    tokens, maps = tapped(ClusteringTokenizer(C, L, None), x := torch.randn(B, C, 1, 2))
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(B, L))
    assert torch.isfinite(tokens).all()
    assert {tuple(t.tolist()) for t in tokens[0].mT} == {tuple(p.tolist()) for p in x[0, :, 0].mT}


def test_transformer_against_its_equation():
    transformer, (_, tokens) = TokenTransformer(CT, heads=4, groups=4), data()
    layers = transformer.query, transformer.key, transformer.value
    changed = tokens + attention(*(grouped(layer, tokens) for layer in layers), 4)
    changed = changed + torch.einsum("oc,bcl->bol", transformer.feed_forward.weight[..., 0], changed)
    torch.testing.assert_close(transformer(tokens), changed)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(transformer(tokens[..., order]), changed[..., order])
    graph = TokenGraphConvolution(L)
    torch.testing.assert_close(graph(tokens), tokens + torch.einsum("bcl,lm->bcm", tokens, graph.adjacency).clamp(0))
    assert not torch.allclose(graph(tokens[..., order]), graph(tokens)[..., order])


@pytest.mark.parametrize("out_channels", [C, 2 * C])
def test_projector_against_its_equation(out_channels):
    projector, (x, tokens) = Projector(C, out_channels, CT, heads=4, groups=8), data()
    query, key, value = projector.query, projector.key, projector.value
    read = attention(grouped(query, x.flatten(2)), grouped(key, tokens), grouped(value, tokens), 4)
    lateral = x if out_channels == C else torch.einsum("oc,bchw->bohw", projector.lateral.weight[..., 0, 0], x)
    torch.testing.assert_close(projector(x, tokens), lateral + read.unflatten(2, (6, 10)))
    assert (query.groups, key.groups, value.groups) == (8, 1, 1)


def test_printed_equations_3_to_5():
    tokens, (x, _) = torch.randn(B, C, L), data()
    transformer, projector = EquationTransformer(C), EquationProjector(C)
    t, pixels = tokens.mT, x.flatten(2).mT  # rows, as in the paper
    k, q, f1, f2 = (
        layer.weight[..., 0].T for layer in (transformer.key, transformer.query, transformer.widen, transformer.narrow)
    )
    t = t + ((t @ k) @ (t @ q).mT).softmax(2) @ t
    t = t + (t @ f1).relu() @ f2
    torch.testing.assert_close(transformer(tokens), t.mT)
    wq, wk = (layer.weight[..., 0].T for layer in (projector.query, projector.key))
    y = pixels + ((pixels @ wq) @ (t @ wk).mT).softmax(2) @ t
    torch.testing.assert_close(projector(x, t.mT), y.mT.unflatten(2, (6, 10)))


def test_the_position_code_tells_where_a_map_lies():
    code = PositionCode(L)
    corner = torch.zeros(1, L, 8, 8)
    corner[..., 0, 0] = 1
    assert code(corner).shape == (1, PositionCode.channels, L) == (1, 49, L)
    assert not torch.allclose(code(corner), code(corner.flip(3)))
    x, previous = data()
    assert make(FilterTokenizer, position=False).output.in_channels == C + CT
    assert make(FilterTokenizer, position=False)(x, previous).shape == (B, CT, L)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: FilterTokenizer(C, 0), "tokens must be at least 1, got 0"),
        (lambda: FilterTokenizer(30, L), "channels must be a multiple of the groups, got 30 and 8"),
        (lambda: PoolingTokenizer(C, 15), "square number for pooling, got 15; use 16"),
        (lambda: RecurrentTokenizer(C, L, CT, previous_channels=0), "at least 1, got 0"),
        (lambda: RecurrentTokenizer(C, L, CT, previous_channels=CT)(data()[0]), "got none"),
        (lambda: FilterTokenizer(C, L, CT, previous_channels=CT)(data()[0]), "got none"),
        (lambda: TokenTransformer(48), "token_channels must be a multiple of the doubled heads, got 48 and 32"),
        (lambda: Projector(C, 40, CT), "out_channels must be a multiple of the heads, got 40 and 16"),
    ],
)
def test_wrong_sizes_are_refused(build, words):
    with pytest.raises(UserError, match=words):
        build()
