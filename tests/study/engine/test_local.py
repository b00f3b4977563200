"""CPU cores and concurrent runs of the local engine."""

from saccade.study import engine


def test_cores_and_slots():
    assert engine.cores() >= 1
    assert engine.slots_for(1, "cpu") == engine.cores()
    assert engine.slots_for(10_000, "cpu") == 1
    assert engine.slots_for(1, "cuda") is None
