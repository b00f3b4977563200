"""Numbers for a reader: few digits, true minus signs, units after a narrow no-break space."""

from __future__ import annotations

import math
import re

__all__ = [
    "ABSENT", "NARROW", "capital", "count", "duration", "grouped", "heading", "in_unit", "interval", "magnitude",
    "measure", "milliseconds", "number", "p_value", "prose", "relative", "signed",
]  # fmt: skip

NARROW = "\u202f"
"""Narrow no-break space: between a number and its unit."""
ABSENT = "–"
"""Stands for a number that is not there."""


def number(value: float | None, digits: int = 2) -> str:
    """A number with fixed decimals; an en dash for None and for what is not finite.

    >>> number(-0.456), number(None)
    ('−0.46', '–')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    """As :func:`number`, a plus sign before what is above zero.

    >>> signed(0.456), signed(-0.001)
    ('+0.46', '0.00')
    """
    text = number(value, digits)
    return f"+{text}" if value is not None and math.isfinite(value) and round(value, digits) > 0 else text


def measure(value: str, unit: str) -> str:
    """A number and its unit."""
    return f"{value}{NARROW}{unit}" if unit else value


def heading(name: str, unit: str) -> str:
    """Name and unit over a column or an axis: ``top-1, %``."""
    return f"{name}, {unit}" if unit else name


def in_unit(unit: str) -> str:
    """Say the unit in a sentence: `` in per cent``."""
    return f" in {'per cent' if unit == '%' else unit}" if unit else ""


def capital(name: str) -> str:
    """A metric's name that begins a sentence.

    >>> capital("top-1"), capital("mIoU")
    ('Top-1', 'mIoU')
    """
    return name if any(letter.isupper() for letter in name) else name[:1].upper() + name[1:]


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Both ends of an interval, ``[−0.10, +1.20]``."""
    if low is None or high is None:
        return "no interval"
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def count(value: float | None) -> str:
    """A count in k, M, G with four significant digits; below a thousand as it is.

    >>> count(36908123).replace(NARROW, " "), count(512)
    ('36.91 M', '512')
    """
    if value is None:
        return ABSENT
    power, unit = magnitude(value)
    if power == 1:
        return f"{value:.0f}"
    scaled = value / power
    return f"{scaled:.{max(0, 3 - int(math.log10(max(abs(scaled), 1))))}f}{NARROW}{unit}"


def magnitude(value: float) -> tuple[float, str]:
    """The power of a thousand for ``value``, and its letter.

    >>> magnitude(12.1e6)
    (1000000.0, 'M')
    """
    for power, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.99995 * power:  # 999.95 k would print as 1000 k
            return power, unit
    return 1.0, ""


def grouped(value: int) -> str:
    """A whole number, thousands set apart.

    >>> grouped(10000).replace(NARROW, "_")
    '10_000'
    """
    return f"{value:,}".replace(",", NARROW)


def milliseconds(value: float | None) -> str:
    """Three significant digits, without the unit: ``0.843``, ``8.43``, ``84.3``, ``843``."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 0.1))))}f}"


def duration(seconds: float | None) -> str:
    """Seconds as ``8.4 s``, ``2 min 05 s`` or ``3 h 07 min``.

    >>> duration(125).replace(NARROW, " ")
    '2 min 05 s'
    """
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f}{NARROW}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{NARROW}min {whole % 60:02d}{NARROW}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{NARROW}h {minutes % 60:02d}{NARROW}min"


def relative(value: float | None, base: float | None) -> str:
    """``value`` against ``base``: ``+3.1 %``, from twofold on ``×2.4``; empty without a base.

    >>> relative(103.1, 100).replace(NARROW, " "), relative(240, 100)
    ('+3.1 %', '×2.40')
    """
    if value is None or not base:
        return ""
    ratio = value / base
    if ratio >= 2:
        return f"×{ratio:.{2 if ratio < 9.995 else 1}f}"
    change = 100 * (ratio - 1)
    digits = 1 if abs(change) >= 0.1 or change == 0 else 2
    return f"{signed(change, digits)}{NARROW}%"


def p_value(p: float | None) -> str:
    """Two significant digits, ``< 0.001`` below.

    >>> p_value(0.0432), p_value(0.31)
    ('0.043', '0.31')
    """
    if p is None or not math.isfinite(p):
        return ABSENT
    if p < 0.001:
        return f"<{NARROW}0.001"
    return f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def prose(text: str) -> str:
    """A sentence with true minus signs and no line break before ``%``.

    >>> prose("se: -0.4 points (95 % interval -0.9 to +0.1)").replace(NARROW, "_")
    'se: −0.4 points (95_% interval −0.9 to +0.1)'
    """
    return re.sub(r"(?<=\d) %", f"{NARROW}%", re.sub(r"(?<!\w)-(?=\d)", "−", text))
