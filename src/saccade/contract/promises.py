"""The promises, in the order of testing.

A promise is a function of a :class:`~saccade.contract.harness.Case` that raises unless its docstring is true.
Unless a promise concerns initialisation, parameters and running statistics are randomised, because zeros hide errors in
later layers.
"""

from __future__ import annotations

from collections.abc import Callable

from saccade.contract.declared import (
    commutes_as_stated,
    has_the_parameters_it_states,
    is_neutral_as_stated,
    keeps_its_gate_in_range,
    refuses_what_it_states,
)
from saccade.contract.graphs import compiles_whole, exports_for_any_size
from saccade.contract.harness import Case
from saccade.contract.layers import calls_its_layers
from saccade.contract.learning import has_true_gradients, learns_from_a_neutral_start, reaches_every_parameter
from saccade.contract.numerics import agrees_under_autocast, keeps_dtype, stays_finite, takes_channels_last
from saccade.contract.shapes import (
    keeps_shape,
    runs_on_meta,
    takes_an_empty_batch,
    takes_any_channels,
    takes_one_image,
    treats_images_apart,
)
from saccade.contract.side_effects import (
    answers_the_same_twice,
    is_drawn_by_the_seed,
    keeps_nothing_between_calls,
    leaves_its_input_alone,
    leaves_the_generator_alone,
    lets_its_output_be_changed,
    registers_every_parameter,
    survives_copying,
)

__all__ = ["PROMISES"]

PROMISES: tuple[Callable[[Case], None], ...] = (
    keeps_shape,
    takes_one_image,
    takes_an_empty_batch,
    takes_any_channels,
    treats_images_apart,
    runs_on_meta,
    leaves_its_input_alone,
    lets_its_output_be_changed,
    keeps_nothing_between_calls,
    answers_the_same_twice,
    leaves_the_generator_alone,
    keeps_dtype,
    agrees_under_autocast,
    takes_channels_last,
    stays_finite,
    registers_every_parameter,
    calls_its_layers,
    reaches_every_parameter,
    has_true_gradients,
    learns_from_a_neutral_start,
    has_the_parameters_it_states,
    refuses_what_it_states,
    keeps_its_gate_in_range,
    is_neutral_as_stated,
    commutes_as_stated,
    survives_copying,
    is_drawn_by_the_seed,
    compiles_whole,
    exports_for_any_size,
)
