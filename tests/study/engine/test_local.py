"""CPU cores and concurrent runs of the local engine."""

from saccade.study import engine


def test_cores_are_at_least_one_and_slots_follow_threads():
    assert engine.cores() >= 1
    assert engine.slots_for(1, "cpu") == engine.cores()
    assert engine.slots_for(10_000, "cpu") == 1
    assert engine.slots_for(1, "cuda") is None
