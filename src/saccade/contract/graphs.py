"""Promises about graphs: compiled and exported modules compute the same values."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.func import functional_call

from saccade.contract.advice import format_error
from saccade.contract.harness import (
    SIZES,
    TOLERANCE,
    BrokenPromiseError,
    Case,
    distance,
    expect,
    gradients,
    make_rewind,
    weighted_sum,
)  # fmt: skip

__all__ = ["compiles_whole", "errors_as_broken_promise", "exports_for_any_size"]

AXES = {0: "batch", 2: "height", 3: "width"}
ROUNDING_FACTOR = 30
"""Largest accepted error of a gradient, as a multiple of the estimated rounding error."""


def compiles_whole(case: Case) -> None:
    """``torch.compile(fullgraph=True)`` gives the same values and gradients in train, and compiles at most twice.

    The second size recompiles with dynamic shapes; the third must not recompile. The backend is ``aot_eager``,
    as only the graph is tested. The caches of ``torch.compile`` are emptied.
    """
    module = case.build_randomized().train()
    rewind = make_rewind(module)
    torch.compiler.reset()
    try:
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for batch, size in enumerate(case.sizes(SIZES[0], SIZES[2], SIZES[5]), 2):
            shape = f"{size[0]}×{size[1]}"
            stance: Literal["default", "fail_on_recompile"] = "default" if batch < 4 else "fail_on_recompile"
            x = case.random_maps(*size, batch=batch).requires_grad_()
            rewind()
            eager = module(x)
            eager_gradients = gradients(eager, module, x)
            rewind()
            with errors_as_broken_promise(f"torch.compile at {shape}"), torch.compiler.set_stance(stance):
                output = compiled(x)
                compiled_gradients = gradients(output, module, x)
            error = distance(output, eager)
            expect(error < TOLERANCE, f"the compiled module gives another output at {shape}, off by {error:.1e}")
            for name, eager_gradient in eager_gradients.items():
                gradient = compiled_gradients[name]
                if eager_gradient is not None:
                    error = float("inf") if gradient is None else distance(gradient, eager_gradient)
                    if gradient is not None and TOLERANCE <= error < float(
                        "inf"
                    ):  # slow, so computed only on a mismatch
                        rounding_error = _rounding_error(module, x, name, eager_gradient, rewind)
                        error = (
                            0.0
                            if (gradient - eager_gradient).abs().max().item() < ROUNDING_FACTOR * rounding_error
                            else error
                        )
                    expect(
                        error < TOLERANCE, f"when compiled, the gradient of {name} differs at {shape} by {error:.1e}"
                    )
    finally:
        torch.compiler.reset()


def _rounding_error(module: nn.Module, x: Tensor, name: str, gradient: Tensor, rewind: Callable[[], None]) -> float:
    """Return the largest change of the gradient of ``name`` if the last bits of input and parameters change.

    In train mode the gradient of a bias before batch norm is only rounding error, and so depends on the order of
    summation.
    """
    generator, largest = torch.Generator("cpu").manual_seed(2), 0.0
    for _ in range(4):  # one perturbation may round away
        perturbed = {}
        for key, value in {"input": x, **dict(module.named_parameters())}.items():
            sign = torch.randint(3, value.shape, generator=generator, device="cpu").to(value.dtype) - 1
            perturbed[key] = (value.detach() * (1 + torch.finfo(value.dtype).eps * sign)).requires_grad_()
        rewind()
        y = functional_call(
            module, {key: value for key, value in perturbed.items() if key != "input"}, perturbed["input"]
        )
        largest = max(largest, (torch.autograd.grad(weighted_sum(y), perturbed[name])[0] - gradient).abs().max().item())
    return largest


def exports_for_any_size(case: Case) -> None:
    """The module, exported with dynamic batch, height and width, gives the same output at three other sizes."""
    module, x = case.build_randomized(), case.random_maps()
    axes = AXES if case.fixed_size is None else {0: AXES[0]}
    with errors_as_broken_promise("torch.export"):
        exported = export(module, (x,), dynamic_shapes=(dict.fromkeys(axes, Dim.DYNAMIC),)).module()
    for size, batch in zip(case.sizes(SIZES[1], SIZES[2], SIZES[3]), (1, 3, 5), strict=False):
        other = case.random_maps(*size, batch=batch)
        shape = f"{batch} × {size[0]}×{size[1]}"
        with errors_as_broken_promise(f"the module exported for any size, at {shape}"):
            output = exported(other)
        error = distance(output, module(other))
        expect(error < TOLERANCE, f"the exported module gives another output at {shape}, off by {error:.1e}")


@contextlib.contextmanager
def errors_as_broken_promise(message_prefix: str) -> Iterator[None]:
    """Turn errors of the block into one-line BrokenPromiseErrors; silence logs and prints of torch."""
    old_level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except Exception as error:
        raise BrokenPromiseError(f"{message_prefix}: {_explain(error)}") from error
    finally:
        logging.disable(old_level)


def _explain(error: Exception) -> str:
    """Return the error in one line, with advice."""
    text = str(error)
    if match := re.search(r"size\(\)\[(\d)\] as dynamic but your code specialized it to be a constant \((\d+)\)", text):
        axis, value = AXES[int(match[1])], match[2]
        return f"the {axis} becomes the constant {value}: a loop, a branch or int() depends on the {axis}"
    if "fail_on_recompile" in text:
        guard = re.search(r"- \d+/\d+: (.+)", text)
        reason = f" ({guard[1]})" if guard else ""
        return f"the module is compiled again for every size{reason}: a loop, a branch or int() depends on the size"
    if guard := re.search(r"Guard failed: (.+)", text):
        return f"forward() branches on the size; the traced branch is valid only for {guard[1]}"
    return format_error(error)
