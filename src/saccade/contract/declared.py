"""Promises about SPEC: it states exactly the facts that hold."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from saccade.contract.harness import SIZES, TOLERANCE, Case, UntestableError, distance, each_mode, expect
from saccade.specs import SYMMETRIES

__all__ = [
    "commutes_as_stated",
    "has_the_parameters_it_states",
    "is_neutral_as_stated",
    "keeps_its_gate_in_range",
    "refuses_what_it_states",
]


def has_the_parameters_it_states(case: Case) -> None:
    """The function ``parameters`` beside SPEC returns the number of trainable parameters."""
    spec = case.require_fact("parameters")
    for channels in (case.channels, 2 * case.channels, 3 * case.channels, case.channels + 1):
        if case.refusal(channels) is None:
            n_parameters = sum(p.numel() for p in case.build(channels).parameters() if p.requires_grad)
            n_stated = spec.parameters(channels, case.option_values)
            expect(
                n_parameters == n_stated,
                f"{n_parameters} parameters at {channels} channels; the function beside SPEC gives {n_stated}",
            )


def refuses_what_it_states(case: Case) -> None:
    """For options near the given ones, the constructor raises ValueError exactly where a limit of SPEC applies.

    The message starts with the text of the limit.
    """
    limits = case.require_fact("limits").limits
    if not limits:
        raise UntestableError("SPEC states no limits")
    nearby_values: dict[str, list[Any]] = {"channels": [1, 2, 3, 5, 8, case.channels + 1]}
    nearby_values |= {
        name: case.option_choices(name) or _nearby_values(value) for name, value in case.option_values.items()
    }
    unseen_limits = set(limits)
    for n_options in (1, 2, 3):
        for names in combinations(nearby_values, n_options):
            for values in product(*(nearby_values[name] for name in names)):
                if n_options > 1 and not unseen_limits:
                    return
                refusal = case.refusal(**dict(zip(names, values, strict=True)))
                unseen_limits -= {limit for limit in unseen_limits if refusal is not None and refusal.startswith(limit)}
    expect(
        not unseen_limits,
        f"no option value near the given ones triggers the limit {' or '.join(map(repr, sorted(unseen_limits)))}",
    )


def _nearby_values(value: Any) -> list[Any]:
    """Return trial values of the type of ``value``."""
    match value:
        case bool():
            return [not value]
        case int() | None:
            return [-1, 0, 1, 2, 3, 5, 8, 16]
        case float():
            return [-value, 0.0, value / 1000, 2 * value]
    return []


def keeps_its_gate_in_range(case: Case) -> None:
    """The gate, read at every submodule named ``tap``, lies in the gate range of SPEC."""
    interval = case.require_fact("gate").gate_range(case.channels, case.option_values)
    if interval is None:
        raise UntestableError("SPEC states no gate")
    for seed in range(3):
        module, gates = case.build_randomized(seed), list[Tensor]()
        taps = [child for name, child in module.named_modules() if name.rpartition(".")[2] == "tap"]
        expect(bool(taps), "SPEC states a range of the gate, but no submodule called `tap` passes the gate through")
        for tap in taps:
            tap.register_forward_hook(lambda _module, _args, gate: gates.append(gate.detach()))  # noqa: B023
        module(case.random_maps(seed=seed))
        for gate in gates:
            lowest, highest = gate.min().item(), gate.max().item()
            is_inside = interval.contains(lowest) and interval.contains(highest)
            expect(is_inside, f"the gate runs from {lowest:.3g} to {highest:.3g}, not in {interval}")


def is_neutral_as_stated(case: Case) -> None:
    """As initialised, the module is exactly the identity, in eval and train, if and only if SPEC says neutral."""
    is_stated_neutral = case.require_fact("neutral").is_neutral(case.option_values)
    torch.default_generator.manual_seed(0)
    module, x = case.build(), case.random_maps(dtype=torch.float32)
    changed = [mode for mode in each_mode(module) if not torch.equal(module(x), x)]
    if is_stated_neutral:
        expect(not changed, f"SPEC says neutral, but the module changes its input in {' and '.join(changed)}")
    else:
        expect(bool(changed), "the module is the identity at initialisation, but SPEC does not say neutral")


def commutes_as_stated(case: Case) -> None:
    """The module commutes with exactly the symmetries (permutation of pixels, flip, transpose) that SPEC lists.

    Maps have odd and even sides, because a stride of 2 commutes with flips on odd sides.
    """
    symmetries, module = (
        case.require_fact("equivariant").symmetries(case.channels, case.option_values),
        case.build_randomized(),
    )
    maps = [case.random_maps(*size) for size in case.sizes(SIZES[0], (4, 6))]
    transforms: dict[str, Callable[[Tensor], Tensor]] = {
        "permutation": _permute_pixels,
        "flip": lambda t: t.flip(-1),
        "transpose": lambda t: t.transpose(2, 3),
    }
    for symmetry in SYMMETRIES:
        transform = transforms[symmetry]
        valid_maps = [x for x in maps if case.fixed_size is None or transform(x).shape == x.shape]
        if not valid_maps:
            continue
        error = max(distance(module(transform(x)), transform(module(x))) for x in valid_maps)
        if symmetry in symmetries:
            expect(
                error < TOLERANCE,
                f"SPEC says the module commutes with {symmetry}, but the two orders differ by {error:.1e}",
            )
        else:
            expect(error > TOLERANCE, f"the module commutes with {symmetry}, but SPEC does not say so")


def _permute_pixels(t: Tensor) -> Tensor:
    """Permute the pixels of t (B, C, H, W), with one permutation per number of pixels."""
    order = torch.randperm(t[0, 0].numel(), generator=torch.Generator("cpu").manual_seed(2), device="cpu")
    return t.flatten(2)[..., order].view_as(t)
