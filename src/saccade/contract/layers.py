"""The promise about layers: every layer is called, so that hooks and wrappers take effect."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from saccade.contract.advice import format_error
from saccade.contract.harness import TOLERANCE, BrokenPromiseError, Subject, distance, each_mode, expect, weighted_sum

__all__ = ["calls_its_layers"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layer types that adapters, quantisation, sharding and offloading replace."""
CALL_ADVICE = "call the layer instead of reading its weight: hooks, pruning, adapters and quantisation act on the call"


def calls_its_layers(case: Subject) -> None:
    """Every submodule with parameters of its own is called in each forward pass, and layers can be wrapped.

    Forward hooks must fire in eval and train. When a wrapper without an attribute ``weight`` replaces each linear and
    convolutional layer, outputs in both modes and gradients in eval must stay the same.
    """
    module, called = case.build_randomized(), set[nn.Module]()
    parameter_owners = {name: child for name, child in module.named_modules() if name and _owns_parameters(child)}
    hooks = [child.register_forward_hook(lambda child, *_: called.add(child)) for child in parameter_owners.values()]
    for mode in each_mode(module):
        called.clear()
        module(case.random_maps())
        missed = [name for name, child in parameter_owners.items() if child not in called]
        expect(not missed, f"a forward pass in {mode} does not call {', '.join(missed)}; {CALL_ADVICE}")
    for hook in hooks:
        hook.remove()

    module, wrapped = case.build_randomized(), case.build_randomized()
    names = _wrap_layers(wrapped)
    for mode in each_mode(wrapped):
        module.train(wrapped.training)
        x = case.random_maps().requires_grad_()
        torch.default_generator.manual_seed(0)
        output = module(x)
        torch.default_generator.manual_seed(0)
        try:
            wrapped_output = wrapped(x)
        except Exception as error:
            raise BrokenPromiseError(
                f"with a wrapper around each of {', '.join(names)} a forward pass in {mode} fails: "
                f"{format_error(error)}; {CALL_ADVICE}"
            ) from error
        difference = distance(wrapped_output, output)
        expect(
            difference < TOLERANCE,
            f"with a wrapper around each layer the output in {mode} differs by {difference:.1e}; {CALL_ADVICE}",
        )
        if mode == "train":
            continue  # the gradient of a bias before batch norm is only rounding error there
        parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        wrapped_parameters = [p for p in wrapped.parameters() if p.requires_grad]
        expected = torch.autograd.grad(weighted_sum(output), [x, *(p for _, p in parameters)], allow_unused=True)
        gradients = torch.autograd.grad(weighted_sum(wrapped_output), [x, *wrapped_parameters], allow_unused=True)
        for name, expected_gradient, gradient in zip(
            ["input", *(name for name, _ in parameters)], expected, gradients, strict=True
        ):
            if expected_gradient is not None:
                difference = float("inf") if gradient is None else distance(gradient, expected_gradient)
                expect(
                    difference < TOLERANCE,
                    f"with a wrapper around each layer the gradient of {name} differs by {difference:.1e}",
                )


def _owns_parameters(module: nn.Module) -> bool:
    """Return True if the module has parameters of its own and a forward; a ParameterList has no forward."""
    has_forward = type(module).forward is not nn.Module.forward or "forward" in vars(module)
    return has_forward and any(p is not None for p in module._parameters.values())


class _Wrapper(nn.Module):
    """A module that forwards calls to a layer, as an adapter does."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)


def _wrap_layers(module: nn.Module) -> list[str]:
    """Wrap each layer inside ``module``; return the layers' names."""
    names, wrappers = [], dict[nn.Module, _Wrapper]()
    for path, parent in list(module.named_modules()):
        for name, child in parent._modules.items():
            if isinstance(child, LAYERS):
                names.append(f"{path}.{name}".lstrip("."))
                parent._modules[name] = wrappers.setdefault(child, _Wrapper(child))
    return names
