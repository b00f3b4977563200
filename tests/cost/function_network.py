"""A network that is one function, to count what the function costs."""

import torch
from torch import nn

__all__ = ["FunctionNetwork", "ones"]


class FunctionNetwork(nn.Module):
    """A network that calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def ones(*shape):
    return torch.ones(shape)
