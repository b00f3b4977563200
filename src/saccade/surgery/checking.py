"""Does the host run what was plugged? Checked in eval mode, where it must, and in training mode, where it should."""

from __future__ import annotations

import copy
import logging
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from saccade.errors import UserError
from saccade.surgery.plug_module import Plug
from saccade.surgery.threads import of_this_thread
from saccade.surgery.trace import Arguments, plainly, run

__all__ = ["training_twin", "verify_forward", "warn_of_eval_only"]

_LOG = logging.getLogger("saccade")

_FORWARDS = 8
"""In training a host may leave out a block at random: one that stays four times in five is missed once in 400 000."""


def verify_forward(host: nn.Module, new: list[Plug], arguments: Arguments, exact: bool) -> None:
    """Run one forward and check what each new plug and its carrier do in it.

    Raises:
        UserError: the forward fails, a plug did not run once per call of its carrier, its mechanism changed the shape,
            or it changed the dtype, or, where ``exact`` and it has no ``a``, the map at all, be it by overflow.
    """
    runs = {id(made): 0 for made in new}
    carriers = {id(made): 0 for made in new}
    wrong: list[str] = []
    kept: dict[int, torch.Tensor] = {}
    handles = []

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

        def carrier_ran(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            carriers[id(made)] += 1

        handles.append(made.register_forward_hook(of_this_thread(plug_ran)))
        handles.append(made.mechanism.register_forward_pre_hook(of_this_thread(mechanism_starts)))
        handles.append(made.mechanism.register_forward_hook(of_this_thread(mechanism_ran)))
        handles.append(host.get_submodule(made.site.carrier).register_forward_hook(of_this_thread(carrier_ran)))

    try:
        for made in new:
            watch(made)
        run(host, arguments)
    except Exception as error:
        if not wrong:
            wrong.append(f"the host does not run with {new[0].name} plugged: {type(error).__name__}: {error}")
        raise UserError("; ".join(wrong[:3])) from error
    finally:
        for handle in handles:
            handle.remove()
    for made in new:
        ran, wanted = runs[id(made)], carriers[id(made)]
        if ran != wanted or ran == 0:
            wrong.append(f"the plug at {made.site.path} ran {ran} times for {wanted} calls of {made.site.carrier}")
    if wrong:
        raise UserError("; ".join(wrong[:3]) + ("" if len(wrong) < 4 else f" (and {len(wrong) - 3} more)"))


def warn_of_eval_only(host: nn.Module, new: list[Plug], arguments: Arguments) -> None:
    """Log the sites of ``new`` whose carriers the host calls in eval mode and never in training mode.

    Their plugs would never learn. A copy of the host is asked, for a forward in training mode may change anything of
    it, parameters included. A host that cannot be copied, or does not train on ``arguments`` (one picture; no targets),
    is not judged.
    """
    ran: set[str] = set()

    def watch(twin: nn.Module, carrier: str) -> None:
        def carrier_ran(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            ran.add(carrier)

        twin.get_submodule(carrier).register_forward_hook(carrier_ran)

    wanted = {made.site.carrier for made in new}
    try:
        with training_twin(host) as twin:
            for carrier in wanted:
                watch(twin, carrier)
            for _ in range(_FORWARDS):
                twin(*arguments[0], **arguments[1])
                if ran == wanted:
                    return
            idle = [made.site.path for made in new if made.site.carrier not in ran]
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


@contextmanager
def training_twin(host: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy of ``host`` in training mode, to be run without gradients; ``host`` stays as it is.

    A copy, because a forward in training mode may change anything of a network, parameters included.
    """
    with _quietly(), plainly(host):
        yield copy.deepcopy(host).train()


@contextmanager
def _quietly() -> Iterator[None]:
    """No warnings inside; afterwards the random generators of Python and NumPy are as they were."""
    numpy: Any = sys.modules.get("numpy")
    drawn = random.getstate(), numpy and numpy.random.get_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(drawn[0])
        if numpy:
            numpy.random.set_state(drawn[1])
