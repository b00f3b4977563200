"""CPU cores and concurrent runs of the local engine."""

from saccade.study import engine


def test_cores_and_slots():
    assert engine.cores() >= 1
    assert engine.cpu_slots(1, "cpu") == engine.cores()
    assert engine.cpu_slots(10_000, "cpu") == 1
    assert engine.cpu_slots(1, "cuda") is None
