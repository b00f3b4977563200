"""Styles of arms."""

from made_results import arm

from saccade.controls import CONTROLS
from saccade.study.report.charts import ArmStyle, arm_label, assign_styles, legend_marker

ARMS = (arm("none"), arm("se"), arm("das"), arm("das", "extra"))


def test_control_shares_the_style_of_its_arm():
    style_of = assign_styles(ARMS)
    assert list(style_of) == [each.name for each in ARMS]
    assert style_of["none"].colour == "c0"
    assert style_of["extra for das"].colour == style_of["das"].colour != style_of["se"].colour
    assert style_of["extra for das"].control == "extra"
    assert style_of["das"].control is None
    controls = assign_styles([arm("se"), *(arm("se", control) for control in CONTROLS)])
    assert len({style.colour for style in controls.values()}) == 1
    assert len(set(map(legend_marker, controls.values()))) == 4
    assert '<span class="armname">a:<wbr>b_<wbr>c&lt;</span>' in arm_label(ArmStyle("a:b_c<", "c1", "bar"))
    many = assign_styles([arm(f"m{k}") for k in range(40)])
    assert len({(style.colour, style.shape) for style in many.values()}) == 40
