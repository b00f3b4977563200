"""Promises about facts: what SPEC states is true, no more and no less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from saccade.contract.case import CLOSE, SIZES, BrokenPromiseError, Case, UnexaminedError, distance, expect, modes
from saccade.specs import SYMMETRIES, conditions, evaluate, within

__all__ = [
    "commutes_as_stated",
    "has_the_parameters_it_states",
    "is_neutral_as_stated",
    "keeps_its_gate_in_range",
    "refuses_what_it_states",
]


def has_the_parameters_it_states(case: Case) -> None:
    """SPEC's formula gives the number of learnable parameters at every channel count."""
    formula = case.stated("params")
    case.needs_values(formula)
    for channels in (case.channels, 2 * case.channels, 3 * case.channels, case.channels + 1):
        values = {**case.values, "C": channels}
        if case.spec is not None and case.spec.refusal(channels, values) is None:
            found = sum(p.numel() for p in case.built(channels).parameters() if p.requires_grad)
            stated = int(evaluate(formula, values))
            expect(found == stated, f"{found} parameters at {channels} channels; SPEC's formula gives {stated}")


def refuses_what_it_states(case: Case) -> None:
    """Outside each limit of SPEC building raises a ValueError; inside, up to the limit itself, it does not."""
    limits = case.stated("limits")
    if not limits:
        raise UnexaminedError("SPEC states no limits")
    case.needs_values(*limits)
    for limit in limits:
        around = {name: case.choices(name) or _around(case.values[name]) for name in sorted(case.names_of(limit))}
        trials = [dict(setting) for many in (1, 2, 3) for setting in _settings(around, many)]
        outside = next((t for t in trials if not evaluate(limit, case.values | t)), None)
        inside = next((t for t in trials if all(evaluate(each, case.values | t) for each in limits)), None)
        if outside is None or inside is None:
            raise UnexaminedError(
                f"no value was found on {'this' if inside is None else 'the other'} side of {limit!r}"
            )
        try:
            _build(case, outside)
        except ValueError:
            pass
        else:
            raise BrokenPromiseError(f"{_said(outside)} lies outside {limit!r} and is accepted")
        try:
            _build(case, inside)
        except Exception as error:
            raise BrokenPromiseError(f"{_said(inside)} lies inside all limits and is refused: {error}") from None


def _settings(around: dict[str, list[Any]], many: int) -> Iterator[tuple[tuple[str, Any], ...]]:
    """Every choice of ``many`` of the names, each with each of its values."""
    for names in combinations(around, many):
        yield from product(*([(name, value) for value in around[name]] for name in names))


def _around(value: Any) -> list[Any]:
    """Values to either side of ``value``; those that seldom mean anything come last."""
    match value:
        case bool():
            return [False, True]
        case int():
            return [*range(1, 2 * value + 2), 1_000, 10_000, 100_000, 0, -1]
        case float():
            return [-value, 0.0, *(value * factor for factor in (0.001, 0.1, 0.5, 2, 10, 1000))]
        case None:
            return [None, *range(1, 9), 0, -1]
    return []


def _build(case: Case, setting: dict[str, Any]) -> None:
    given = {name: value for name, value in setting.items() if name != "C"}
    case.built(setting.get("C"), **given)


def _said(setting: dict[str, Any]) -> str:
    return ", ".join(f"{'channels' if name == 'C' else name} = {value}" for name, value in setting.items())


def keeps_its_gate_in_range(case: Case) -> None:
    """The values that pass through ``tap`` lie inside the range SPEC states."""
    case.needs_values(*conditions(case.stated("gate")))
    assert case.spec is not None
    interval = case.spec.gates(case.values)
    if interval is None:
        raise UnexaminedError("SPEC states no gate")
    for seed in range(3):
        module, seen = case.drawn(seed), list[Tensor]()
        taps = [part for name, part in module.named_modules() if name.rpartition(".")[2] == "tap"]
        expect(bool(taps), "SPEC states a range of the gate, and no module called `tap` shows the gate")
        for tap in taps:
            tap.register_forward_hook(lambda _module, _args, gate: seen.append(gate.detach()))  # noqa: B023
        module(case.maps(seed=seed))
        for gate in seen:
            least, most = gate.min().item(), gate.max().item()
            inside = within(least, interval) and within(most, interval)
            expect(inside, f"the gate runs from {least:.3g} to {most:.3g}, not in {interval}")


def is_neutral_as_stated(case: Case) -> None:
    """With its own initialisation it is the identity, bit for bit in eval and train, if and only if SPEC says so."""
    stated = case.neutral()
    torch.default_generator.manual_seed(0)
    module, x = case.built(), case.maps(dtype=torch.float32)
    changed = [mode for mode in modes(module) if not torch.equal(module(x), x)]
    if stated:
        expect(not changed, f"SPEC says neutral, and it changes its input in {' and '.join(changed)}")
    else:
        expect(bool(changed), "it is the identity at its start, and SPEC does not say neutral")


def commutes_as_stated(case: Case) -> None:
    """It commutes with exactly those of permuting pixels, flipping and transposing that SPEC lists.

    On maps with odd and with even sides: every second pixel of an odd row, seen from its other end, is the same pixel.
    """
    case.needs_values(*conditions(case.stated("equivariant")))
    assert case.spec is not None
    stated, module = case.spec.commutes(case.values), case.drawn()
    maps = [case.maps(*size) for size in case.sizes(SIZES[0], (4, 6))]
    moves: dict[str, Callable[[Tensor], Tensor]] = {
        "permutation": _permuted,
        "flip": lambda t: t.flip(-1),
        "transpose": lambda t: t.transpose(2, 3),
    }
    for symmetry in SYMMETRIES:
        move = moves[symmetry]
        tried = [x for x in maps if case.only is None or move(x).shape == x.shape]
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
