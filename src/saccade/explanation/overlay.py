"""Draw a heat map over its image in grey, where its colours can be told apart."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from saccade.errors import UserError
from saccade.heat_maps import draw_heat_map

__all__ = ["outlined", "overlay", "to_picture"]

_OUTLINE = (253, 231, 37)


def overlay(image: Tensor, heat_map: Tensor, opacity: float = 0.5, threshold: float = 0.0) -> Image.Image:
    """Draw a map (H, W) from 0 to 1 over the grey image, uint8 (C, H, W) with 1 or 3 channels.

    A map of another size is resized bilinearly. Pixels below ``threshold`` show the image only.

    Args:
        image: the image.
        heat_map: the map, see ``activation_maps``.
        opacity: from 0, the image only, to 1, the map only.
        threshold: from 0 to 1.

    Raises:
        UserError: ``opacity`` or ``threshold`` is outside 0 to 1.
    """
    for name, value in (("opacity", opacity), ("threshold", threshold)):
        if not 0 <= value <= 1:
            raise UserError(f"{name} must be from 0 to 1, got {value:g}")
    values = heat_map.detach().float().cpu()
    if values.shape != image.shape[-2:]:
        values = F.interpolate(values[None, None], image.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    grey = to_picture(image).convert("L").convert("RGB")
    weights = torch.where(values >= threshold, opacity, 0.0)[..., None].numpy()
    mixed = weights * np.asarray(draw_heat_map(values), np.float32) + (1 - weights) * np.asarray(grey, np.float32)
    return Image.fromarray(mixed.round().astype(np.uint8))


def to_picture(image: Tensor) -> Image.Image:
    """Return an image, uint8 (C, H, W) with 1 or 3 channels, as an RGB picture."""
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).convert("RGB")


def outlined(picture: Image.Image, mask: Tensor) -> Image.Image:
    """Return an RGB picture with the outline of a region, bool (H, W) of any size, in yellow on black."""
    region = Image.fromarray((255 * mask.cpu().to(torch.uint8)).numpy()).resize(picture.size, Image.Resampling.NEAREST)
    inner = region.filter(ImageFilter.MinFilter(5))
    result = picture.copy()
    for colour, outer in (((0, 0, 0), region.filter(ImageFilter.MaxFilter(3))), (_OUTLINE, region)):
        edge = np.asarray(outer).astype(bool) & ~np.asarray(inner).astype(bool)
        result.paste(colour, (0, 0), Image.fromarray(edge))
    return result
