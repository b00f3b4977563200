"""Networks that make it hard to put something into them, each in a way that networks of users have.

Each takes (B, 3, 64, 48) and has at least one site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["ADVERSARIAL", "Plain"]

WIDTH = 32


def unit(width: int = WIDTH, stride: int = 1, given: int | None = None) -> nn.Sequential:
    """Convolution, norm, activation in place."""
    convolution = nn.Conv2d(given or width, width, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class Plain(nn.Sequential):
    """Plain containers in plain containers, and activations in place."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
            nn.MaxPool2d(2),
            nn.Sequential(nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(48, 48, 3), nn.ReLU(True)),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(48, 5),
        )


class Pairs(nn.Module):
    """Its blocks hand on tuples, and it returns a dictionary of lists."""

    class Block(nn.Module):
        """(map, how many blocks it went through) -> the same."""

        def __init__(self) -> None:
            super().__init__()
            self.body = unit()

        def forward(self, given: tuple[Tensor, int]) -> tuple[Tensor, int]:
            """Map ((B, C, H, W), n) to ((B, C, H, W), n + 1)."""
            x, depth = given
            return x + self.body(x), depth + 1

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = unit(given=3, stride=2), nn.Sequential(self.Block(), self.Block())
        self.near, self.far = nn.Conv2d(WIDTH, 16, 1), nn.Conv2d(WIDTH, 16, 3, stride=2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Map (B, 3, H, W) to two maps and a number."""
        x, depth = self.blocks((self.stem(x), 0))
        return {"maps": [self.near(x), (self.far(x),)], "depth": depth}


class Twice(nn.Module):
    """One block called three times at two sizes, and two convolutions that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = unit(given=3, stride=2), unit()
        self.first, self.second = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.second.weight = self.first.weight
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5)."""
        x = self.body(self.body(self.stem(x)))
        x = self.body(F.max_pool2d(x, 2))
        return self.head(self.second(self.first(x).relu()).mean((2, 3)))


class FixedSize(nn.Sequential):
    """A Linear behind a fixed number of pixels."""

    def __init__(self) -> None:
        super().__init__(
            unit(given=3, stride=4), unit(stride=2), nn.Flatten(), nn.Linear(WIDTH * 8 * 6, 16), nn.Linear(16, 5)
        )


class Branching(nn.Module):
    """What it runs depends on the picture, in a loop whose length does too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bright, self.dark = unit(given=3, stride=2), unit(), unit()
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5)."""
        steps = 1 + int(x.std() > 0.5)
        x = self.stem(x)
        for _ in range(steps):
            x = x + (self.bright(x) if bool(x.mean() > -1e9) else self.dark(x))
        return self.head(x.mean((2, 3)))


class InPlace(nn.Module):
    """Changes its maps where they are: additions, scales, slices, activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = unit(given=3, stride=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1), unit()
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5)."""
        x = self.stem(x)
        branch = self.a(x)
        branch += x
        branch.mul_(0.5)
        branch[:, : WIDTH // 2] = branch[:, : WIDTH // 2].sigmoid()
        other = self.b(branch).clone()
        other.add_(branch).mul_(0.5)
        return self.head(other.mean((2, 3)))


class Indexed(nn.Module):
    """Lists and dictionaries of modules, called by index and by key, backwards, with a gap."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(given=3, stride=2)
        self.list = nn.ModuleList([unit(), nn.ModuleList([unit(), unit()]), unit()])
        self.dict = nn.ModuleDict({"left": unit(), "right": nn.ModuleDict({"inner": unit()})})
        self.heads = nn.ModuleList([nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 2)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W) to (B, 5) and (B, 2)."""
        x = self.list[2](self.stem(x))
        inner: Any = self.list[1]
        for module in reversed(inner):
            x = x + module(x)
        right: Any = self.dict["right"]
        x = torch.maximum(self.dict["left"](x), right["inner"](self.list[0](x)))
        return tuple(head(x.mean((2, 3))) for head in self.heads)


class Functional(nn.Module):
    """Uses the weights of its modules without calling them; only the end of each block is a call."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 3, stride=2)
        self.convolutions = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3) for _ in range(2))
        self.norms = nn.ModuleList(nn.GroupNorm(4, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5)."""
        x = F.conv2d(x, self.stem.weight, self.stem.bias, stride=2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm.forward(F.conv2d(x, convolution.weight, convolution.bias, padding=1)) + x  # type: ignore[arg-type]
            x = convolution(F.gelu(x))
        return self.head(x.mean((2, 3)))


class Delegating(nn.Module):
    """Answers for whatever it lacks with what its inner network has, and refuses new attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Branching()
        self.__dict__["closed"] = True

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("closed") and name != "training":
            raise AttributeError(f"no attribute {name!r} can be set")
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5)."""
        return self.net(x)


class Checkpointed(nn.Module):
    """Runs its blocks again during the backward, by torch.utils.checkpoint, single and as a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = unit(given=3, stride=2), nn.ModuleList(unit() for _ in range(2))
        self.row, self.head = nn.Sequential(unit(), nn.Dropout2d(0.1)), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5)."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        x = checkpoint(self.row, x, use_reentrant=False)
        return self.head(x.mean((2, 3)))


class ChannelsLast(nn.Module):
    """Blocks that work on (B, H, W, C) and give it on as (B, C, H, W)."""

    class Block(nn.Module):
        """Depthwise convolution, then a channel mixer over the last dimension, added."""

        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH)
            self.norm, self.mix = nn.LayerNorm(WIDTH), nn.Sequential(nn.Linear(WIDTH, 64), nn.GELU())
            self.back = nn.Linear(64, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            """Map (B, C, H, W) to the same."""
            y = self.back(self.mix(self.norm(self.depthwise(x).permute(0, 2, 3, 1))))
            return x + y.permute(0, 3, 1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.blocks, self.head = nn.Sequential(self.Block(), self.Block()), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5)."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Parametrized(nn.Module):
    """Convolutions whose weights are computed at each call: weight norm and spectral norm."""

    def __init__(self) -> None:
        super().__init__()
        parametrizations = nn.utils.parametrizations
        self.stem = unit(given=3, stride=2)
        self.a = parametrizations.weight_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
        self.b = parametrizations.spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5)."""
        x = self.stem(x)
        return self.head((x + self.b(self.a(x).relu())).mean((2, 3)))


class Narrow(nn.Module):
    """Computes in bfloat16 between, by weights of that kind and by autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.narrow = unit(given=3, stride=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1).bfloat16()
        self.cast, self.head = unit(), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 5)."""
        x = self.narrow(self.stem(x).bfloat16()).float()
        with torch.autocast(x.device.type, torch.bfloat16):
            x = x + self.cast(x)
        return self.head(x.float().mean((2, 3)))


class Siamese(nn.Module):
    """One body for two pictures of two sizes; the second by name, with a switch that must be said."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = unit(given=3, stride=2), unit(), nn.Linear(2 * WIDTH, 5)

    def forward(self, x: Tensor, *, other: Tensor | None = None, both: bool = True) -> Tensor:
        """Map (B, 3, H, W), and another or its half, to (B, 5)."""
        other = F.avg_pool2d(x, 2) if other is None else other
        maps = [self.body(self.stem(picture)) for picture in ((x, other) if both else (x, x))]
        return self.head(torch.cat([m.mean((2, 3)) for m in maps], 1))


ADVERSARIAL: dict[str, Callable[[], nn.Module]] = {
    "tuples and dictionaries": Pairs,
    "shared modules": Twice,
    "Linear of a fixed size": FixedSize,
    "branches that depend on the data": Branching,
    "operations in place": InPlace,
    "lists and dictionaries of modules": Indexed,
    "functional blocks": Functional,
    "__getattr__ and __setattr__": Delegating,
    "torch.utils.checkpoint": Checkpointed,
    "channels last inside": ChannelsLast,
    "parametrized weights": Parametrized,
    "bfloat16 inside": Narrow,
    "two pictures": Siamese,
}
