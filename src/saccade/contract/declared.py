"""Promises about SPEC: what it states is true, no more and no less."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from saccade.contract.harness import CLOSE, SIZES, Case, UnexaminedError, distance, expect, modes
from saccade.specs import SYMMETRIES

__all__ = [
    "commutes_as_stated",
    "has_the_parameters_it_states",
    "is_neutral_as_stated",
    "keeps_its_gate_in_range",
    "refuses_what_it_states",
]


def has_the_parameters_it_states(case: Case) -> None:
    """The function ``parameters`` gives the number of learnable parameters at every channel count."""
    spec = case.stated("parameters")
    for channels in (case.channels, 2 * case.channels, 3 * case.channels, case.channels + 1):
        if case.refusal(channels) is None:
            found = sum(p.numel() for p in case.build(channels).parameters() if p.requires_grad)
            stated = spec.parameters(channels, case.values)
            expect(found == stated, f"{found} parameters at {channels} channels; its function gives {stated}")


def refuses_what_it_states(case: Case) -> None:
    """Near its options, each limit of SPEC is met by a ValueError that begins with its words, and nothing else is."""
    limits = case.stated("limits").limits
    if not limits:
        raise UnexaminedError("SPEC states no limits")
    near: dict[str, list[Any]] = {"channels": [1, 2, 3, 5, 8, case.channels + 1]}
    near |= {name: case.choices(name) or _near(value) for name, value in case.values.items()}
    unmet = set(limits)
    for many in (1, 2, 3):
        for names in combinations(near, many):
            for values in product(*(near[name] for name in names)):
                if many > 1 and not unmet:
                    return
                why = case.refusal(**dict(zip(names, values, strict=True)))
                unmet -= {limit for limit in unmet if why is not None and why.startswith(limit)}
    expect(not unmet, f"no option near its own is refused by {' or '.join(map(repr, sorted(unmet)))}")


def _near(value: Any) -> list[Any]:
    """Values to either side of ``value``."""
    match value:
        case bool():
            return [not value]
        case int() | None:
            return [-1, 0, 1, 2, 3, 5, 8, 16]
        case float():
            return [-value, 0.0, value / 1000, 2 * value]
    return []


def keeps_its_gate_in_range(case: Case) -> None:
    """The values that pass through ``tap`` lie inside the range SPEC states."""
    interval = case.stated("gate").gate_range(case.channels, case.values)
    if interval is None:
        raise UnexaminedError("SPEC states no gate")
    for seed in range(3):
        module, seen = case.randomized(seed), list[Tensor]()
        taps = [part for name, part in module.named_modules() if name.rpartition(".")[2] == "tap"]
        expect(bool(taps), "SPEC states a range of the gate, and no module called `tap` shows the gate")
        for tap in taps:
            tap.register_forward_hook(lambda _module, _args, gate: seen.append(gate.detach()))  # noqa: B023
        module(case.maps(seed=seed))
        for gate in seen:
            least, most = gate.min().item(), gate.max().item()
            inside = interval.contains(least) and interval.contains(most)
            expect(inside, f"the gate runs from {least:.3g} to {most:.3g}, not in {interval}")


def is_neutral_as_stated(case: Case) -> None:
    """With its own initialisation it is the identity, bit for bit in eval and train, if and only if SPEC says so."""
    stated = case.stated("neutral").is_neutral(case.values)
    torch.default_generator.manual_seed(0)
    module, x = case.build(), case.maps(dtype=torch.float32)
    changed = [mode for mode in modes(module) if not torch.equal(module(x), x)]
    if stated:
        expect(not changed, f"SPEC says neutral, and it changes its input in {' and '.join(changed)}")
    else:
        expect(bool(changed), "it is the identity at its start, and SPEC does not say neutral")


def commutes_as_stated(case: Case) -> None:
    """It commutes with exactly those of permuting pixels, flipping and transposing that SPEC lists.

    On maps with odd and with even sides: every second pixel of an odd row, seen from its other end, is the same pixel.
    """
    stated, module = case.stated("equivariant").symmetries(case.channels, case.values), case.randomized()
    maps = [case.maps(*size) for size in case.sizes(SIZES[0], (4, 6))]
    moves: dict[str, Callable[[Tensor], Tensor]] = {
        "permutation": _permuted,
        "flip": lambda t: t.flip(-1),
        "transpose": lambda t: t.transpose(2, 3),
    }
    for symmetry in SYMMETRIES:
        move = moves[symmetry]
        tried = [x for x in maps if case.fixed_size is None or move(x).shape == x.shape]
        if not tried:
            continue
        off = max(distance(module(move(x)), move(module(x))) for x in tried)
        if symmetry in stated:
            expect(off < CLOSE, f"SPEC says it commutes with {symmetry}, and the two orders differ by {off:.1e}")
        else:
            expect(off > CLOSE, f"it commutes with {symmetry}, and SPEC does not say so")


def _permuted(t: Tensor) -> Tensor:
    """The pixels of a map in another order, the same for every map of its size."""
    order = torch.randperm(t[0, 0].numel(), generator=torch.Generator("cpu").manual_seed(2), device="cpu")
    return t.flatten(2)[..., order].view_as(t)
