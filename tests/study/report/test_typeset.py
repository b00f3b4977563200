"""Numbers are formatted as a reader expects them."""

import math

from saccade.study.report.typeset import (
    NARROW_SPACE,
    format_count,
    format_milliseconds,
    format_number,
    format_p_value,
    format_relative,
    format_signed,
    typeset_sentence,
)


def test_numbers():
    assert [format_number(v) for v in (1.005, -0.004, -1.5, None, math.nan)] == ["1.00", "0.00", "−1.50", "–", "–"]
    assert [format_signed(v, 1) for v in (0.04, 0.06, -0.06, None)] == ["0.0", "+0.1", "−0.1", "–"]
    counts = (999, 999_949, 999_951, 26_900_000, 4.39e9, 512_000_000)
    assert [format_count(v).replace(NARROW_SPACE, " ") for v in counts] == [
        "999", "999.9 k", "1.000 M", "26.90 M", "4.390 G", "512.0 M",
    ]  # fmt: skip
    assert [format_milliseconds(v) for v in (0.8434, 8.434, 84.34, 843.4, 8434.0)] == [
        "0.843",
        "8.43",
        "84.3",
        "843",
        "8434",
    ]
    assert [format_relative(v, 100).replace(NARROW_SPACE, " ") for v in (100, 103.1, 100.04, 80, 200, 1234)] == [
        "0.0 %", "+3.1 %", "+0.04 %", "−20.0 %", "×2.00", "×12.3",
    ]  # fmt: skip
    assert format_relative(3, 0) == format_relative(None, 3) == ""
    assert [format_p_value(p).replace(NARROW_SPACE, "") for p in (0.0004, 0.0432, 0.0996, 0.31, 1.0)] == [
        "<0.001", "0.043", "0.10", "0.31", "1.00",
    ]  # fmt: skip
    assert typeset_sentence("a-b -0.5 to -1 % x-2") == f"a-b −0.5 to −1{NARROW_SPACE}% x-2"
