"""Verify that the host runs its new plugs in eval mode, and warn if it does not in training mode."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from saccade.errors import UserError
from saccade.graph.states import training_copy
from saccade.graph.trace import Arguments, run
from saccade.hooks import only_in_this_thread, temporary_hooks
from saccade.surgery.plug_module import Plug

__all__ = ["raise_errors", "run_host", "verify_forward", "warn_of_eval_only"]

_LOG = logging.getLogger("saccade")

_MAX_TRAINING_RUNS = 8
"""Maximum number of forward passes in training mode. A block skipped with probability 0.2 is skipped in all of them
with probability 2.6e-6."""


def verify_forward(host: nn.Module, new_plugs: list[Plug], arguments: Arguments, exact: bool) -> None:
    """Run one forward pass and check each new plug; if ``exact``, plugs without ``a`` must return their input.

    Raises:
        UserError: the forward pass fails; a plug did not run once per call of its parent; a mechanism changed the shape
            or dtype, wrote into its input or, if ``exact``, changed the map.
    """
    plug_runs = {id(plug): 0 for plug in new_plugs}
    parent_runs = {id(plug): 0 for plug in new_plugs}
    errors: list[str] = []
    inputs: dict[int, torch.Tensor] = {}

    def register_hooks(plug: Plug) -> None:
        def check_plug(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            plug_runs[id(plug)] += 1
            f = args[0]
            if isinstance(output, torch.Tensor) and output.dtype != f.dtype:
                add_shape_or_dtype_error(f, output)
            elif exact and plug.a is None and not torch.equal(output, f):
                errors.append(describe_change(f, output))

        def describe_change(f: torch.Tensor, output: torch.Tensor) -> str:
            if not f.isfinite().all():
                return f"the map at {plug.site.path} is not finite, with or without {plug.name}"
            if not output.isfinite().all():
                return (
                    f"{plug.name} at {plug.site.path} overflows: for a map up to {float(f.abs().max()):.3g} in "
                    f"{f.dtype} its output is not finite; take another site or a wider dtype"
                )
            return f"{plug.name} at {plug.site.path}: SPEC says neutral, and it changes the map"

        def store_input(module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs[id(plug)] = args[0].clone()

        def check_mechanism(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not torch.equal(args[0].nan_to_num(), inputs.pop(id(plug)).nan_to_num()):
                errors.append(
                    f"{plug.name} at {plug.site.path} writes into the map it receives, which the host goes on using: "
                    "it must return a new one (x + 1 instead of x.add_(1))"
                )
            # Checked here, because f + a·(m(f) − f) would broadcast a wrong shape to the right one.
            if not isinstance(output, torch.Tensor) or output.shape != args[0].shape:
                add_shape_or_dtype_error(args[0], output)

        def add_shape_or_dtype_error(f: torch.Tensor, output: Any) -> None:
            is_tensor = isinstance(output, torch.Tensor)
            result = (tuple(output.shape), output.dtype) if is_tensor else type(output).__name__
            errors.append(f"{plug.name} at {plug.site.path} turned {(tuple(f.shape), f.dtype)} into {result}")

        def count_parent(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            parent_runs[id(plug)] += 1

        handles.append(plug.register_forward_hook(only_in_this_thread(check_plug)))
        handles.append(plug.mechanism.register_forward_pre_hook(only_in_this_thread(store_input)))
        handles.append(plug.mechanism.register_forward_hook(only_in_this_thread(check_mechanism)))
        parent = host.get_submodule(plug.site.parent)
        handles.append(parent.register_forward_hook(only_in_this_thread(count_parent)))

    with temporary_hooks() as handles:
        for plug in new_plugs:
            register_hooks(plug)
        run_host(host, arguments, errors, f"{new_plugs[0].name} plugged")
    for plug in new_plugs:
        n_plug, n_parent = plug_runs[id(plug)], parent_runs[id(plug)]
        if n_plug != n_parent or n_plug == 0:
            errors.append(f"the plug at {plug.site.path} ran {n_plug} times for {n_parent} calls of {plug.site.parent}")
    raise_errors(errors)


def run_host(host: nn.Module, arguments: Arguments, errors: list[str], inserted_text: str) -> None:
    """Run one forward pass, in which hooks may append sentences to ``errors``.

    Raises:
        UserError: the pass failed. The message is ``errors``; if it is empty, the exception and ``inserted_text``.
    """
    try:
        run(host, arguments)
    except Exception as error:
        sentences = errors or [f"the host does not run with {inserted_text}: {type(error).__name__}: {error}"]
        raise UserError("; ".join(sentences[:3])) from error


def raise_errors(errors: list[str]) -> None:
    """Raise UserError with the first three sentences of ``errors``, unless it is empty."""
    if errors:
        raise UserError("; ".join(errors[:3]) + ("" if len(errors) < 4 else f" (and {len(errors) - 3} more)"))


def warn_of_eval_only(host: nn.Module, new_plugs: list[Plug], arguments: Arguments) -> None:
    """Log the sites of ``new_plugs`` whose parents run in eval mode only, so that their plugs would never learn.

    Nothing is logged for a host that cannot be copied, or that fails in training mode on ``arguments``.
    """
    parents_run: set[str] = set()

    def register_hook(host_copy: nn.Module, parent: str) -> None:
        def add_parent(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            parents_run.add(parent)

        host_copy.get_submodule(parent).register_forward_hook(add_parent)

    parents = {plug.site.parent for plug in new_plugs}
    try:
        with training_copy(host) as host_copy:
            for parent in parents:
                register_hook(host_copy, parent)
            for _ in range(_MAX_TRAINING_RUNS):
                host_copy(*arguments[0], **arguments[1])
                if parents_run == parents:
                    return
            not_run = [plug.site.path for plug in new_plugs if plug.site.parent not in parents_run]
            host_copy.eval()(*arguments[0], **arguments[1])
    except Exception as error:
        _LOG.debug("%s could not be run in training mode: %s: %s", type(host).__name__, type(error).__name__, error)
        return
    if parents_run != parents:
        return  # not run in eval mode either: the copy's forward calls the original's modules
    _LOG.warning(
        "%s runs %s%s in eval mode only: in training the plug never runs, and never learns",
        type(host).__name__, ", ".join(not_run[:10]), f" and {len(not_run) - 10} more" if len(not_run) > 10 else "",
    )  # fmt: skip
