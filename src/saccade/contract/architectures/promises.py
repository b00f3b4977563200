"""The promises of an architecture, in the order of testing.

Those about any module are shared with mechanisms. Unless a promise concerns initialisation, norms, biases and
running statistics are randomised.
"""

from __future__ import annotations

from collections.abc import Callable

from saccade.contract.architectures.case import ArchitectureCase
from saccade.contract.architectures.graphs import compiles_in_one_graph, exports_for_any_batch, survives_saving
from saccade.contract.architectures.heads import (
    gives_feature_maps,
    resets_its_classifier,
    splits_into_features_and_head,
)
from saccade.contract.architectures.learning import learns_a_batch
from saccade.contract.architectures.numerics import (
    agrees_in_bfloat16,
    works_in_channels_last,
    works_in_double_precision,
)
from saccade.contract.architectures.outputs import (
    looks_at_each_image,
    takes_any_batch,
    takes_any_classes,
    takes_gray_images,
    takes_other_sizes,
)
from saccade.contract.learning import reaches_every_parameter
from saccade.contract.shapes import treats_images_apart
from saccade.contract.side_effects import (
    answers_the_same_twice,
    is_drawn_by_the_seed,
    keeps_nothing_between_calls,
    leaves_its_input_alone,
    leaves_the_generator_alone,
    survives_copying,
)

__all__ = ["ARCHITECTURE_PROMISES"]

ARCHITECTURE_PROMISES: tuple[Callable[[ArchitectureCase], None], ...] = (
    takes_any_batch,
    takes_other_sizes,
    takes_gray_images,
    takes_any_classes,
    looks_at_each_image,
    treats_images_apart,
    splits_into_features_and_head,
    resets_its_classifier,
    gives_feature_maps,
    leaves_its_input_alone,
    keeps_nothing_between_calls,
    answers_the_same_twice,
    leaves_the_generator_alone,
    works_in_double_precision,
    agrees_in_bfloat16,
    works_in_channels_last,
    reaches_every_parameter,
    learns_a_batch,
    survives_copying,
    survives_saving,
    is_drawn_by_the_seed,
    compiles_in_one_graph,
    exports_for_any_batch,
)
