r"""Visual tokens: a few vectors that stand for regions of a feature map, related to each other and written back.

    A  = softmax_{h,w}(…)                        (B, L, H, W)   one map per token, four ways         `…Tokenizer`
    T  = O [V X Aᵀ; position(A); T_in]           (B, C_T, L)    averages of the pixels under A       eq. 1, 2
    T' = T + attention(T), T″ = T' + F T'        (B, C_T, L)    tokens relate to tokens              eq. 3, 4
    Y  = P X + softmax_L(Q X, K T″) V T″         (B, C_out, H, W)   pixels read the tokens           eq. 5

Tokens are (B, C_T, L): channels first, as in feature maps; no layer has a bias. The printed equations have no value,
output or position layer, heads or scaling: `EquationTransformer`, `EquationProjector`, ``token_channels=None``. The
rest follows the first arXiv version and is a reading: the authors published no code.

Source: Wu et al., "Visual Transformers: Where Do Transformers Really Belong in Vision Models?", ICCV 2021,
arXiv:2006.03677.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.bases import TokenTap
from saccade.errors import UserError

__all__ = [
    "ClusteringTokenizer", "EquationProjector", "EquationTransformer", "FilterTokenizer", "PoolingTokenizer",
    "PositionCode", "Projector", "RecurrentTokenizer", "TokenGraphConvolution", "TokenTransformer", "Tokenizer",
]  # fmt: skip

POSITION_SIZE = 14
"""Side in pixels to which token maps are resized before their positions are coded."""
KMEANS_STEPS = 5


def _require_divisible(name: str, value: int, divisor: int, what: str) -> None:
    if divisor < 1 or value % divisor:
        raise UserError(f"{name} must be a multiple of the {what}, got {value} and {divisor}")


def _layer(inputs: int, outputs: int, groups: int = 1) -> nn.Conv1d:
    """Return a grouped linear layer with Glorot's initial weights; with PyTorch's smaller ones, tokens learn slowly."""
    layer = nn.Conv1d(inputs, outputs, 1, groups=groups, bias=False)
    for weight in layer.weight.chunk(groups):
        nn.init.xavier_normal_(weight)
    return layer


class PositionCode(nn.Module):
    """Code where each token map lies: resize to 14×14, a 3×3 convolution per token of stride 2, flatten."""

    channels = ((POSITION_SIZE + 1) // 2) ** 2

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(tokens, tokens, 3, stride=2, padding=1, groups=tokens, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the codes (B, 49, L) of maps (B, L, H, W)."""
        size = (POSITION_SIZE, POSITION_SIZE)
        resized = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
        code: Tensor = self.conv(resized).flatten(2).mT
        return code


class Tokenizer(nn.Module, ABC):
    """Base of tokenizers: tokens are averages of pixels weighted by token maps, which pass through ``tap``.

    Args:
        channels: C, channels of the feature map.
        tokens: L, number of tokens.
        token_channels: C_T; None for the printed equations: C_T = C, no value, position or output layer.
        groups: groups of the value layer.
        previous_channels: channels of the earlier tokens that the output layer also reads; 0 for none.
        position: True for the output layer to read the position code.

    Raises:
        UserError: ``tokens`` is below 1, or ``groups`` does not divide ``channels``.
    """

    def __init__(
        self,
        channels: int,
        tokens: int = 16,
        token_channels: int | None = 1024,
        groups: int = 8,
        previous_channels: int = 0,
        position: bool = True,
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise UserError(f"tokens must be at least 1, got {tokens}")
        _require_divisible("channels", channels, groups, "groups")
        self.tokens = tokens
        self.token_channels = token_channels or channels
        self.reads_previous = previous_channels > 0 and token_channels is not None
        self.scale = 1.0 if token_channels is None else channels**-0.5
        self.tap = TokenTap()
        self.value: nn.Module = nn.Identity()
        self.position: nn.Module | None = None
        self.output: nn.Module = nn.Identity()
        if token_channels is not None:
            self.value = _layer(channels, channels, groups)
            self.position = PositionCode(tokens) if position else None
            inputs = channels + previous_channels + (PositionCode.channels if position else 0)
            self.output = _layer(inputs, token_channels)

    @abstractmethod
    def maps(self, pixels: Tensor, size: tuple[int, int], previous: Tensor | None) -> Tensor:
        """Return token maps (B, L, H·W), each summing to one, of pixels (B, C, H·W)."""

    @final  # type: ignore[misc]
    def forward(self, x: Tensor, previous: Tensor | None = None) -> Tensor:
        """Return tokens (B, C_T, L) of x (B, C, H, W) and of the earlier tokens, if any, (B, C_prev, L)."""
        size = (x.shape[2], x.shape[3])
        pixels = x.flatten(2)
        maps = self.tap(self.maps(pixels, size, previous).unflatten(2, size))
        values = self.value(pixels)
        parts = [values @ maps.flatten(2).mT.to(values.dtype)]
        if self.position is not None:
            parts.append(self.position(maps))
        if self.reads_previous:
            if previous is None:
                raise UserError("The tokenizer reads the tokens of the module before it; got none")
            parts.append(previous)
        tokens: Tensor = self.output(torch.cat(parts, 1))
        return tokens


class FilterTokenizer(Tokenizer):
    """One learned filter per token: A = softmax_{h,w}(W X), W: C -> L (eq. 1)."""

    def __init__(self, channels: int, tokens: int = 16, token_channels: int | None = 1024, groups: int = 8,
                 previous_channels: int = 0, position: bool = True) -> None:  # fmt: skip
        super().__init__(channels, tokens, token_channels, groups, previous_channels, position)
        self.filters = _layer(channels, tokens)

    def maps(self, pixels: Tensor, size: tuple[int, int], previous: Tensor | None) -> Tensor:
        """Return token maps (B, L, H·W)."""
        logits: Tensor = self.filters(pixels) * self.scale
        return logits.softmax(2)


class RecurrentTokenizer(Tokenizer):
    """Filters computed from the earlier tokens: A = softmax_{h,w}((W T_in)ᵀ K X), W: C_prev -> C (eq. 2).

    K is a grouped layer C -> C, absent with ``token_channels=None``. One head: one map per token.

    Raises:
        UserError: see `Tokenizer`; or ``previous_channels`` is below 1.
    """

    def __init__(self, channels: int, tokens: int = 16, token_channels: int | None = 1024, groups: int = 8,
                 previous_channels: int = 1024, position: bool = True) -> None:  # fmt: skip
        if previous_channels < 1:
            raise UserError(f"previous_channels must be at least 1, got {previous_channels}")
        super().__init__(channels, tokens, token_channels, groups, previous_channels, position)
        self.query = _layer(previous_channels, channels)
        self.key: nn.Module = nn.Identity()
        if token_channels is not None:
            self.key = _layer(channels, channels, groups)

    def maps(self, pixels: Tensor, size: tuple[int, int], previous: Tensor | None) -> Tensor:
        """Return token maps (B, L, H·W); raise UserError without earlier tokens."""
        if previous is None:
            raise UserError("A recurrent tokenizer needs the tokens of the module before it; got none")
        logits: Tensor = self.query(previous).mT @ self.key(pixels) * self.scale
        return logits.softmax(2)


class PoolingTokenizer(Tokenizer):
    """A grid of averages: A is adaptive average pooling to √L×√L, the same for every image.

    Raises:
        UserError: see `Tokenizer`; or ``tokens`` is not a square number.
    """

    def __init__(self, channels: int, tokens: int = 16, token_channels: int | None = 1024, groups: int = 8,
                 previous_channels: int = 0, position: bool = True) -> None:  # fmt: skip
        super().__init__(channels, tokens, token_channels, groups, previous_channels, position)
        self.side = round(tokens**0.5)
        if self.side**2 != tokens:
            raise UserError(f"tokens must be a square number for pooling, got {tokens}; use {self.side**2}")

    def maps(self, pixels: Tensor, size: tuple[int, int], previous: Tensor | None) -> Tensor:
        """Return token maps (B, L, H·W)."""
        rows, columns = (_pooling_weights(self.side, length, pixels) for length in size)
        grid = rows[:, None, :, None] * columns[None, :, None, :]
        return grid.reshape(1, self.tokens, -1).expand(pixels.shape[0], -1, -1)


def _pooling_weights(bins: int, length: int, like: Tensor) -> Tensor:
    """Return adaptive average pooling along one axis as a matrix (bins, length)."""
    first = torch.arange(bins, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)
    inside = (place >= first * length // bins) & (place < ((first + 1) * length + bins - 1) // bins)
    weights = inside.to(like.dtype)
    return weights / weights.sum(1, keepdim=True)


class ClusteringTokenizer(Tokenizer):
    """k-means of the pixels of each image: A averages the pixels nearest to each of L centroids.

    Five steps of Lloyd's algorithm from L evenly spaced pixels, without gradient through the assignment. A centroid
    without pixels takes the nearest one.
    """

    def maps(self, pixels: Tensor, size: tuple[int, int], previous: Tensor | None) -> Tensor:
        """Return token maps (B, L, H·W)."""
        fixed = pixels.detach()
        count = fixed.shape[2]
        start = (torch.arange(self.tokens, device=fixed.device) * 2 + 1) * count // (2 * self.tokens)
        centroids = fixed[:, :, start]
        for _ in range(KMEANS_STEPS):
            maps = self._assign(fixed, centroids)
            centroids = fixed @ maps.mT
        return self._assign(fixed, centroids)

    def _assign(self, pixels: Tensor, centroids: Tensor) -> Tensor:
        """Return the maps (B, L, N) that average the pixels (B, C, N) of each centroid (B, C, L)."""
        distance = centroids.square().sum(1)[:, :, None] - 2 * centroids.mT @ pixels
        members = distance.argmin(1)[:, None] == torch.arange(self.tokens, device=pixels.device)[:, None]
        nearest = distance.argmin(2, keepdim=True) == torch.arange(pixels.shape[2], device=pixels.device)
        members = (members | (nearest & ~members.any(2, keepdim=True))).to(pixels.dtype)
        return members / members.sum(2, keepdim=True)


class TokenTransformer(nn.Module):
    """Self-attention among tokens and one feed-forward layer, both residual.

    Keys and queries have C_T/2 channels; they and the values are grouped. The feed-forward layer is one dense matrix
    without activation.

    Raises:
        UserError: ``token_channels`` is no multiple of 2·heads, or its half none of ``groups``.
    """

    def __init__(self, token_channels: int = 1024, heads: int = 16, groups: int = 4) -> None:
        super().__init__()
        _require_divisible("token_channels", token_channels, 2 * heads, "doubled heads")
        _require_divisible("half the token_channels", token_channels // 2, groups, "groups")
        self.heads = heads
        half = token_channels // 2
        self.key = _layer(token_channels, half, groups)
        self.query = _layer(token_channels, half, groups)
        self.value = _layer(token_channels, token_channels, groups)
        self.feed_forward = _layer(token_channels, token_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, C_T, L) of tokens (B, C_T, L)."""
        tokens = tokens + _attend(self.query(tokens), self.key(tokens), self.value(tokens), self.heads)
        changed: Tensor = tokens + self.feed_forward(tokens)
        return changed


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Return scaled dot-product attention (B, C_v, N) of query (B, C, N) on key (B, C, L) and value (B, C_v, L)."""
    query, key, value = (t.unflatten(1, (heads, -1)) for t in (query, key, value))
    weights = (query.mT @ key * query.shape[2] ** -0.5).softmax(3)
    return (value @ weights.mT.to(value.dtype)).flatten(1, 2)


class TokenGraphConvolution(nn.Module):
    """T + ReLU(T G), G: learned, L×L. A reading: printed sizes leave no room for a C×C matrix."""

    def __init__(self, tokens: int = 16) -> None:
        super().__init__()
        self.adjacency = nn.Parameter(torch.empty(tokens, tokens))
        nn.init.normal_(self.adjacency, std=tokens**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, C_T, L) of tokens (B, C_T, L)."""
        return tokens + (tokens @ self.adjacency).relu()


class Projector(nn.Module):
    """Pixels attend to tokens: Y = P X + attention; P is a 1×1 convolution if the channels change, else absent.

    The query layer is grouped and keeps the channels; key and value layers are dense.

    Raises:
        UserError: ``groups`` or ``heads`` does not divide ``channels``, or ``heads`` not ``out_channels``.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        token_channels: int = 1024,
        heads: int = 16,
        groups: int = 8,
    ) -> None:
        super().__init__()
        out_channels = out_channels or channels
        _require_divisible("channels", channels, groups, "groups")
        _require_divisible("channels", channels, heads, "heads")
        _require_divisible("out_channels", out_channels, heads, "heads")
        self.heads = heads
        self.query = _layer(channels, channels, groups)
        self.key = _layer(token_channels, channels)
        self.value = _layer(token_channels, out_channels)
        self.lateral: nn.Module = nn.Identity()
        if out_channels != channels:
            self.lateral = nn.Conv2d(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Return the map (B, C_out, H, W) of x (B, C, H, W) and tokens (B, C_T, L)."""
        read = _attend(self.query(x.flatten(2)), self.key(tokens), self.value(tokens), self.heads)
        y: Tensor = self.lateral(x) + read.unflatten(2, x.shape[2:])
        return y


class EquationTransformer(nn.Module):
    """Equations 3 and 4 as printed: T' = T + softmax_L((T K)(T Q)ᵀ) T, T'' = T' + ReLU(T' F₁) F₂."""

    def __init__(self, token_channels: int) -> None:
        super().__init__()
        self.key, self.query, self.widen, self.narrow = (
            nn.Conv1d(token_channels, token_channels, 1, bias=False) for _ in range(4)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (B, C, L) of tokens (B, C, L)."""
        weights = (self.key(tokens).mT @ self.query(tokens)).softmax(2)
        tokens = tokens + tokens @ weights.mT.to(tokens.dtype)
        changed: Tensor = tokens + self.narrow(self.widen(tokens).relu())
        return changed


class EquationProjector(nn.Module):
    """Equation 5 as printed: Y = X + softmax_L((X W_Q)(T W_K)ᵀ) T."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv1d(channels, channels, 1, bias=False)
        self.key = nn.Conv1d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Return the map (B, C, H, W) of x (B, C, H, W) and tokens (B, C, L)."""
        weights = (self.query(x.flatten(2)).mT @ self.key(tokens)).softmax(2)
        read = tokens @ weights.mT.to(tokens.dtype)
        return x + read.unflatten(2, x.shape[2:])
