"""The promise about layers: each is called, so that hooks on it and wrappers around it take effect."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from saccade.contract.advice import in_one_line
from saccade.contract.harness import CLOSE, BrokenPromiseError, Case, distance, expect, modes, weighted_sum

__all__ = ["calls_its_layers"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""What tools replace: adapters, quantisation, sharding, offloading."""
INSTEAD = "call the layer instead of reading its weight: hooks, pruning, adapters and quantisation act on the call"


def calls_its_layers(case: Case) -> None:
    """Every submodule that owns parameters is called in each forward, and a wrapper may take the place of each layer.

    Called: a forward hook fires, in eval and train. Wrapped: with each linear and convolutional layer inside a module
    that forwards the call and has no weight, values in both modes and gradients in eval are the same.
    """
    module, called = case.randomized(), set[nn.Module]()
    owners = {name: part for name, part in module.named_modules() if name and _owns_parameters(part)}
    hooks = [part.register_forward_hook(lambda part, *_: called.add(part)) for part in owners.values()]
    for mode in modes(module):
        called.clear()
        module(case.maps())
        missed = [name for name, part in owners.items() if part not in called]
        expect(not missed, f"a forward in {mode} does not call {', '.join(missed)}; {INSTEAD}")
    for hook in hooks:
        hook.remove()

    module, wrapped = case.randomized(), case.randomized()
    names = _wrap(wrapped)
    for mode in modes(wrapped):
        module.train(wrapped.training)
        x = case.maps().requires_grad_()
        torch.default_generator.manual_seed(0)
        known = module(x)
        torch.default_generator.manual_seed(0)
        try:
            found = wrapped(x)
        except Exception as error:
            raise BrokenPromiseError(
                f"with a wrapper around each of {', '.join(names)} a forward in {mode} fails: "
                f"{in_one_line(error)}; {INSTEAD}"
            ) from error
        off = distance(found, known)
        expect(off < CLOSE, f"with a wrapper around each layer the output in {mode} differs by {off:.1e}; {INSTEAD}")
        if mode == "train":
            continue  # a bias in front of a batch norm has no gradient there but rounding
        own = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        inner = [p for p in wrapped.parameters() if p.requires_grad]
        wanted = torch.autograd.grad(weighted_sum(known), [x, *(p for _, p in own)], allow_unused=True)
        gradients = torch.autograd.grad(weighted_sum(found), [x, *inner], allow_unused=True)
        for name, true, gradient in zip(["input", *(name for name, _ in own)], wanted, gradients, strict=True):
            if true is not None:
                off = float("inf") if gradient is None else distance(gradient, true)
                expect(off < CLOSE, f"with a wrapper around each layer the gradient of {name} differs by {off:.1e}")


def _owns_parameters(part: nn.Module) -> bool:
    """Whether it has parameters of its own and a forward; a ParameterList, say, has none."""
    runs = type(part).forward is not nn.Module.forward or "forward" in vars(part)
    return runs and any(p is not None for p in part._parameters.values())


class _Wrapper(nn.Module):
    """A layer behind a module that forwards calls, as an adapter's does."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)


def _wrap(module: nn.Module) -> list[str]:
    """Put a wrapper around each layer inside ``module``; their names."""
    names, wrappers = [], dict[nn.Module, _Wrapper]()
    for path, parent in list(module.named_modules()):
        for name, child in parent._modules.items():
            if isinstance(child, LAYERS):
                names.append(f"{path}.{name}".lstrip("."))
                parent._modules[name] = wrappers.setdefault(child, _Wrapper(child))
    return names
