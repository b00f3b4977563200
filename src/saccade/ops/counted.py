"""What an operator costs, stated beside its definition: the count does not depend on the form that runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

__all__ = ["counted"]

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def counted(macs: Callable[..., int]) -> Callable[[Callable[_Args, _Result]], Callable[_Args, _Result]]:
    """Decorate an operator with the multiply-adds of one call, a function of the operator's own arguments.

    The operator then answers torch's override protocol, as ``torch.nn.functional`` does: ``saccade.cost`` sees the
    call as one unit and takes ``macs`` in place of whatever the fast form is made of; ``torch.fx`` keeps it whole.
    """

    def decorate(operator: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
        @wraps(operator)
        def public(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
            given = (*args, *kwargs.values())
            if has_torch_function(given):
                result: _Result = handle_torch_function(public, given, *args, **kwargs)
                return result
            return operator(*args, **kwargs)

        public.macs = macs  # type: ignore[attr-defined]
        return public

    return decorate
