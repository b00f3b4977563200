"""Deformable attention: places, biases and parts worked out on paper; the oracles are in test_attention_oracles.py."""

from math import log, log2

import pytest
import torch
from torch import nn, tensor

import saccade.attention.dat as dat
from by_hand import equals, image, with_values
from saccade import create

LN3 = log(3)


def _alone(places=False, **values):
    """One channel, one head, a place for every pixel; the value is the map, and the output the value."""
    options = {"num_heads": 1, "groups": 1, "stride": 1, "kernel_size": 3, "position": "none"} | values.pop(
        "options", {}
    )
    module = with_values(create("dat", 1, **options), **{"value__weight": [1], "project__weight": [1], **values})
    seen = []
    module.tap.register_forward_hook(lambda _module, _arguments, out: seen.append(out))
    return (module, seen) if places else module


def test_places_without_offsets_are_half_a_step_off_and_clamped():
    # Three columns: 2(i + ½)/2 − 1 = (−½, ½, 1½), the last clamped to 1; one row: the middle. x = (0, 1, 2) is x̃ =
    # (½, 1½, 2) there, and with equal weights the mean is 4/3.
    module, seen = _alone(places=True)
    equals(module(image([[0, 1, 2]])), [[[[4 / 3] * 3]]])
    equals(seen[0][0, 0, 0], [[0, -0.5], [0, 0.5], [0, 1]])


def test_places_within_a_range_are_not_clamped_and_read_zeros_outside():
    # The same three, the last at 1½: half way from the last pixel to the zeros, x̃ = 1. The mean is (½ + 1½ + 1)/3 = 1.
    module, seen = _alone(places=True, options={"offset_range": 2.0})
    equals(module(image([[0, 1, 2]])), [[[[1, 1, 1]]]])
    equals(seen[0][0, 0, 0, :, 1], [-0.5, 0.5, 1.5])


def test_what_a_range_lets_a_place_move():
    # A norm of one channel is its shift: z = GELU(40) = 40, tanh(40 w) = ±1 for w = ±1. Two steps of 1/(3 − 1) down
    # (y comes first; one row: of 1/1) and two to the left.
    module, seen = _alone(places=True, norm__bias=[40], move__weight=[1, -1], options={"offset_range": 2.0})
    module(image([[0, 1, 2]]))
    equals(seen[0][0, 0, 0], [[2, -1.5], [2, -0.5], [2, 0.5]])


def test_the_logits_are_products_over_the_root_of_the_width():
    # C = 4 in one head, all layers the identity, and only the first channel is not zero: (a, 0) in two columns. Places
    # at 0 and, clamped, at 1: the keys are (a/2, 0). The first pixel asks with a: logits (a · a/2 / √4, 0), which with
    # a = 2 √ln 3 is (ln 3, 0) and weights (3/4, 1/4); the second asks with 0: (1/2, 1/2).
    eye = torch.eye(4).tolist()
    module = with_values(
        create("dat", 4, num_heads=1, groups=1, stride=1, kernel_size=3, position="none"),
        query__weight=eye, key__weight=eye, value__weight=eye, project__weight=eye,
    )  # fmt: skip
    a = 2 * LN3**0.5
    y = module(image([[a, 0]], [[0, 0]], [[0, 0]], [[0, 0]]))
    equals(y[0, 0, 0], [3 / 4 * a / 2, 1 / 2 * a / 2])
    equals(y[0, 1:], torch.zeros(3, 1, 2).tolist())


def test_a_table_is_read_at_the_difference_of_places():
    # W = 2, table of 1×3. Places 0 and 1; pixels −1 and 1. Differences, halved: pixel 0: −½, −1; pixel 1: ½, 0.
    # The table (ln 3, 0, −ln 3) runs from −1 to 1: ½ ln 3, ln 3; −½ ln 3, 0. So the first pixel weighs the keys
    # √3 : 3, the second 1/√3 : 1. x̃ = (½ (x₀ + x₁), x₁) = (2, 4).
    module = _alone(table=[LN3, 0, -LN3], options={"position": "table", "size": (1, 2)})
    root = 3**0.5
    expected = (2 * root + 4 * 3) / (root + 3)
    equals(module(image([[0, 4]])), [[[[expected, (2 / root + 4) / (1 / root + 1)]]]])


def test_the_logarithm_of_the_distance():
    # d = 4 (q − p) = −4, −8; 4, 0 along x: sign · log₂(1 + |d|)/3. The network passes it through a pair of units,
    # ReLU(d) − ReLU(−d), times 3 ln 2: logits ∓ln(1 + |d|) -> weights 1/5 : 1/9 and 5 : 1.
    module = _alone(options={"position": "log"})
    with torch.no_grad():
        module.distance[0].weight[0, 1], module.distance[0].weight[1, 1] = 1, -1
        module.distance[2].weight[0, :2] = tensor([3 * log(2), -3 * log(2)], dtype=torch.float64)
    assert log2(8) == 3
    equals(module(image([[0, 4]])), [[[[(2 / 5 + 4 / 9) / (1 / 5 + 1 / 9), (2 * 5 + 4) / 6]]]])


def test_groups_have_places_of_their_own_and_share_what_finds_them():
    torch.manual_seed(0)
    module = create("dat", 8, num_heads=4, groups=2, position="none").double().eval()
    seen = []
    module.tap.register_forward_hook(lambda _module, _arguments, out: seen.append(out))
    x = torch.randn(1, 8, 7, 6, dtype=torch.float64)
    nn.init.normal_(module.move.weight)
    module(x)
    assert seen[0].shape == (1, 2, 4, 3, 2)
    assert not torch.equal(seen[0][:, 0], seen[0][:, 1])
    with torch.no_grad():  # the second group sees what the first saw
        module.query.weight[4:], module.query.bias[4:] = module.query.weight[:4], module.query.bias[:4]
    module(x)
    equals(seen[1][:, 1], seen[1][:, 0].tolist())


@pytest.mark.parametrize("options", [{"size": (9, 7)}, {"size": (9, 7), "offset_range": 1.5}, {"position": "log"}])
@pytest.mark.parametrize("size", [(9, 7), (5, 8), (1, 1), (1, 6)])
def test_parts_formed_one_after_the_other_are_the_whole(monkeypatch, options, size):
    torch.manual_seed(0)
    module = create("dat", 16, **options).double()
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.5)
    x = torch.randn(3, 16, *size, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(3, 16, *size, dtype=torch.float64)

    def results():
        y = module(x)
        return y, *torch.autograd.grad((y * cotangent).sum(), [x, *module.parameters()], allow_unused=True)

    expected = results()
    calls = []
    for name in ("checkpoint", "relative_attention"):
        form = getattr(dat, name)
        monkeypatch.setattr(dat, name, lambda *a, form=form, **k: calls.append(1) or form(*a, **k))
    for at_once, kept in ((100, 2**24), (100, 0), (2000, 0)):
        monkeypatch.setattr(dat, "MAX_CHUNK", at_once)
        monkeypatch.setattr(dat, "MAX_SAVED", kept)
        calls.clear()
        for found, known in zip(results(), expected, strict=True):
            torch.testing.assert_close(found, known, rtol=1e-10, atol=1e-10)
        assert bool(calls) is (kept == 0)


def test_a_table_is_stretched_over_another_size():
    """A table that rises evenly is the same after it: one of 9×7 numbers serves a map of 9×11 as one of 17×21 does."""
    torch.manual_seed(0)
    fitting, other = (create("dat", 8, num_heads=2, groups=1, size=size).double() for size in ((9, 11), (5, 4)))
    other.load_state_dict({**fitting.state_dict(), "table": other.table})
    for module in (fitting, other):
        _, rows, columns = module.table.shape
        down, across = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (rows, columns))
        with torch.no_grad():
            module.table.copy_(torch.stack([2 * down[:, None] + across, down[:, None] - 3 * across]))
    x = torch.randn(1, 8, 9, 11, dtype=torch.float64)
    equals(other(x), fitting(x).tolist())
    nn.init.zeros_(other.table)
    assert (other(x) - fitting(x)).abs().max() > 1e-3


def test_a_table_without_a_size_is_refused():
    with pytest.raises(ValueError, match="needs size=\\(height, width\\) of the map, got None"):
        dat.DeformableAttention(16)
    with pytest.raises(ValueError, match="at least \\(1, 1\\), got \\(0, 3\\)"):
        dat.DeformableAttention(16, position="none", size=(0, 3))


@pytest.mark.parametrize(
    ("options", "what"),
    [({"num_heads": 3}, "divide channels, got 3 and 16"), ({"groups": 3}, "divide num_heads, got 3 and 8"),
     ({"stride": 5}, "exceed stride, and stride be positive, got 5 and 5"), ({"position": "tabel"}, "got 'tabel'")],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_numbers(options, what):
    with pytest.raises(ValueError, match=what):
        dat.DeformableAttention(16, size=(4, 4), **options)


@pytest.mark.parametrize(("kept", "all_at_once"), [(2**24, True), (0, False)])
def test_the_weights_of_a_large_map_are_not_kept_for_the_backward(monkeypatch, kept, all_at_once):
    monkeypatch.setattr(dat, "MAX_CHUNK", 10_000)
    monkeypatch.setattr(dat, "MAX_SAVED", kept)
    module = create("dat", 16, num_heads=2, groups=2, size=(24, 20))
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
        module(torch.randn(1, 16, 24, 20))
    weights = 2 * (24 * 20) * (12 * 10)
    assert (sum(held) > weights) is all_at_once
