"""Promises about side effects of a forward pass, and about copying, saving and seeding."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode

from saccade.contract.harness import (
    SIZES,
    TOLERANCE,
    BrokenPromiseError,
    Subject,
    UntestableError,
    distance,
    each_mode,
    expect,
    gradients,
    make_rewind,
)
from saccade.tensors import tensors_in

__all__ = [
    "answers_the_same_twice",
    "is_drawn_by_the_seed",
    "keeps_nothing_between_calls",
    "leaves_its_input_alone",
    "leaves_the_generator_alone",
    "lets_its_output_be_changed",
    "registers_every_parameter",
    "survives_copying",
]


def leaves_its_input_alone(case: Subject) -> None:
    """The input is not changed."""
    module, x = case.build_randomized(), case.random_maps()
    old_x = x.clone()
    for mode in each_mode(module):
        module(x)
        expect(torch.equal(x, old_x), f"the module changes its input in {mode}")


def lets_its_output_be_changed(case: Subject) -> None:
    """Changing the output in place, as the next layer may, changes neither the input nor a gradient, in both modes."""
    module, x = case.build_randomized(), case.random_maps().requires_grad_()
    rewind = make_rewind(module)
    for mode in each_mode(module):
        rewind()
        # x * 1, because inside a host the input is not a leaf.
        expected = gradients(F.relu(module(x * 1)), module, x)
        rewind()
        inner_input = x * 1
        y = module(inner_input)
        old_input = inner_input.detach().clone()
        y = F.relu(y, inplace=True)
        expect(torch.equal(inner_input, old_input), f"its output shares memory with its input in {mode}")
        for name, gradient in gradients(y, module, x).items():
            expected_gradient = expected[name]
            if expected_gradient is not None and (
                gradient is None or distance(gradient, expected_gradient) > TOLERANCE
            ):
                raise BrokenPromiseError(
                    f"the gradient of {name} in {mode} is wrong after the output was changed in place"
                )


def keeps_nothing_between_calls(case: Subject) -> None:
    """After a forward pass the module holds no new tensor, and its input can be freed."""
    module = case.build_randomized()
    for mode in each_mode(module):
        old_ids_by_name = _unregistered_tensors(module)
        x = case.random_maps()
        input_ref = weakref.ref(x)
        module(x)
        new_names = sorted(
            name for name, ids in _unregistered_tensors(module).items() if ids != old_ids_by_name.get(name)
        )
        expect(not new_names, f"a forward pass in {mode} leaves a tensor in {', '.join(new_names)}")
        del x
        if input_ref() is not None:
            gc.collect()  # a reference cycle may hold it
        expect(input_ref() is None, f"the input of a forward pass in {mode} is kept alive")


def answers_the_same_twice(case: Subject) -> None:
    """In eval, equal maps give exactly equal outputs, even after another map, and no buffer changes."""
    module, x = case.build_randomized(), case.random_maps()
    state = copy.deepcopy(module.state_dict())
    first_output = module(x)
    module(case.random_maps(*case.sizes(SIZES[2])[0], seed=1))
    expect(torch.equal(module(x), first_output), "the same map gives another output the second time")
    changed = [name for name, value in module.state_dict().items() if not torch.equal(value, state[name])]
    expect(not changed, f"a forward pass in eval changes {', '.join(changed)}")


def leaves_the_generator_alone(case: Subject) -> None:
    """A forward pass draws no random numbers in eval, and does not seed the global generator in train."""
    module, x = case.build_randomized(), case.random_maps()
    old_state = torch.get_rng_state()
    module(x)
    expect(torch.equal(torch.get_rng_state(), old_state), "a forward pass in eval draws from the global generator")
    module.train()
    states_after = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        module(x)
        states_after.append(torch.get_rng_state())
    expect(
        not torch.equal(*states_after),
        "a forward pass in train seeds the global generator: other code draws the same numbers each step",
    )


def registers_every_parameter(case: Subject) -> None:
    """Every tensor of the module is a parameter or buffer, registered before the first forward pass."""
    module = case.build_randomized()
    unregistered = sorted(_unregistered_tensors(module))
    expect(
        not unregistered,
        f"{', '.join(unregistered)}: a tensor that is neither parameter nor buffer is not moved by .to()",
    )
    old_keys = set(module.state_dict())
    module.requires_grad_(False)
    for mode in each_mode(module):
        y = module(case.random_maps())
        new_keys = sorted(set(module.state_dict()) - old_keys)
        expect(
            not new_keys,
            f"a forward pass in {mode} adds {', '.join(new_keys)}: optimisers created earlier lack such keys",
        )
        expect(
            not y.requires_grad,
            "the output requires a gradient although parameters are frozen: a tensor is not a registered parameter",
        )


def survives_copying(case: Subject) -> None:
    """A deep copy, a pickled copy, and a new module with the loaded state give the same output.

    Torch cannot pickle parametrised modules: for them the promise is skipped if the rest holds.
    """
    module, x = case.build_randomized(), case.random_maps()
    y = module(x)
    expect(torch.equal(copy.deepcopy(module)(x), y), "a deep copy gives another output")
    has_parametrizations = any(is_parametrized(child) for child in module.modules())
    if not has_parametrizations:
        expect(torch.equal(pickle.loads(pickle.dumps(module))(x), y), "a pickled copy gives another output")
    other = case.build_randomized(seed=1)
    if any(True for _ in module.parameters()):
        expect(not torch.equal(other(x), y), "two modules with different parameters give the same output")
    other.load_state_dict(module.state_dict())
    expect(torch.equal(other(x), y), "a new module with the state loaded gives another output")
    if has_parametrizations:
        raise UntestableError(
            "torch cannot pickle a parametrized module; a deep copy and a loaded state give the same output"
        )


def is_drawn_by_the_seed(case: Subject) -> None:
    """Equal seeds of torch's generator build equal modules; another seed changes every random value."""
    states, draws, states_after = [], [], []
    for seed in (3, 3, 4):
        torch.default_generator.manual_seed(seed)
        with _RandomDrawRecorder() as recorder:
            states.append(case.build().state_dict())
        draws.append(recorder.values)
        states_after.append(torch.get_rng_state())
    is_same = states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    expect(is_same, "two modules built under one seed start with different values")
    expect(not torch.equal(states_after[1], states_after[2]), "the constructor seeds the global generator")
    for first, second in zip(draws[1], draws[2], strict=False):
        message = (
            f"values of shape {tuple(first.shape)} are drawn the same under another seed: a generator is seeded inside"
        )
        expect(not torch.equal(first, second), message)


class _RandomDrawRecorder(TorchDispatchMode):
    """A mode that records random tensors, except constant ones."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Single numbers are skipped: two seeds may draw equal ones.
        if (
            torch.Tag.nondeterministic_seeded in func.tags
            and result.is_floating_point()
            and not result.is_meta
            and result.unique().numel() > 1
        ):
            self.values.append(result.clone())
        return result


def _unregistered_tensors(module: nn.Module) -> dict[str, list[int]]:
    """Return the ids of unregistered tensors, by attribute path."""
    return {
        f"{path}.{name}".lstrip("."): ids
        for path, child in module.named_modules()
        for name, value in vars(child).items()
        if name not in ("_parameters", "_buffers", "_modules") and (ids := [id(t) for t in tensors_in(value)])
    }
