"""Names of labels: separators left in them, and names that differ in form only."""

import pytest

from saccade.data.label_names import near_name_notes, separator_notes, separator_problems


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (["a", "b"], []),
        (["a|b"], ["|"]),
        (["x; y"], [";"]),
        (["a, b", "a", "b"], [","]),
        (["a/b/a", "a", "b", "c"], ["/"]),
        (["a, b", "a"], []),
        (["collie, black"], []),
        (["a|b", "c/d", "c", "d"], ["|", "/"]),
        (["a+b", "a", "b"], []),
    ],
)
def test_separators(names, refused):
    problems = separator_problems(names)
    assert [problem.split(" contains ")[1][1] for problem in problems] == refused


def test_a_possible_separator_is_noted():
    (note,) = separator_notes(["a, b", "c, d", "a"], are_several=True)
    assert note.startswith("the label 'a, b' (and 1 more) contains ','")
    (note,) = separator_notes(["a, b", "c, d", "a"], are_several=False)
    assert note.startswith("the label 'a, b' contains ','")
    assert separator_notes(["a", "b"], are_several=True) == []
    assert separator_notes(["collie, black", "poodle"], are_several=False) == []
    assert separator_notes(["a, b", "a", "b"], are_several=True) == []  # refused


def test_near_names():
    assert near_name_notes(["a", "b", "10", "1"]) == []
    assert near_name_notes(["a", "A"]) == ["the labels 'a' and 'A' differ in capital letters only and are kept apart"]
    kinds = [["lung mass", "Lung_Mass"], ["1", "1.0"], ["a b", "ab"]]
    for names in kinds:
        (note,) = near_name_notes(["other", *names])
        assert "differ in capital letters, spaces, _ or .0 only" in note
