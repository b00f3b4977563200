"""A decorator that attaches a multiply-add count to an operator, the same for all its implementations."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

__all__ = ["with_macs"]

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def with_macs(macs: Callable[..., int]) -> Callable[[Callable[_Args, _Result]], Callable[_Args, _Result]]:
    """Decorate an operator with a function that returns the multiply-adds of one call from the operator's arguments.

    The operator then supports torch's override protocol, so ``saccade.cost`` counts a call by ``macs`` and not by the
    functions inside it, and ``torch.fx`` traces it as one node.
    """

    def decorate(operator: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
        @wraps(operator)
        def wrapper(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
            arguments = (*args, *kwargs.values())
            if has_torch_function(arguments):
                result: _Result = handle_torch_function(wrapper, arguments, *args, **kwargs)
                return result
            return operator(*args, **kwargs)

        wrapper.macs = macs  # type: ignore[attr-defined]
        return wrapper

    return decorate
