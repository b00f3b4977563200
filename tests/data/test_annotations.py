"""Faulty annotations are corrected and counted, or refuse their image."""

from array import array
from collections import Counter

import pytest

from saccade.data.annotations import Annotation, CleaningCounts, ImageAnnotations, LabelError, Rle, clean_objects

SIZE = (60, 40)  # width, height


def outline(x1, y1, x2, y2):
    return array("d", [x1, y1, x2, y1, x2, y2, x1, y2])


def cleaned_of(*objects, **fields):
    counts = CleaningCounts()
    numbered = [one._replace(where=f"line {n}") for n, one in enumerate(objects, 1)]
    kept = clean_objects(ImageAnnotations("a.txt", numbered, **fields), SIZE, 1, counts)
    return kept, counts


def test_corrections_are_counted_with_their_first_place():
    kept, counts = cleaned_of(
        Annotation("a", (10, 10, 20, 20)), Annotation("a", (10, 10, 10, 20)), Annotation("a", (10, 10, 20, 20)),
        Annotation("b", (10, 10, 20, 20)), Annotation("a", (-1.5, 5, 62, 30)), Annotation("a", (0, 0, 60.001, 40)),
    )  # fmt: skip
    assert [one.box for one in kept] == [(10, 10, 20, 20), (10, 10, 20, 20), (0, 5, 60, 30), (0, 0, 60, 40)]
    assert counts.counts == Counter(empty=1, duplicate=1, clipped=1)
    assert counts.sentences() == [
        "1 objects without area are left out (a.txt, line 2)",
        "1 boxes extend a little beyond their image and are clipped to it (a.txt, line 5)",
        "1 objects are exact duplicates and are counted once (a.txt, line 3)",
    ]


@pytest.mark.parametrize(
    ("count", "places"),
    [(2, "a.txt, line 1; a.txt, line 2"), (4, "the first: a.txt, line 1; a.txt, line 2; a.txt, line 3")],
)
def test_a_note_names_up_to_three_places(count, places):
    _, counts = cleaned_of(*[Annotation("a", (10, 10, 10, 20))] * count)
    assert counts.sentences() == [f"{count} objects without area are left out ({places})"]


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (Annotation("a", (30, 5, 10, 20)), r"has a box whose x runs from 30 to 10; the smaller"),
        (Annotation("a", (3, 25, 10, 20)), r"a box whose y runs from 25 to 20"),
        (Annotation("a", (3, float("nan"), 10, 20)), r"a number that is not finite"),
        (Annotation("a", (70, 5, 90, 20)), r"a box 70 5 90 20 \(x1 y1 x2 y2\), outside its image of 60×40 pixels"),
        (Annotation("a", (50, 5, 64, 20)), r"outside its image"),  # 4 pixels, more than 5 % of 60
        (Annotation("a", (60, 5, 61, 20)), r"outside its image"),
        (Annotation("a", (5, 5, 20, 20), (outline(5, 5, 90, 20),)), r"an outline in 5 5 90 20 .*outside its image"),
        (Annotation("a", (5, 5, 20, 20), (), Rle(60, 40, array("q", [2400]))), r"a mask of 40×60 pixels; its image"),
    ],
)  # fmt: skip
def test_a_faulty_object_refuses_its_image(one, why):
    with pytest.raises(LabelError, match=rf"^has a faulty annotation: line 1 of a\.txt .*{why}"):
        cleaned_of(one)
    assert len(cleaned_of(Annotation("a", (50, 5, 62.9, 20)))[0]) == 1  # the twin
