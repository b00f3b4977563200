"""Architectures of this package, registered with timm when this is imported, and hosts by name."""

from __future__ import annotations

from saccade.models.fcn import FCN
from saccade.models.host import create_host
from saccade.models.resnet_small import ResNetSmall

__all__ = ["FCN", "ResNetSmall", "create_host"]
