"""Equality with the authors' own code: output, all gradients, running statistics, further outputs, in float64."""

import dataclasses
import re
from pathlib import Path

import pytest

from authors import BY_OTHERS, ELSEWHERE, MODULES, options_of, reproduce
from oracles import EACH_SET, HERE, disagreement, names, read, tolerance
from saccade import list_mechanisms, spec
from saccade.catalog import resolve_options

HOME = Path(__file__).parents[2]
EQUAL = {name for name in list_mechanisms() if spec(name).evidence == "oracle"}


@EACH_SET
def test_every_oracle_is_read_by_a_test(folder):
    assert set(names(folder)) == set(names(HERE))
    others = set(names(folder)) - set(MODULES)
    assert {name for name in others if not name.startswith(tuple(ELSEWHERE))} == set()
    assert len(names(folder)) == 64
    for beginning, test in ELSEWHERE.items():
        assert f'"{beginning}"' in (HOME / "tests" / test).read_text(encoding="utf-8")


def test_the_facts_name_the_repository_of_each_oracle_and_no_other():
    stated = {name: {entry.partition(" ")[0] for entry in spec(name).code} for name in list_mechanisms()}
    compared = {}
    for oracle, (name, _, _) in MODULES.items():
        compared.setdefault(name, set()).add(read(HERE, oracle).meta["repo"].partition(" ")[0])
    assert compared == {name: repositories for name, repositories in stated.items() if repositories}


def test_the_evidence_is_that_of_the_code_which_the_default_options_equal():
    evidence = {name: spec(name).evidence for name in list_mechanisms()}
    equal = {name for name in evidence if any("(" not in entry for entry in spec(name).code)}  # whatever the options
    equal |= {name for oracle, (name, _, _) in MODULES.items() if _is_of_the_defaults(oracle)}
    assert equal - BY_OTHERS == EQUAL
    assert {name for name, word in evidence.items() if word == "port"} <= equal & BY_OTHERS


def _is_of_the_defaults(oracle):
    """Was the oracle made with the default words and flags?"""
    defaults = resolve_options(MODULES[oracle][0], {})
    choices = {key for key, value in defaults.items() if isinstance(value, bool | str)}
    return all(value == defaults[key] for key, value in options_of(read(HERE, oracle)).items() if key in choices)


def claims(text):
    """Return the mechanisms of which a document says, in a row of a table or in a list, that they equal the code."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| (?:oracle|equal to the authors' code)", text, re.MULTILINE)
    lists = re.findall(r"^- Equal to the authors' code.*?(?=^- |^$|\Z)", text, re.MULTILINE | re.DOTALL)
    return set(rows) | {name for part in lists for name in re.findall(r"`(\w+)`", part)}


@pytest.mark.parametrize("document", ["CHANGELOG.md", "docs/zoo.md"])
def test_the_documents_claim_no_more(document):
    claimed = claims((HOME / document).read_text(encoding="utf-8"))
    assert claimed
    assert claimed <= EQUAL


def test_a_claim_is_found():
    text = "| `a` | A | equal to the authors' code, twice | x |\n| `b` | B | the paper's equations | x |\n"
    text += "| `c` | – | oracle | y |\n\n- Equal to the authors' code: `d`,\n  and `e`.\n- Of the papers: `f`.\n"
    assert claims(text) == {"a", "c", "d", "e"}


@EACH_SET
@pytest.mark.parametrize("name", MODULES)
def test_equals_the_authors_code(folder, name):
    oracle = read(folder, name)
    assert oracle.of("grad").keys() == oracle.of("param").keys()
    assert oracle.of("buffer_after").keys() == (oracle.of("buffer") if oracle.meta["mode"] == "train" else {}).keys()
    off = disagreement(oracle, reproduce(oracle, options_of(oracle)))
    assert max(off.values()) <= 1, off


@EACH_SET
@pytest.mark.parametrize("name", MODULES)
def test_parameters_left_out_have_no_gradient(folder, name):
    oracle = read(folder, name)
    layers = MODULES[name][2]
    left_out = {theirs for theirs in oracle.of("param") if layers.get(theirs, "") is None}
    assert left_out <= set(oracle.meta["zero_grad_params"])


def _moved(tensor, index, step):
    """Return a copy with one number changed."""
    copy = tensor.clone()
    copy.view(-1)[index] += step
    return copy


def _with(oracle, key, value):
    """Return the oracle with another array."""
    return dataclasses.replace(oracle, arrays=oracle.arrays | {key: value})


@pytest.mark.parametrize("name", MODULES)
def test_one_other_number_among_the_results_is_noticed(name):
    oracle = read(HERE, name)
    found = reproduce(oracle, options_of(oracle))
    for key, expected in oracle.results.items():
        other = _with(oracle, key, _moved(expected, -1, 4 * tolerance(oracle, key)))
        assert {key for key, value in disagreement(other, found).items() if value > 1} == {key}


@pytest.mark.parametrize("name", MODULES)
def test_one_other_number_among_the_parameters_is_noticed(name):
    oracle = read(HERE, name)
    for theirs, grad in oracle.of("grad").items():
        if theirs not in oracle.meta["zero_grad_params"]:
            key, steepest = f"param:{theirs}", int(grad.abs().argmax())
            other = _with(oracle, key, _moved(oracle.arrays[key], steepest, 2.0**-20))
            assert disagreement(oracle, reproduce(other, options_of(oracle)))["y"] > 1, theirs


@pytest.mark.parametrize("name", MODULES)
def test_other_running_statistics_are_noticed(name):
    oracle = read(HERE, name)
    for theirs, value in oracle.of("buffer").items():
        other = _with(oracle, f"buffer:{theirs}", value + 2.0**-8)
        assert max(disagreement(oracle, reproduce(other, options_of(oracle))).values()) > 1, theirs
