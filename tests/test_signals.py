"""Ctrl-C and SIGTERM as requests, without a command around them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from fsam_cli import signals
from fsam_cli.launch.local import _stop_on_signal
from fsam_cli.signals import signals_held_back, stop_requests

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set, for the requests alone."""
    clock = {"now": 100.0}
    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    return clock


def test_signals_within_a_second_are_one_request_and_a_later_one_is_the_next(clock):
    heard = []
    with stop_requests(heard.append):
        for now, number in [
            (100.0, signal.SIGTERM),  # the scheduler signals the process,
            (100.4, signal.SIGINT),  # and then its group
            (101.0, signal.SIGINT),  # a whole second later is still the first request
            (101.1, signal.SIGINT),
            (101.9, signal.SIGTERM),
            (103.0, signal.SIGTERM),
        ]:
            clock["now"] = now
            signal.raise_signal(number)
    assert heard == [1, 2, 3]


@pytest.mark.parametrize("number", BOTH)
def test_what_is_raised_at_a_request_ends_the_block_and_the_handlers_come_back(number):
    before = [signal.getsignal(each) for each in BOTH]

    def stop(_request):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), stop_requests(stop):
        assert [signal.getsignal(each) for each in BOTH] != before
        signal.raise_signal(number)
        pytest.fail("the block went on")
    assert [signal.getsignal(each) for each in BOTH] == before


def test_runs_save_their_state_at_the_first_request_and_are_left_at_the_second(clock):
    with pytest.raises(KeyboardInterrupt), _stop_on_signal() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        clock["now"] += 0.5
        signal.raise_signal(signal.SIGTERM)
        clock["now"] += 0.6
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("the second request was not heard")


def test_a_process_started_while_signals_are_held_back_survives_them_until_it_is_ready():
    code = (
        "import time; print('up', flush=True); time.sleep(1);"
        "from fsam_cli.signals import ignored_from_now_on;"
        "ignored_from_now_on(); time.sleep(0.2); print('ready')"
    )
    with signals_held_back():
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "up\n"
    os.kill(child.pid, signal.SIGINT)  # while it has not said that it ignores them
    os.kill(child.pid, signal.SIGTERM)
    assert child.communicate(timeout=60)[0] == "ready\n"
    assert child.returncode == 0


FIRST_WORKER = """
import os, signal
from fsam_cli.signals import ignored_from_now_on, started_worker

def life(pipe):
    ignored_from_now_on()
    pipe.send("alive")

if __name__ == "__main__":
    process, pipe = started_worker(life)
    os.kill(process.pid, signal.SIGINT)  # while it imports
    os.kill(process.pid, signal.SIGTERM)
    print(pipe.recv())
    process.join(60)
    raise SystemExit(process.exitcode)
"""


def test_a_signal_does_not_reach_even_the_first_worker_of_a_process(tmp_path):
    """With the first one multiprocessing starts a helper, and lets all signals through again."""
    (tmp_path / "first.py").write_text(FIRST_WORKER)
    ended = subprocess.run(
        [sys.executable, tmp_path / "first.py"], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "alive\n", "")


def test_what_is_held_back_stays_so_until_the_outermost_block_ends():
    with signals_held_back():
        with signals_held_back():
            pass
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= {signal.SIGINT, signal.SIGTERM}
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


def test_a_signal_that_was_held_back_is_heard_afterwards():
    heard = []
    with stop_requests(heard.append):
        with signals_held_back():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert heard == []
        assert heard == [1]


def test_the_request_to_stop_has_no_lock_that_a_signal_handler_could_wait_for():
    """`multiprocessing.Event` hangs as soon as a signal finds the loop inside `is_set`."""
    code = (
        "import signal, time\n"
        "from fsam_cli.signals import StopFlag\n"
        "request, heard = StopFlag(), 0\n"
        "def hear(*_):\n"
        "    global heard\n"
        "    heard += 1\n"
        "    request.set()\n"
        "signal.signal(signal.SIGALRM, hear)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)\n"
        "until = time.monotonic() + 2\n"
        "while time.monotonic() < until:\n"
        "    for _ in range(1000): request.is_set()\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "print(heard > 100 and request.is_set())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "True", done.stderr


SIGNALLED_WHILE_IMPORTING = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch.nn":  # torch is half there
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            open("went on", "w").close()

signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job it is ignored
sys.meta_path.insert(0, Finder())
from fsam_cli.app import main
sys.argv = ["fsam", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    "command",
    [
        ("train", "-r", "quickstart", "--dry-run"),
        ("sweep", "-r", "quickstart", "--grid", "methods.fsam.gamma=1,2", "--dry-run"),
        ("perturb", "--alpha", "1"),
        ("bench", "--only", "minimiser"),
        ("models",),
    ],
    ids=lambda command: command[0],
)
def test_an_interrupt_waits_until_torch_is_imported(command, tmp_path):
    """torch that is imported by half aborts the process, or fails later with strange words."""
    ended = subprocess.run(
        [sys.executable, "-c", SIGNALLED_WHILE_IMPORTING, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 130, ended.stderr
    assert (tmp_path / "went on").exists()
    assert ended.stderr.splitlines()[-1:] == ["error: interrupted"]
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
