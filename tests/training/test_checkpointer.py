"""Signals during training: Ctrl-C is passed on, SIGTERM takes effect at once."""

import os
import signal

import pytest

from saccade.events import StepTaken
from saccade.training import checkpointer, train
from tiny_runs import TINY, after, assert_same_run


def test_ctrl_c_passes_through_and_can_be_pressed_again(straight, tmp_path):
    folder, _, _ = straight
    ended = after(1)

    def press(event):
        if ended(event):
            os.kill(os.getpid(), signal.SIGINT)

    def leave(event):
        raise SystemExit(7)

    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="7"):  # nobody's Ctrl-C
        train(TINY, tmp_path, device="cpu", notify=leave)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path, device="cpu", notify=press)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    train(TINY, tmp_path, device="cpu")
    assert_same_run(folder, tmp_path)


def test_sigterm_ends_a_run_at_once_and_it_goes_on(straight, tmp_path, monkeypatch):
    """Lightning would delay the signal to the end of the epoch."""

    class Terminated(BaseException):
        pass

    def end(number, frame):
        raise Terminated

    monkeypatch.setattr(checkpointer, "_STEP_INTERVAL", 0.0)
    heard = []

    def press(event):
        heard.append(event)
        if event == StepTaken(2, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(Terminated):
            train(TINY, tmp_path, device="cpu", notify=press)
    finally:
        signal.signal(signal.SIGTERM, before)
    steps = [event for event in heard if isinstance(event, StepTaken)]
    assert steps == [StepTaken(1, 1), StepTaken(1, 2), StepTaken(1, 3), StepTaken(2, 1)]
    assert heard[-1] == steps[-1]
    train(TINY, tmp_path, device="cpu")
    assert_same_run(straight[0], tmp_path)
