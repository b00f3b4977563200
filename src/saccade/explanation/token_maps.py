r"""Token maps: for each visual token, the weights with which it averages the pixels of a feature map.

    entropy     H = −Σ_i a_i ln a_i, in nats, for a map a ≥ 0 with Σ_i a_i = 1; ln(H·W) for a uniform map
    foreground  F = Σ_i a_i m_i, for a mask m; the mask's share of the area for a uniform map

Wu et al., "Visual Transformers", ICCV 2021, arXiv:2006.03677, print entropies beside 12.318 for a uniform map; that is
ln(473²), so the unit is the nat, and the maps have the 473×473 pixels of the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from saccade.bases import TokenTap
from saccade.errors import UserError
from saccade.explanation.gates import number_calls
from saccade.graph.states import preserve_state
from saccade.heat_maps import draw_heat_map
from saccade.surgery import record
from saccade.surgery.record import tapped_modules

__all__ = [
    "attention_entropy", "draw_token_map", "foreground_attention", "has_token_maps", "strongest_tokens", "token_maps",
]  # fmt: skip

_HEAT_OPACITY = 0.62


def has_token_maps(model: nn.Module) -> bool:
    """Return True if a module of ``model`` has a tap of token maps."""
    return bool(_tokenizer_paths(model))


def _tokenizer_paths(model: nn.Module) -> list[str]:
    return [path for path, module in tapped_modules(model).items() if isinstance(module.tap, TokenTap)]


def token_maps(model: nn.Module, image: Tensor, resize: bool = True) -> dict[str, Tensor]:
    """Return the token maps of a network by path, from one forward pass in eval mode.

    Args:
        model: a network; without token maps the result is empty.
        image: (C, H, W), or a batch (B, C, H, W), normalised as the network expects; moved to its device.
        resize: True to resize the maps to H×W, bilinearly; each map still sums to 1.

    Returns:
        mapping from the path of a tokenizer to (L, H, W) or (B, L, H, W), float32 on the CPU; with ``resize=False`` of
        the feature map's size. A tokenizer called again has another entry, ``path (call 2)``.
    """
    paths = _tokenizer_paths(model)
    if not paths:
        return {}
    images = image if image.ndim == 4 else image[None]
    device = next((p.device for p in model.parameters()), images.device)
    with preserve_state(model), torch.no_grad(), record(model) as recorded:
        model(images.to(device))
    maps: dict[str, Tensor] = {}
    for path in paths:
        for name, values in number_calls(path, recorded.get(path, [])):
            token_map = values.float().cpu()
            if resize:
                token_map = F.interpolate(token_map, images.shape[2:], mode="bilinear", align_corners=False)
                token_map = token_map / token_map.sum((2, 3), keepdim=True)
            maps[name] = token_map if image.ndim == 4 else token_map[0]
    return maps


def attention_entropy(attention: Tensor) -> Tensor:
    """Return the entropy in nats of maps (..., H, W): 0 for a single pixel, ln(H·W) for a uniform map.

    Raises:
        UserError: a map has a negative value, or is zero everywhere.

    >>> attention_entropy(torch.ones(473, 473, dtype=torch.float64)).round(decimals=3)
    tensor(12.3180, dtype=torch.float64)
    """
    return torch.special.entr(_shares(attention)).sum((-2, -1))


def foreground_attention(attention: Tensor, mask: Tensor) -> Tensor:
    """Return the share (...) of the attention (..., H, W) that lies where ``mask`` (H, W) is true.

    Raises:
        UserError: the sizes differ, or a map has a negative value or is zero everywhere.
    """
    if mask.shape[-2:] != attention.shape[-2:]:
        sizes = " and ".join("×".join(map(str, x.shape[-2:])) for x in (attention, mask))
        raise UserError(f"attention and mask must have one size, got {sizes}; token_maps(..., resize=True) fits images")
    return (_shares(attention) * mask.bool()).sum((-2, -1))


def _shares(attention: Tensor) -> Tensor:
    total = attention.sum((-2, -1), keepdim=True)
    if bool((attention < 0).any()) or not bool((total > 0).all()):
        raise UserError("a map of attention must be nowhere negative and not zero everywhere")
    return attention / total


def strongest_tokens(maps: Tensor, count: int) -> list[int]:
    """Return the ``count`` tokens of least entropy in maps (..., L, H, W), averaged over images, strongest first."""
    entropy = attention_entropy(maps).flatten(0, -2).mean(0) if maps.ndim > 3 else attention_entropy(maps)
    return entropy.argsort(stable=True)[:count].tolist()


def draw_token_map(image: Tensor, token_map: Tensor) -> Image.Image:
    """Draw a map (H, W) over the grey image, uint8 (C, H, W) with 1 or 3 channels; yellow is the map's largest value.

    A map of another size is resized bilinearly.
    """
    height, width = image.shape[-2:]
    array = image.permute(1, 2, 0).cpu().numpy()
    grey = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).convert("L").convert("RGB")
    values = F.interpolate(token_map[None, None].float().cpu(), (height, width), mode="bilinear", align_corners=False)
    return Image.blend(grey, draw_heat_map(values[0, 0] / values.max().clamp(min=1e-30)), _HEAT_OPACITY)
