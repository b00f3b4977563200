"""Promises about learning: all parameters get correct gradients, and training changes the parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import blend
from saccade.contract.harness import (
    N_DRAWS,
    Case,
    Subject,
    UntestableError,
    distance,
    each_mode,
    expect,
    gradients,
    make_rewind,
    weighted_sum,
)

__all__ = ["has_true_gradients", "learns_from_a_neutral_start", "reaches_every_parameter"]

MAX_FORWARDS = 1000
"""Largest number of forward passes run to let the buffers converge."""
CONVERGED_CHANGE = 1e-14
"""Largest change of the output at which the buffers count as converged; the buffers' error is about its square root."""
STEPS = 5
LEARNING_RATE = 0.01
_PLUG_SCALE_NAME = "the plug's a"
MIN_CHANGE = 1e-9
"""Smallest parameter change that counts as learning.

Adam's first step is LEARNING_RATE for a real gradient, 1e-11 for rounding noise, 1e-17 for zero.
"""


def reaches_every_parameter(case: Subject) -> None:
    """The input and every parameter get a finite gradient, in eval and train, that is not zero in eval.

    In train the input's gradient must not be zero either; a parameter's may be, as for a bias before batch norm. One of
    N_DRAWS initialisations must pass, because a ReLU may be dead on a whole map.
    """
    failures: dict[str, str] = {}
    for seed in range(N_DRAWS):
        failures = {}
        module, x = case.build_randomized(seed), case.random_maps(seed=seed).requires_grad_()
        for mode in each_mode(module):
            for name, gradient in gradients(module(x), module, x).items():
                if gradient is None:
                    failures.setdefault(name, f"the output does not depend on {name} in {mode}")
                    continue
                expect(bool(gradient.isfinite().all()), f"the gradient of {name} is not finite in {mode}")
                largest = gradient.abs().amax().item() if gradient.numel() else 0.0
                if largest <= 1e-12 and (mode == "eval" or name == "input"):
                    failures.setdefault(
                        name, f"the gradient of {name} is zero in {mode} ({largest:.1e}): it cannot learn"
                    )
        if not failures:
            return
    expect(False, "; ".join(failures.values()))


def has_true_gradients(case: Case) -> None:
    """Gradients of the input and of all parameters equal finite differences, in eval and train.

    All forward passes use the same random numbers and buffers. Buffers are converged first: autograd does not
    differentiate their updates, such as the power iteration of spectral normalisation.
    """
    module, x = case.build_randomized(), case.random_maps(*case.sizes((3, 2))[0]).requires_grad_()
    for mode in each_mode(module):
        _converge_buffers(module, x)
        forward = _repeatable_forward(module, x)
        for name, gradient in gradients(forward(), module, x).items():
            tensor = x if name == "input" else module.get_parameter(name)
            direction = torch.randn(
                tensor.shape, generator=torch.Generator("cpu").manual_seed(2), dtype=tensor.dtype, device="cpu"
            )
            step = 1e-6 * direction
            with torch.no_grad():
                tensor.add_(step)
                above = weighted_sum(forward())
                tensor.sub_(2 * step)
                below = weighted_sum(forward())
                tensor.add_(step)
            numerical = (above - below).item() / 2e-6
            analytic = 0.0 if gradient is None else (gradient * direction).sum().item()
            # Rounding error is about 1e-8: two sums of a few hundred values of order 1, over the step.
            expect(
                abs(analytic - numerical) < 1e-5 * abs(numerical) + 1e-6,
                f"along a random direction of {name} autograd gives {analytic:.6g} and finite differences "
                f"{numerical:.6g} in {mode}: "
                "a tensor is detached (.detach(), .data, .item(), numpy) or a backward is wrong",
            )


def _converge_buffers(module: nn.Module, x: Tensor) -> None:
    """Repeat the forward pass until the module's buffers no longer change the output."""
    last_output = None
    for _ in range(MAX_FORWARDS):
        torch.default_generator.manual_seed(0)
        with torch.no_grad():
            y = module(x)
        if last_output is not None and distance(y, last_output) < CONVERGED_CHANGE:
            return
        last_output = y


def _repeatable_forward(module: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Return a forward pass on x (B, C, H, W) that gives the same output every time."""
    rewind = make_rewind(module)

    def forward() -> Tensor:
        rewind()
        y: Tensor = module(x)
        return y

    return forward


def learns_from_a_neutral_start(case: Case) -> None:
    """In a plug with a neutral start, five optimiser steps change every parameter, including the plug's ``a``.

    The plug computes y = f + a·(m(f) − f) with a = 0, or m(f) if SPEC says neutral. Each parameter must
    change in eval or in train; a bias before batch norm cannot change in train. One of N_DRAWS initialisations must
    pass, because ``plug`` redraws dead ReLUs.
    """
    is_neutral = case.spec is not None and case.require_fact("neutral").is_neutral(case.option_values)
    unchanged: set[str] = set()
    for seed in range(N_DRAWS):
        unchanged = set.intersection(
            *(_unchanged_parameters(case, seed, training, is_neutral) for training in (True, False))
        )
        if not unchanged:
            return
    names = ", ".join(sorted(unchanged))
    expect(
        _PLUG_SCALE_NAME not in unchanged,
        f"not changed by {STEPS} steps: {names}; the module starts as the identity, so a = 0 gets no gradient; state "
        "neutral in SPEC, and the plug adds no a",
    )
    expect(False, f"not changed by {STEPS} steps from a neutral start: {names}")


def _unchanged_parameters(case: Case, seed: int, training: bool, is_neutral: bool) -> set[str]:
    """Return the names of the parameters that a few steps towards a random target do not change."""
    torch.default_generator.manual_seed(seed)
    module, f = case.build().double().train(training), case.random_maps(seed=seed)
    target = case.random_maps(*f.shape[2:], seed=seed + 1)
    learnable: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    a = torch.zeros(1, dtype=f.dtype, device="cpu", requires_grad=True)
    if not is_neutral:
        learnable[_PLUG_SCALE_NAME] = a
    if not learnable:
        raise UntestableError("the module has no parameters, and a plug adds none because SPEC says neutral")
    old_values = {name: p.detach().clone() for name, p in learnable.items()}
    optimizer = torch.optim.Adam(learnable.values(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        y = module(f) if is_neutral else blend(f, module(f), a)
        optimizer.zero_grad()
        F.mse_loss(y, target).backward()
        optimizer.step()
    return {
        name for name, p in learnable.items() if not bool(((p.detach() - old_values[name]).abs() > MIN_CHANGE).any())
    }
