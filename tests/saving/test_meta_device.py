"""Networks are built on the meta device, within limits."""

import pytest
from torch import nn
from torchvision.models import get_model_builder

from saccade.saving.meta_device import Limits, TooLargeError, call_on_meta_device, copy_on_meta_device
from saccade.saving.weights import shapes_of


def test_a_network_that_grows_is_stopped_while_it_is_built():
    limits = Limits({"weight": (4, 4)})
    with pytest.raises(TooLargeError, match=r"more than .* values; model.safetensors holds 16"):
        call_on_meta_device(lambda: nn.Linear(10**6, 10**6), limits, "file")
    with pytest.raises(TooLargeError, match="modules"):
        call_on_meta_device(lambda: nn.Sequential(*(nn.ReLU() for _ in range(20_000))), limits, "file")
    assert next(call_on_meta_device(lambda: nn.Linear(4, 4), limits, "file").parameters()).is_meta


@pytest.mark.parametrize("name", ["regnet_y_400mf", "resnet18"])  # the first reads values of a range
def test_a_network_on_the_meta_device_has_the_keys_and_shapes_of_the_network(name):
    made = get_model_builder(name)(weights=None)
    meta_network = call_on_meta_device(lambda: get_model_builder(name)(weights=None), Limits(shapes_of(made)), "file")
    assert {value.device.type for value in meta_network.parameters()} == {"meta"}
    assert shapes_of(copy_on_meta_device(made)) == shapes_of(meta_network) == shapes_of(made)
