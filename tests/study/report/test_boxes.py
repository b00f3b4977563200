"""Boxes over an image: outlines, colours, tooltips, legend."""

import re

from saccade.study.report.boxes import class_colour, class_legend, draw_boxes
from saccade.tasks.base import Box

SMALL = Box(0.25, 0.5, 0.375, 0.75, 1, "cat <0.93>")
LARGE = Box(-0.1, 0.0, 0.5, 1.2, 0)


def test_boxes_are_paths_in_per_cent_that_end_at_the_edges():
    halo, large, small = draw_boxes([SMALL, LARGE])
    assert str(large) == f'<path d="M0,0H50V100H0Z" stroke="{class_colour(0)}"></path>'
    title = "<title>cat &lt;0.93&gt;</title>"
    assert str(small) == f'<path d="M25,50H37.5V75H25Z" stroke="{class_colour(1)}">{title}</path>'
    assert str(halo) == '<path d="M0,0H50V100H0ZM25,50H37.5V75H25Z" class="halo"></path>'
    assert draw_boxes([]) == []


def test_a_small_box_lies_over_a_large_one_in_either_order():
    assert draw_boxes([SMALL, LARGE]) == draw_boxes([LARGE, SMALL])
    same_size = [Box(0.0, 0.0, 0.5, 0.5, 0), Box(0.5, 0.5, 1.0, 1.0, 1)]
    assert draw_boxes(same_size) != draw_boxes(same_size[::-1])  # equal areas keep their order


def test_many_classes_have_colours_of_their_own():
    colours = [class_colour(label) for label in range(80)]
    assert [colour for colour in colours if not re.fullmatch("#[0-9a-f]{6}", colour)] == []
    assert len(set(colours)) == 80
    channels = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours[:24]]
    distances = {
        (a, b): max(abs(x - y) for x, y in zip(channels[a], channels[b], strict=True))
        for a in range(24)
        for b in range(a)
    }
    assert {pair: distance for pair, distance in distances.items() if distance < 20} == {}


def test_the_legend_names_the_classes_that_are_drawn():
    boxes = [LARGE, SMALL, SMALL, Box(0, 0, 1, 1, 7)]
    assert class_legend(boxes, ["dog", "cat", "cow"]) == [
        ("dog", class_colour(0)), ("cat", class_colour(1)), ("class 7", class_colour(7))]  # fmt: skip
    assert class_legend([], ["dog"]) == []
