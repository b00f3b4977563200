"""Promises about side effects of a forward, and about copying, saving and seeding."""

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
    CLOSE,
    SIZES,
    BrokenPromiseError,
    Case,
    UnexaminedError,
    distance,
    expect,
    gradients,
    modes,
    rewinder,
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


def leaves_its_input_alone(case: Case) -> None:
    """The map that goes in is not changed."""
    module, x = case.randomized(), case.maps()
    before = x.clone()
    for mode in modes(module):
        module(x)
        expect(torch.equal(x, before), f"changes its input in {mode}")


def lets_its_output_be_changed(case: Case) -> None:
    """Changing the output in place, as a host may, changes neither the input nor a gradient, in any mode."""
    module, x = case.randomized(), case.maps().requires_grad_()
    rewind = rewinder(module)
    for mode in modes(module):
        rewind()
        expected = gradients(F.relu(module(x * 1)), module, x)
        rewind()
        entering = x * 1  # as in a host: not a leaf
        y = module(entering)
        before = entering.detach().clone()
        y = F.relu(y, inplace=True)
        expect(torch.equal(entering, before), f"its output is its input in {mode}: what changes one changes the other")
        for name, gradient in gradients(y, module, x).items():
            known = expected[name]
            if known is not None and (gradient is None or distance(gradient, known) > CLOSE):
                raise BrokenPromiseError(
                    f"the gradient of {name} in {mode} is wrong after the output was changed in place"
                )


def keeps_nothing_between_calls(case: Case) -> None:
    """After a forward the module holds no tensor it did not hold before, and its input can be freed."""
    module = case.randomized()
    for mode in modes(module):
        before = _unregistered(module)
        x = case.maps()
        alive = weakref.ref(x)
        module(x)
        new = sorted(name for name, held in _unregistered(module).items() if held != before.get(name))
        expect(not new, f"a forward in {mode} leaves a tensor in {', '.join(new)}")
        del x
        if alive() is not None:
            gc.collect()  # a cycle may hold it
        expect(alive() is None, f"the input of a forward in {mode} is kept alive")


def answers_the_same_twice(case: Case) -> None:
    """In eval the same map gives the same output bit for bit, whatever ran in between, and no buffer changes."""
    module, x = case.randomized(), case.maps()
    state = copy.deepcopy(module.state_dict())
    first = module(x)
    module(case.maps(*case.sizes(SIZES[2])[0], seed=1))
    expect(torch.equal(module(x), first), "the same map gives another output the second time")
    moved = [name for name, value in module.state_dict().items() if not torch.equal(value, state[name])]
    expect(not moved, f"a forward in eval changes {', '.join(moved)}")


def leaves_the_generator_alone(case: Case) -> None:
    """A forward in eval draws no random number, and none in train seeds the global generator."""
    module, x = case.randomized(), case.maps()
    before = torch.get_rng_state()
    module(x)
    expect(torch.equal(torch.get_rng_state(), before), "a forward in eval draws from the global generator")
    module.train()
    after = []
    for seed in (1, 2):
        torch.default_generator.manual_seed(seed)
        module(x)
        after.append(torch.get_rng_state())
    expect(not torch.equal(*after), "a forward in train seeds the global generator: all else draws the same each step")


def registers_every_parameter(case: Case) -> None:
    """All its tensors are parameters and buffers, registered before the first forward."""
    module = case.randomized()
    stray = sorted(_unregistered(module))
    expect(not stray, f"{', '.join(stray)}: a tensor that is neither parameter nor buffer moves with no .to()")
    before = set(module.state_dict())
    module.requires_grad_(False)
    for mode in modes(module):
        y = module(case.maps())
        new = sorted(set(module.state_dict()) - before)
        expect(not new, f"a forward in {mode} adds {', '.join(new)}: an optimiser made before does not know it")
        expect(not y.requires_grad, "something that is no registered parameter takes a gradient")


def survives_copying(case: Case) -> None:
    """A deep copy, a pickled copy, and a new module with the state loaded into it give the same output.

    Torch cannot pickle parametrizations: a module with these is reported as skipped if the other two hold.
    """
    module, x = case.randomized(), case.maps()
    y = module(x)
    expect(torch.equal(copy.deepcopy(module)(x), y), "a deep copy gives another output")
    parametrized = any(is_parametrized(part) for part in module.modules())
    if not parametrized:
        expect(torch.equal(pickle.loads(pickle.dumps(module))(x), y), "a pickled copy gives another output")
    other = case.randomized(seed=1)
    if any(True for _ in module.parameters()):
        expect(not torch.equal(other(x), y), "two modules with different parameters give the same output")
    other.load_state_dict(module.state_dict())
    expect(torch.equal(other(x), y), "a new module with the state loaded gives another output")
    if parametrized:
        raise UnexaminedError("torch pickles no parametrized module; a deep copy and a loaded state give its output")


def is_drawn_by_the_seed(case: Case) -> None:
    """The same seed of torch's generator builds the same module; another seed changes every random value."""
    states, draws, after = [], [], []
    for seed in (3, 3, 4):
        torch.default_generator.manual_seed(seed)
        with _Draws() as seen:
            states.append(case.build().state_dict())
        draws.append(seen.values)
        after.append(torch.get_rng_state())
    same = states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    expect(same, "built twice under one seed it starts with different values")
    expect(not torch.equal(after[1], after[2]), "building it seeds the global generator")
    for one, other in zip(draws[1], draws[2], strict=False):
        again = (
            f"values of shape {tuple(one.shape)} are drawn the same under another seed: a generator is seeded inside"
        )
        expect(not torch.equal(one, other), again)


class _Draws(TorchDispatchMode):
    """Records all random numbers that are drawn, constants aside."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # A single number may come twice.
        if (
            torch.Tag.nondeterministic_seeded in func.tags
            and result.is_floating_point()
            and result.unique().numel() > 1
        ):
            self.values.append(result.clone())
        return result


def _unregistered(module: nn.Module) -> dict[str, list[int]]:
    """Return the ids of unregistered tensors by attribute."""
    return {
        f"{path}.{name}".lstrip("."): found
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in ("_parameters", "_buffers", "_modules") and (found := [id(t) for t in tensors_in(value)])
    }
