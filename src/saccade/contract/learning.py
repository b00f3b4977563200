"""Promises about learning: every parameter has a gradient, it is the true one, and training changes it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import blend
from saccade.contract.harness import (
    DRAWS,
    Case,
    UnexaminedError,
    distance,
    expect,
    gradients,
    modes,
    rewinder,
    weighted_sum,
)

__all__ = ["has_true_gradients", "learns_from_a_neutral_start", "reaches_every_parameter"]

PATIENCE, SETTLED = 1000, 1e-14
"""At most so many forwards until buffers converge, which is when the output changes by less; its error is a root."""
STEPS = 5
RATE = 0.01
_PLUGS_OWN = "the plug's a"
MOVED = 1e-9
"""One step of Adam moves a value by about its rate where the gradient is real, by 1e-11 where it is rounding, 1e-17."""


def reaches_every_parameter(case: Case) -> None:
    """The input and every parameter get a gradient that is finite and not zero, in eval and train.

    In train a parameter's may be zero, as that of a bias in front of a batch norm is. One draw of the parameters in a
    few is enough, as a ReLU may be off all over the map.
    """
    silent: dict[str, str] = {}
    for seed in range(DRAWS):
        silent = {}
        module, x = case.randomized(seed), case.maps(seed=seed).requires_grad_()
        for mode in modes(module):
            for name, gradient in gradients(module(x), module, x).items():
                if gradient is None:
                    silent.setdefault(name, f"{name} takes no part in the output in {mode}")
                    continue
                expect(bool(gradient.isfinite().all()), f"the gradient of {name} is not finite in {mode}")
                largest = gradient.abs().amax().item() if gradient.numel() else 0.0
                if largest <= 1e-12 and (mode == "eval" or name == "input"):
                    silent.setdefault(
                        name, f"the gradient of {name} is zero in {mode} ({largest:.1e}): it cannot learn"
                    )
        if not silent:
            return
    expect(False, "; ".join(silent.values()))


def has_true_gradients(case: Case) -> None:
    """Gradients of the input and of all parameters are those of finite differences, in eval and train.

    All forwards use the same random numbers and the same buffers, which have converged: the power iteration of spectral
    normalisation has no gradient.
    """
    module, x = case.randomized(), case.maps(*case.sizes((3, 2))[0]).requires_grad_()
    for mode in modes(module):
        _settle(module, x)
        forward = _repeated(module, x)
        for name, gradient in gradients(forward(), module, x).items():
            place = x if name == "input" else module.get_parameter(name)
            direction = torch.randn(
                place.shape, generator=torch.Generator("cpu").manual_seed(2), dtype=place.dtype, device="cpu"
            )
            step = 1e-6 * direction
            with torch.no_grad():
                place.add_(step)
                above = weighted_sum(forward())
                place.sub_(2 * step)
                below = weighted_sum(forward())
                place.add_(step)
            true = (above - below).item() / 2e-6
            found = 0.0 if gradient is None else (gradient * direction).sum().item()
            # Rounding of two sums of a few hundred values of order 1, over the step: about 1e-8.
            expect(
                abs(found - true) < 1e-5 * abs(true) + 1e-6,
                f"along a random direction of {name} the gradient is {found:.6g} and differences {true:.6g} in {mode}: "
                "a tensor is cut off (.detach(), .data, .item(), numpy) or a backward is wrong",
            )


def _settle(module: nn.Module, x: Tensor) -> None:
    """Repeat the forward until its buffers no longer change the output."""
    last = None
    for _ in range(PATIENCE):
        torch.default_generator.manual_seed(0)
        with torch.no_grad():
            y = module(x)
        if last is not None and distance(y, last) < SETTLED:
            return
        last = y


def _repeated(module: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Return the forward on ``x``, repeatable."""
    rewind = rewinder(module)

    def forward() -> Tensor:
        rewind()
        y: Tensor = module(x)
        return y

    return forward


def learns_from_a_neutral_start(case: Case) -> None:
    """Plugged neutrally, five steps of an optimiser change every parameter, the plug's own included.

    The start is y = f + a·(m(f) − f) with a = 0, or the mechanism itself where SPEC says neutral. A bias in front of a
    batch norm need only change in eval. One draw in a few is enough, as ``plug`` redraws dead ReLUs.
    """
    alone = case.spec is not None and case.stated("neutral").is_neutral(case.values)
    stuck: set[str] = set()
    for seed in range(DRAWS):
        stuck = set.intersection(*(_stuck(case, seed, training, alone) for training in (True, False)))
        if not stuck:
            return
    names = ", ".join(sorted(stuck))
    expect(
        _PLUGS_OWN not in stuck,
        f"not moved by {STEPS} steps: {names}; it starts as the identity, and a plug puts a second zero in front of it "
        "unless SPEC says neutral",
    )
    expect(False, f"not moved by {STEPS} steps from a neutral start: {names}")


def _stuck(case: Case, seed: int, training: bool, alone: bool) -> set[str]:
    """Return the parameters that a few steps towards a random map do not change."""
    torch.default_generator.manual_seed(seed)
    module, f = case.build().double().train(training), case.maps(seed=seed)
    target = case.maps(*f.shape[2:], seed=seed + 1)
    learnt: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    a = torch.zeros(1, dtype=f.dtype, device="cpu", requires_grad=True)
    if not alone:
        learnt[_PLUGS_OWN] = a
    if not learnt:
        raise UnexaminedError("it has no parameters, and a plug adds none to what SPEC calls neutral")
    before = {name: p.detach().clone() for name, p in learnt.items()}
    optimizer = torch.optim.Adam(learnt.values(), lr=RATE)
    for _ in range(STEPS):
        y = module(f) if alone else blend(f, module(f), a)
        optimizer.zero_grad()
        F.mse_loss(y, target).backward()
        optimizer.step()
    return {name for name, p in learnt.items() if not bool(((p.detach() - before[name]).abs() > MOVED).any())}
