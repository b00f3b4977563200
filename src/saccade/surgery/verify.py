"""Check that the host runs its plugs: in eval mode, where it must, and in training mode, where it should."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from saccade.errors import UserError
from saccade.graph.states import training_copy
from saccade.graph.trace import Arguments, run
from saccade.hooks import of_this_thread, temporary_hooks
from saccade.surgery.plug_module import Plug

__all__ = ["raise_if_wrong", "try_out", "verify_forward", "warn_of_eval_only"]

_LOG = logging.getLogger("saccade")

_FORWARDS = 8
"""A block that training leaves out four times in five is missed once in 400 000."""


def verify_forward(host: nn.Module, new: list[Plug], arguments: Arguments, exact: bool) -> None:
    """Run one forward and check each new plug and its parent.

    Raises:
        UserError: the forward fails, a plug did not run once per call of its parent, its mechanism changed the shape or
            dtype, or, where ``exact`` and without ``a``, the map.
    """
    runs = {id(made): 0 for made in new}
    parents = {id(made): 0 for made in new}
    wrong: list[str] = []
    kept: dict[int, torch.Tensor] = {}

    def watch(made: Plug) -> None:
        def plug_ran(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            runs[id(made)] += 1
            f = args[0]
            if isinstance(output, torch.Tensor) and output.dtype != f.dtype:
                turned(f, output)
            elif exact and made.a is None and not torch.equal(output, f):
                wrong.append(changes(f, output))

        def changes(f: torch.Tensor, output: torch.Tensor) -> str:
            if not f.isfinite().all():
                return f"the map at {made.site.path} is not finite, with or without {made.name}"
            if not output.isfinite().all():
                return (
                    f"{made.name} at {made.site.path} overflows: of a map up to {float(f.abs().max()):.3g} in "
                    f"{f.dtype} it makes values that are not finite; take another site or a wider dtype"
                )
            return f"{made.name} at {made.site.path}: SPEC says neutral, and it changes the map"

        def mechanism_starts(module: nn.Module, args: tuple[Any, ...]) -> None:
            kept[id(made)] = args[0].clone()

        def mechanism_ran(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not torch.equal(args[0].nan_to_num(), kept.pop(id(made)).nan_to_num()):
                wrong.append(
                    f"{made.name} at {made.site.path} writes into the map it receives, which the host goes on using: "
                    "it must return a new one (x + 1 instead of x.add_(1))"
                )
            # Seen here, for f + a·(m(f) − f) would broadcast a wrong shape into the right one.
            if not isinstance(output, torch.Tensor) or output.shape != args[0].shape:
                turned(args[0], output)

        def turned(f: torch.Tensor, output: Any) -> None:
            got = (tuple(output.shape), output.dtype) if isinstance(output, torch.Tensor) else type(output).__name__
            wrong.append(f"{made.name} at {made.site.path} turned {(tuple(f.shape), f.dtype)} into {got}")

        def parent_ran(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            parents[id(made)] += 1

        handles.append(made.register_forward_hook(of_this_thread(plug_ran)))
        handles.append(made.mechanism.register_forward_pre_hook(of_this_thread(mechanism_starts)))
        handles.append(made.mechanism.register_forward_hook(of_this_thread(mechanism_ran)))
        handles.append(host.get_submodule(made.site.parent).register_forward_hook(of_this_thread(parent_ran)))

    with temporary_hooks() as handles:
        for made in new:
            watch(made)
        try_out(host, arguments, wrong, f"{new[0].name} plugged")
    for made in new:
        ran, wanted = runs[id(made)], parents[id(made)]
        if ran != wanted or ran == 0:
            wrong.append(f"the plug at {made.site.path} ran {ran} times for {wanted} calls of {made.site.parent}")
    raise_if_wrong(wrong)


def try_out(host: nn.Module, arguments: Arguments, wrong: list[str], what: str) -> None:
    """Run one forward, in which hooks add to ``wrong``.

    Raises:
        UserError: it failed; the message is what is wrong, else that the host does not run with ``what``.
    """
    try:
        run(host, arguments)
    except Exception as error:
        said = wrong or [f"the host does not run with {what}: {type(error).__name__}: {error}"]
        raise UserError("; ".join(said[:3])) from error


def raise_if_wrong(wrong: list[str]) -> None:
    """Raise UserError with the first three sentences of ``wrong``, if there are any."""
    if wrong:
        raise UserError("; ".join(wrong[:3]) + ("" if len(wrong) < 4 else f" (and {len(wrong) - 3} more)"))


def warn_of_eval_only(host: nn.Module, new: list[Plug], arguments: Arguments) -> None:
    """Log the sites of ``new`` whose parents the host calls in eval mode and never in training mode.

    Their plugs would never learn. A host that cannot be copied, or does not train on ``arguments`` (one picture; no
    targets), is not judged.
    """
    ran: set[str] = set()

    def watch(twin: nn.Module, parent: str) -> None:
        def parent_ran(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            ran.add(parent)

        twin.get_submodule(parent).register_forward_hook(parent_ran)

    wanted = {made.site.parent for made in new}
    try:
        with training_copy(host) as twin:
            for parent in wanted:
                watch(twin, parent)
            for _ in range(_FORWARDS):
                twin(*arguments[0], **arguments[1])
                if ran == wanted:
                    return
            idle = [made.site.path for made in new if made.site.parent not in ran]
            twin.eval()(*arguments[0], **arguments[1])
    except Exception as error:
        _LOG.debug("%s was not tried in training mode: %s: %s", type(host).__name__, type(error).__name__, error)
        return
    if ran != wanted:
        return  # a forward that is a closure goes on calling the modules of the original
    _LOG.warning(
        "%s runs %s%s in eval mode only: in training the plug never runs, and never learns",
        type(host).__name__, ", ".join(idle[:10]), f" and {len(idle) - 10} more" if len(idle) > 10 else "",
    )  # fmt: skip
