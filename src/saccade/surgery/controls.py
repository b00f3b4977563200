r"""Controls: what costs as much as attention and is none.

    y = x + W₂ ReLU(W₁ x)            W₁: C -> w, W₂: w -> C, both 1×1, W₂ = 0 at first

If a mechanism helps no more than this, its parameters helped, not its attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from saccade.errors import UserError, did_you_mean
from saccade.form import Context
from saccade.surgery.plug import Mechanism, install
from saccade.surgery.sites import Site

__all__ = ["CONTROLS", "ExtraBottleneck", "plug_control"]

SPEC = {
    "title": "Extra bottleneck",
    "kind": "context",
    "evidence": "reading",
    "params": "2*C*width",
    "limits": ["width >= 1"],
    "neutral": True,
    "equivariant": ["permutation", "flip", "transpose"],
}

CONTROLS = ("extra",)


class ExtraBottleneck(Context):
    """A plain residual 1×1 bottleneck; the identity until it is trained.

    Args:
        channels: C of the map (B, C, H, W).
        width: w, units of the bottleneck.

    Raises:
        ValueError: ``width`` is not positive.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.down = nn.Conv2d(channels, width, 1, bias=False)
        self.up = nn.Conv2d(width, channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def context(self, x: Tensor) -> Tensor:
        """Map x (B, C, H, W) to (B, C, H, W)."""
        context: Tensor = self.up(self.down(x).relu())
        return context


def plug_control(
    host: nn.Module,
    control: str,
    mechanism: str | Callable[..., nn.Module],
    where: str | Sequence[str] = "paper",
    input: Any = None,
    **options: Any,
) -> nn.Module:
    """Put a control into ``host`` at the sites that ``plug`` would give ``mechanism``; neutral at the start.

    Args:
        host: any network.
        control: ``extra``: at each site an :class:`ExtraBottleneck` of the width whose parameters come nearest to the
            mechanism's there, at least 1.
        mechanism: what it is the control of.
        where: as for ``plug``.
        input: as for ``plug``.
        options: of the mechanism.

    Returns:
        ``host``.

    Raises:
        UserError: no such control, or what ``plug`` raises.
    """
    if control not in CONTROLS:
        raise UserError(f"no control is called {control!r}.{did_you_mean(control, CONTROLS)} There is: extra.")
    return install(host, Mechanism.of(mechanism), where, input, options, neutral=False, instead=_extra)


def _extra(site: Site, mechanism: nn.Module) -> tuple[str, dict[str, Any], nn.Module]:
    parameters = sum(p.numel() for p in mechanism.parameters())
    width = max(1, round(parameters / (2 * site.channels)))
    return f"{__name__}:{ExtraBottleneck.__name__}", {"width": width}, ExtraBottleneck(site.channels, width)
