"""Ctrl-C and SIGTERM as wishes, without a command around them."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest

from fsam_cli.launch import _signals
from fsam_cli.launch._signals import stop_wishes
from fsam_cli.launch.local import _stop_on_signal

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set, for the wishes alone."""
    clock = {"now": 100.0}
    monkeypatch.setattr(_signals, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    return clock


def test_signals_within_a_second_are_one_wish_and_a_later_one_is_the_next(clock):
    heard = []
    with stop_wishes(heard.append):
        for now, number in [
            (100.0, signal.SIGTERM),  # the scheduler signals the process,
            (100.4, signal.SIGINT),  # and then its group
            (101.0, signal.SIGINT),  # a whole second later is still the first wish
            (101.1, signal.SIGINT),
            (101.9, signal.SIGTERM),
            (103.0, signal.SIGTERM),
        ]:
            clock["now"] = now
            signal.raise_signal(number)
    assert heard == [1, 2, 3]


@pytest.mark.parametrize("number", BOTH)
def test_what_is_raised_at_a_wish_ends_the_block_and_the_handlers_come_back(number):
    before = [signal.getsignal(each) for each in BOTH]

    def stop(_wish):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), stop_wishes(stop):
        assert [signal.getsignal(each) for each in BOTH] != before
        signal.raise_signal(number)
        pytest.fail("the block went on")
    assert [signal.getsignal(each) for each in BOTH] == before


def test_runs_save_their_state_at_the_first_wish_and_are_left_at_the_second(clock):
    with pytest.raises(KeyboardInterrupt), _stop_on_signal() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        clock["now"] += 0.5
        signal.raise_signal(signal.SIGTERM)
        clock["now"] += 0.6
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the second wish was not heard")
