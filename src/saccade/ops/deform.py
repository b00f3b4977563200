"""Placeholder until the real file arrives: torchvision's own operator."""

from torchvision.ops import deform_conv2d

__all__ = ["deform_conv2d"]
