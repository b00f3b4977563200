"""SPEC's limits are the constructors' ValueErrors, and its function counts their parameters: option by option."""

import inspect

import pytest

from saccade import catalog, list_mechanisms, spec

NUMBERS, RATIOS = (-1, 0, 1, 2, 3, 5, 8), (-0.5, 0.0, 0.01, 0.1, 0.5, 2.0)


def _values(default):
    """Other values for an option of this default."""
    if isinstance(default, bool):
        return (not default,)
    if isinstance(default, int) or default is None:
        return NUMBERS
    return RATIOS if isinstance(default, float) else ()


def _outcome(name, channels, options):
    """The number of parameters, or the words of the constructor that refuses."""
    try:
        return sum(p.numel() for p in catalog.load(name)(channels, **options).parameters())
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", list_mechanisms())
def test_limits_and_counts_are_those_of_the_constructor(name):
    facts, outcomes = spec(name), []
    size = {"size": (5, 4)} if "size" in facts.needs else {}
    parameters = list(inspect.signature(catalog.load(name)).parameters.values())[1:]
    given = [{p.name: value} for p in parameters if p.name != "size" for value in _values(p.default)]
    for channels in (1, 6, 64):
        for options in ({}, *given):
            outcomes.append(_outcome(name, channels, options | size))
            if isinstance(outcomes[-1], str):
                assert outcomes[-1].startswith(facts.limits), (channels, options)
            else:
                every = catalog.resolve_options(name, options | size)
                assert outcomes[-1] == facts.parameters(channels, every), (channels, options)
    assert {type(outcome) for outcome in outcomes} >= {int}
