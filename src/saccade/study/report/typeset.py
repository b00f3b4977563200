"""Formats for numbers in the report: few digits, minus signs, a narrow no-break space before units."""

from __future__ import annotations

import math
import re

__all__ = [
    "ABSENT",
    "NARROW_SPACE",
    "capitalise",
    "format_count",
    "format_duration",
    "format_interval",
    "format_milliseconds",
    "format_number",
    "format_p_value",
    "format_relative",
    "format_signed",
    "group_thousands",
    "label_with_unit",
    "si_prefix",
    "typeset_sentence",
    "unit_phrase",
    "with_unit",
]

NARROW_SPACE = "\u202f"
"""Narrow no-break space: between a number and its unit."""
ABSENT = "–"
"""Text in place of a missing number."""


def format_number(value: float | None, digits: int = 2) -> str:
    """Return a number with fixed decimals; an en dash for None, infinity and NaN.

    >>> format_number(-0.456), format_number(None)
    ('−0.46', '–')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def format_signed(value: float | None, digits: int = 2) -> str:
    """Return a number like :func:`format_number`, with a plus sign if it is positive.

    >>> format_signed(0.456), format_signed(-0.001)
    ('+0.46', '0.00')
    """
    text = format_number(value, digits)
    return f"+{text}" if value is not None and math.isfinite(value) and round(value, digits) > 0 else text


def with_unit(value: str, unit: str) -> str:
    """Return ``value`` followed by its unit, if it has one."""
    return f"{value}{NARROW_SPACE}{unit}" if unit else value


def label_with_unit(name: str, unit: str) -> str:
    """Return a label of name and unit, such as ``top-1, %``."""
    return f"{name}, {unit}" if unit else name


def unit_phrase(unit: str) -> str:
    """Return the unit as a phrase, such as `` in per cent``; "" without a unit."""
    return f" in {'per cent' if unit == '%' else unit}" if unit else ""


def capitalise(name: str) -> str:
    """Return a metric's name with a capital first letter, unless it has capitals already.

    >>> capitalise("top-1"), capitalise("mIoU")
    ('Top-1', 'mIoU')
    """
    return name if any(letter.isupper() for letter in name) else name[:1].upper() + name[1:]


def format_interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Return an interval such as ``[−0.10, +1.20]``."""
    if low is None or high is None:
        return "no interval"
    return f"[{format_signed(low, digits)}, {format_signed(high, digits)}]"


def format_count(value: float | None) -> str:
    """Return a count in k, M or G with four significant digits; below a thousand, as an integer.

    >>> format_count(36908123).replace(NARROW_SPACE, " "), format_count(512)
    ('36.91 M', '512')
    """
    if value is None:
        return ABSENT
    power, unit = si_prefix(value)
    if power == 1:
        return f"{value:.0f}"
    scaled = value / power
    return f"{scaled:.{max(0, 3 - int(math.log10(max(abs(scaled), 1))))}f}{NARROW_SPACE}{unit}"


def si_prefix(value: float) -> tuple[float, str]:
    """Return the SI multiplier for ``value`` and its prefix.

    >>> si_prefix(12.1e6)
    (1000000.0, 'M')
    """
    for power, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.99995 * power:  # 999.95 k would print as 1000 k
            return power, unit
    return 1.0, ""


def group_thousands(value: int) -> str:
    """Return an integer with its thousands separated.

    >>> group_thousands(10000).replace(NARROW_SPACE, "_")
    '10_000'
    """
    return f"{value:,}".replace(",", NARROW_SPACE)


def format_milliseconds(value: float | None) -> str:
    """Return milliseconds with three significant digits, without the unit: ``0.843``, ``8.43``, ``84.3``, ``843``."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 0.1))))}f}"


def format_duration(seconds: float | None) -> str:
    """Return seconds as ``8.4 s``, ``2 min 05 s`` or ``3 h 07 min``.

    >>> format_duration(125).replace(NARROW_SPACE, " ")
    '2 min 05 s'
    """
    if seconds is None or not math.isfinite(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f}{NARROW_SPACE}s"
    total_seconds = round(seconds)
    if total_seconds < 3600:
        return f"{total_seconds // 60}{NARROW_SPACE}min {total_seconds % 60:02d}{NARROW_SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{NARROW_SPACE}h {minutes % 60:02d}{NARROW_SPACE}min"


def format_relative(value: float | None, base: float | None) -> str:
    """Return ``value`` relative to ``base`` as ``+3.1 %``, ``×2.40`` for ratios from 2; "" without a base.

    >>> format_relative(103.1, 100).replace(NARROW_SPACE, " "), format_relative(240, 100)
    ('+3.1 %', '×2.40')
    """
    if value is None or not base:
        return ""
    ratio = value / base
    if ratio >= 2:
        return f"×{ratio:.{2 if ratio < 9.995 else 1}f}"
    change = 100 * (ratio - 1)
    digits = 1 if abs(change) >= 0.1 or change == 0 else 2
    return f"{format_signed(change, digits)}{NARROW_SPACE}%"


def format_p_value(p: float | None) -> str:
    """Return a p-value with two significant digits, or ``< 0.001``.

    >>> format_p_value(0.0432), format_p_value(0.31)
    ('0.043', '0.31')
    """
    if p is None or not math.isfinite(p):
        return ABSENT
    if p < 0.001:
        return f"<{NARROW_SPACE}0.001"
    return f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def typeset_sentence(text: str) -> str:
    """Return a sentence with minus signs before negative numbers, and no line break before ``%``.

    >>> typeset_sentence("se: -0.4 points (95 % interval -0.9 to +0.1)").replace(NARROW_SPACE, "_")
    'se: −0.4 points (95_% interval −0.9 to +0.1)'
    """
    return re.sub(r"(?<=\d) %", f"{NARROW_SPACE}%", re.sub(r"(?<!\w)-(?=\d)", "−", text))
