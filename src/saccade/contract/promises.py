"""The promises, each a function that says in its docstring what holds and raises where it does not.

A module is never tried as it was built: its parameters and running statistics are drawn at random first, because a
zero at the start hides what follows it. What a promise needs to know and nobody states is not examined, and said so.
"""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.contract.case import SIZES, BrokenPromiseError, Case, UnexaminedError
from saccade.facts import SYMMETRIES, evaluate

__all__ = ["PROMISES"]

CLOSE = 1e-9
"""Two float64 results of the same function differ by less, relative to their largest value."""


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BrokenPromiseError(otherwise)


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference relative to the largest value; infinite where shapes differ or a value is not finite."""
    if a.shape != b.shape:
        return float("inf")
    worst = ((a - b).abs().amax() / b.abs().amax().clamp(min=1e-300)).item()
    return worst if worst == worst else float("inf")


def _modes(module: nn.Module) -> Iterator[str]:
    """``module`` put into eval, then into train."""
    for training in (False, True):
        module.train(training)
        yield "train" if training else "eval"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from _tensors(part)


def _strays(module: nn.Module) -> dict[str, list[int]]:
    """Attribute to the tensors it holds, where it is neither a parameter nor a buffer nor a module."""
    return {
        f"{path}.{name}".lstrip("."): found
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in ("_parameters", "_buffers", "_modules") and (found := [id(t) for t in _tensors(value)])
    }


def _weighed(y: Tensor) -> Tensor:
    """The sum of all values under fixed random weights: what is differentiated."""
    return (
        y * torch.randn(y.shape, generator=torch.Generator("cpu").manual_seed(1), dtype=y.dtype, device="cpu")
    ).sum()


def _gradients(y: Tensor, module: nn.Module, x: Tensor) -> dict[str, Tensor | None]:
    """The gradient of the weighed ``y`` by ``input`` and by the name of each parameter."""
    wanted = {"input": x, **dict(module.named_parameters())}
    found = torch.autograd.grad(_weighed(y), list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, found, strict=True))


def keeps_shape(case: Case) -> None:
    """(B, C, H, W) comes out as (B, C, H, W) at any size, 1×1 included, whatever size came before."""
    module = case.drawn()
    for size in SIZES:
        x = case.maps(*size)
        y = module(x)
        _expect(isinstance(y, Tensor), f"returns {type(y).__name__}, not one tensor")
        _expect(y.shape == x.shape, f"{tuple(x.shape)} comes out as {tuple(y.shape)}")
        _expect(bool(y.isfinite().all()), f"{tuple(x.shape)} comes out with values that are not finite")


def takes_one_image(case: Case) -> None:
    """A batch of one image works in eval and train, also where its map is 1×1."""
    module = case.drawn()
    for mode in _modes(module):
        for size in ((1, 1), (5, 3)):
            y = module(case.maps(*size, batch=1))
            _expect(bool(y.isfinite().all()), f"one image of {size[0]}×{size[1]} in {mode}: values that are not finite")


def treats_images_apart(case: Case) -> None:
    """In eval an image comes out the same whatever else is in the batch."""
    module, x = case.drawn(), case.maps(batch=3)
    apart = torch.cat([module(image[None]) for image in x])
    off = _distance(module(x), apart)
    _expect(off < CLOSE, f"an image alone and in a batch of 3 differ by {off:.1e}")


def leaves_its_input_alone(case: Case) -> None:
    """The map that goes in is not changed."""
    module, x = case.drawn(), case.maps()
    before = x.clone()
    for mode in _modes(module):
        module(x)
        _expect(torch.equal(x, before), f"changes its input in {mode}")


def lets_its_output_be_changed(case: Case) -> None:
    """The host may change the output in place: the input stays as it is, and every gradient is still right."""
    module, x = case.drawn(), case.maps().requires_grad_()
    expected = _gradients(F.relu(module(x * 1)), module, x)
    entering = x * 1  # as in a host: not a leaf
    y = F.relu(module(entering), inplace=True)
    _expect(torch.equal(entering, x), "its output is its input: what changes one changes the other")
    for name, gradient in _gradients(y, module, x).items():
        known = expected[name]
        if known is not None and (gradient is None or _distance(gradient, known) > CLOSE):
            raise BrokenPromiseError(f"the gradient of {name} is wrong after the output was changed in place")


def keeps_nothing_between_calls(case: Case) -> None:
    """After a forward the module holds no tensor it did not hold before, and its input can be freed."""
    module = case.drawn()
    for mode in _modes(module):
        before = _strays(module)
        x = case.maps()
        alive = weakref.ref(x)
        module(x)
        new = sorted(name for name, held in _strays(module).items() if held != before.get(name))
        _expect(not new, f"a forward in {mode} leaves a tensor in {', '.join(new)}")
        del x
        if alive() is not None:
            gc.collect()  # a cycle is no keeping
        _expect(alive() is None, f"the input of a forward in {mode} is kept alive")


def answers_the_same_twice(case: Case) -> None:
    """In eval the same map gives the same output bit for bit, whatever came between, and no buffer moves."""
    module, x = case.drawn(), case.maps()
    state = copy.deepcopy(module.state_dict())
    first = module(x)
    module(case.maps(*SIZES[2], seed=1))
    _expect(torch.equal(module(x), first), "the same map gives another output the second time")
    moved = [name for name, value in module.state_dict().items() if not torch.equal(value, state[name])]
    _expect(not moved, f"a forward in eval changes {', '.join(moved)}")


def leaves_the_generator_alone(case: Case) -> None:
    """A forward in eval draws no random number."""
    module, x = case.drawn(), case.maps()
    before = torch.get_rng_state()
    module(x)
    _expect(torch.equal(torch.get_rng_state(), before), "a forward in eval draws from the global generator")


def keeps_dtype(case: Case) -> None:
    """The output has the dtype of the input: float64, float32, bfloat16, and either under bfloat16 autocast."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        _expect_dtype(case.drawn(dtype=dtype)(case.maps(dtype=dtype)), dtype, "")
    module = case.drawn(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            _expect_dtype(module(case.maps(dtype=dtype)), dtype, " under autocast")


def _expect_dtype(y: Tensor, dtype: torch.dtype, when: str) -> None:
    _expect(y.dtype == dtype, f"{dtype} comes out as {y.dtype}{when}")
    _expect(bool(y.isfinite().all()), f"{dtype} comes out with values that are not finite{when}")


def takes_channels_last(case: Case) -> None:
    """A map laid out with its channels last gives the same output."""
    module, x = case.drawn(), case.maps()
    off = _distance(module(x.contiguous(memory_format=torch.channels_last)), module(x))
    _expect(off < CLOSE, f"the output of a channels_last map differs by {off:.1e}")


def registers_every_parameter(case: Case) -> None:
    """What it learns and holds are parameters and buffers, all there before the first forward."""
    module = case.drawn()
    strays = sorted(_strays(module))
    _expect(not strays, f"{', '.join(strays)}: a tensor that is neither parameter nor buffer moves with no .to()")
    before = set(module.state_dict())
    module.requires_grad_(False)
    for mode in _modes(module):
        y = module(case.maps())
        new = sorted(set(module.state_dict()) - before)
        _expect(not new, f"a forward in {mode} adds {', '.join(new)}: an optimiser made before does not know it")
        _expect(not y.requires_grad, "something that is no registered parameter takes a gradient")


def reaches_every_parameter(case: Case) -> None:
    """The input and every parameter get a gradient that is finite and not zero."""
    module, x = case.drawn(), case.maps().requires_grad_()
    for name, gradient in _gradients(module(x), module, x).items():
        _expect(gradient is not None, f"{name} takes no part in the output")
        assert gradient is not None
        _expect(bool(gradient.isfinite().all()), f"the gradient of {name} is not finite")
        largest = gradient.abs().amax().item() if gradient.numel() else 0.0
        _expect(largest > 1e-12, f"the gradient of {name} is zero ({largest:.1e}): it cannot learn")


def has_true_gradients(case: Case) -> None:
    """Gradients of the input and of all parameters are those of finite differences, in eval and train."""
    module, x = case.drawn(), case.maps(3, 2).requires_grad_()
    for mode in _modes(module):
        for name, gradient in _gradients(module(x), module, x).items():
            place = x if name == "input" else module.get_parameter(name)
            direction = torch.randn(
                place.shape, generator=torch.Generator("cpu").manual_seed(2), dtype=place.dtype, device="cpu"
            )
            step = 1e-6 * direction
            with torch.no_grad():
                place.add_(step)
                above = _weighed(module(x))
                place.sub_(2 * step)
                below = _weighed(module(x))
                place.add_(step)
            true = (above - below).item() / 2e-6
            found = 0.0 if gradient is None else (gradient * direction).sum().item()
            # Rounding of two sums of a few hundred values of order 1, over the step: about 1e-8.
            _expect(
                abs(found - true) < 1e-5 * abs(true) + 1e-6,
                f"along a random direction of {name} the gradient is {found:.6g} and differences {true:.6g} in {mode}",
            )


def has_the_parameters_it_states(case: Case) -> None:
    """SPEC's formula gives the number of learnable parameters at every channel count."""
    formula = case.stated("params")
    case.needs_values(formula)
    for channels in (case.channels, 2 * case.channels, 3 * case.channels, case.channels + 1):
        values = {**case.values, "C": channels}
        if case.spec is not None and case.spec.refusal(channels, values) is None:
            found = sum(p.numel() for p in case.built(channels).parameters() if p.requires_grad)
            stated = int(evaluate(formula, values))
            _expect(found == stated, f"{found} parameters at {channels} channels; SPEC's formula gives {stated}")


def refuses_what_it_states(case: Case) -> None:
    """Outside each limit of SPEC building raises a ValueError; inside, up to the limit itself, it does not."""
    limits = case.stated("limits")
    if not limits:
        raise UnexaminedError("SPEC states no limits")
    case.needs_values(*limits)
    for limit in limits:
        trials = [{name: value} for name in sorted(case.names_of(limit)) for value in _around(case.values[name])]
        outside = next((t for t in trials if not evaluate(limit, case.values | t)), None)
        inside = next((t for t in trials if all(evaluate(each, case.values | t) for each in limits)), None)
        if outside is None or inside is None:
            raise UnexaminedError(
                f"no value was found on {'this' if inside is None else 'the other'} side of {limit!r}"
            )
        try:
            _build(case, outside)
        except ValueError:
            pass
        else:
            raise BrokenPromiseError(f"{_said(outside)} lies outside {limit!r} and is accepted")
        try:
            _build(case, inside)
        except Exception as error:
            raise BrokenPromiseError(f"{_said(inside)} lies inside all limits and is refused: {error}") from None


def _around(value: Any) -> list[Any]:
    """Values to either side of ``value``, smallest first."""
    match value:
        case bool():
            return [False, True]
        case int():
            return [*range(1, 2 * value + 2), 1_000, 10_000, 100_000]
        case float():
            return [value * factor for factor in (0.001, 0.1, 0.5, 2, 10, 1000)]
        case None:
            return list(range(1, 9))
    return []


def _build(case: Case, setting: dict[str, Any]) -> None:
    given = {name: value for name, value in setting.items() if name != "C"}
    case.built(setting.get("C"), **given)


def _said(setting: dict[str, Any]) -> str:
    return ", ".join(f"{'channels' if name == 'C' else name} = {value}" for name, value in setting.items())


def keeps_its_gate_in_range(case: Case) -> None:
    """The values that pass through ``tap`` lie strictly inside the range SPEC states."""
    low, high = case.stated("gate")
    for seed in range(3):
        module, seen = case.drawn(seed), list[Tensor]()
        taps = [part for name, part in module.named_modules() if name.rpartition(".")[2] == "tap"]
        _expect(bool(taps), "SPEC states a range of the gate, and no module called `tap` shows the gate")
        for tap in taps:
            tap.register_forward_hook(lambda _module, _args, gate: seen.append(gate.detach()))  # noqa: B023
        module(case.maps(seed=seed))
        for gate in seen:
            least, most = gate.min().item(), gate.max().item()
            _expect(
                low < least and most < high, f"the gate runs from {least:.3g} to {most:.3g}, not in ({low}, {high})"
            )


def is_neutral_as_stated(case: Case) -> None:
    """With its own initialisation it is the identity, bit for bit in eval and train, if and only if SPEC says so."""
    stated = case.stated("neutral")
    torch.default_generator.manual_seed(0)
    module, x = case.built(), case.maps(dtype=torch.float32)
    changed = [mode for mode in _modes(module) if not torch.equal(module(x), x)]
    if stated:
        _expect(not changed, f"SPEC says neutral, and it changes its input in {' and '.join(changed)}")
    else:
        _expect(bool(changed), "it is the identity at its start, and SPEC does not say neutral")


def commutes_as_stated(case: Case) -> None:
    """It commutes with exactly those of permuting pixels, flipping and transposing that SPEC lists."""
    stated = case.stated("equivariant")
    module, x = case.drawn(), case.maps()
    order = torch.randperm(x[0, 0].numel(), generator=torch.Generator("cpu").manual_seed(2), device="cpu")
    moves: dict[str, Callable[[Tensor], Tensor]] = {
        "permutation": lambda t: t.flatten(2)[..., order].view_as(t),
        "flip": lambda t: t.flip(-1),
        "transpose": lambda t: t.transpose(2, 3),
    }
    for symmetry in SYMMETRIES:
        off = _distance(module(moves[symmetry](x)), moves[symmetry](module(x)))
        if symmetry in stated:
            _expect(off < CLOSE, f"SPEC says it commutes with {symmetry}, and the two orders differ by {off:.1e}")
        else:
            _expect(off > CLOSE, f"it commutes with {symmetry}, and SPEC does not say so")


def survives_copying(case: Case) -> None:
    """A deep copy, a pickled copy, and a new module with the state loaded into it give the same output."""
    module, x = case.drawn(), case.maps()
    y = module(x)
    _expect(torch.equal(copy.deepcopy(module)(x), y), "a deep copy gives another output")
    _expect(torch.equal(pickle.loads(pickle.dumps(module))(x), y), "a pickled copy gives another output")
    other = case.drawn(seed=1)
    if any(True for _ in module.parameters()):
        _expect(not torch.equal(other(x), y), "two modules with different parameters give the same output")
    other.load_state_dict(module.state_dict())
    _expect(torch.equal(other(x), y), "a new module with the state loaded gives another output")


def is_drawn_by_the_seed(case: Case) -> None:
    """The same seed of torch's generator builds the same module."""
    states = []
    for _ in range(2):
        torch.default_generator.manual_seed(3)
        states.append(case.built().state_dict())
    same = states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    _expect(same, "built twice under one seed it starts with different values")


PROMISES: tuple[Callable[[Case], None], ...] = (
    keeps_shape,
    takes_one_image,
    treats_images_apart,
    leaves_its_input_alone,
    lets_its_output_be_changed,
    keeps_nothing_between_calls,
    answers_the_same_twice,
    leaves_the_generator_alone,
    keeps_dtype,
    takes_channels_last,
    registers_every_parameter,
    reaches_every_parameter,
    has_true_gradients,
    has_the_parameters_it_states,
    refuses_what_it_states,
    keeps_its_gate_in_range,
    is_neutral_as_stated,
    commutes_as_stated,
    survives_copying,
    is_drawn_by_the_seed,
)
