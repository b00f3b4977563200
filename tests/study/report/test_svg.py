"""Scales, ticks and elements of the charts."""

import math

from saccade.study.report.svg import Scale, element, padded_range, ticks


def test_scales_and_ticks():
    scale = Scale(-2.0, 2.0)
    assert (scale.percent(-2), scale.percent(0), scale.percent(1)) == ("0%", "50%", "75%")
    assert padded_range([], min_span=1.0, margin=0.0) == (0.0, 1.0)
    assert padded_range([5.0, None, math.nan], min_span=2.0, margin=0.0) == (4.0, 6.0)
    assert ticks(-3.2, 3.9, 7) == [-3, -2, -1, 0, 1, 2, 3]
    assert ticks(0.012, 0.0231, 5) == [0.012, 0.014, 0.016, 0.018, 0.02, 0.022]
    counts = [len(ticks(low, low + span, 5)) for low in (-7.3, 0.0, 91.2) for span in (0.013, 0.7, 3.3, 88)]
    assert 0 < min(counts) <= max(counts) <= 12
    assert element("a", "<", x=1.0, class_='"') == '<a x="1" class="&#34;">&lt;</a>'
