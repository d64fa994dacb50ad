"""Several runs at once: which settings, what is added up, and workers that go wrong."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from functools import partial

import pytest
import torch

from fsam_cli.measure.bench import sections
from fsam_cli.measure.bench.network import BenchMethod, BenchProtocol
from fsam_cli.measure.bench.runs import (
    ALONE,
    Concurrency,
    lines_of,
    method_of,
    race_of,
    runs_at_once,
    settings_for,
    too_large,
)
from fsam_cli.measure.bench.workers import (
    Crew,
    Done,
    Failed,
    Lost,
    Order,
    Patience,
    Ready,
    Task,
    _live,
    steps_for,
)
from fsam_cli.minimisers.asam import Asam
from tests.support import bench_workers as lives
from tests.support.bench import (  # noqa: F401 (fixtures)
    CPU,
    SAM,
    SGD,
    TINY,
    Broken,
    Clock,
    Ticking,
    Tiny,
    eager_only,
    one_thread,
    three_rounds,
)

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "cores", "asked", "expected"),
    [
        (CPU, 1, None, [(1, 1)]),
        (CPU, 2, None, [(1, 1), (1, 2), (2, 1)]),
        (CPU, 6, None, [(1, 1), (1, 6), (2, 3), (4, 1)]),
        (CPU, 8, None, [(1, 1), (1, 8), (2, 4), (4, 2), (8, 1)]),
        (CPU, 8, (3, 16), [(1, 1), (3, 2), (16, 1)]),
        (CUDA, 16, None, [(1, 1), (2, 1), (4, 1), (8, 1)]),
        (CUDA, 16, (1, 3), [(1, 1), (3, 1)]),
    ],
)
def test_the_cores_are_shared_out_and_one_run_alone_comes_first(device, cores, asked, expected):
    assert settings_for(device, cores, asked) == tuple(Concurrency(*each) for each in expected)


def test_the_method_is_the_first_that_climbs_or_else_the_first():
    asam = BenchMethod("asam", "asam", Asam())
    assert method_of(BenchProtocol({}, (SGD, asam, SAM))) is asam
    assert method_of(BenchProtocol({}, (SGD,))) is SGD


def test_a_large_network_on_a_cpu_is_for_those_who_ask_for_it_alone():
    assert "5.2e+09 multiply-adds" in too_large(5_200_000_000, CPU, asked=False)
    assert too_large(5_200_000_000, CPU, asked=True) is None
    assert too_large(40_000_000, CPU, asked=False) is None
    assert too_large(5_200_000_000, CUDA, asked=False) is None


def test_a_worker_steps_until_the_time_is_over_and_once_at_least():
    clock = Clock()
    assert steps_for(1.0, clock.task(0.375), 8, clock) == Done(3 * 8, 1.125)
    assert steps_for(0.0, clock.task(0.375), 8, clock) == Done(8, 0.375)


class Queue(Clock):
    """A device: work is handed over in no time, and done when the clock is asked."""

    def __init__(self):
        super().__init__()
        self.waiting, self.looks = 0.0, 0

    def __call__(self):
        self.now += self.waiting
        self.waiting, self.looks = 0.0, self.looks + 1
        return self.now

    def task(self, seconds):
        def hand_over():
            self.now += 1e-5
            self.waiting += seconds

        return hand_over


@pytest.mark.parametrize(("a_step", "most_looks"), [(0.001, 32), (0.02, 32), (0.3, 8)])
def test_a_device_is_not_given_more_than_the_time_allows_nor_waited_for_after_every_step(
    a_step, most_looks
):
    device = Queue()
    done = steps_for(1.0, device.task(a_step), 8, device)
    assert 1.0 <= done.seconds < 1.3
    assert done.images / 8 == pytest.approx(done.seconds / (a_step + 1e-5))
    assert device.looks < most_looks


class Scripted:
    """A crew whose workers each do 50 images a second, 80 when alone."""

    def __init__(self, count, losing=None):
        self.count, self.losing, self.orders = count, losing, []

    def __len__(self):
        return self.count

    def together(self, at_once, order):
        self.orders.append((at_once, order.threads, order.seconds))
        if len(self.orders) == self.losing:
            self.count -= 1
            raise Lost
        return [Done(160, 2.0)] if at_once == 1 else [Done(100, 2.0)] * at_once


SETTINGS = (ALONE, Concurrency(2, 4), Concurrency(4, 2))


def test_the_images_of_all_workers_are_added_up():
    crew = Scripted(4)
    samples = race_of(crew, SETTINGS, 0.5, three_rounds())
    lines = lines_of(samples, SETTINGS)
    assert [(line.at_once, line.threads) for line in lines] == [(1, 1), (2, 4), (4, 2)]
    speeds = [line.images_per_second.median for line in lines]
    assert speeds == pytest.approx([80.0, 100.0, 200.0])
    ratios = [line.over_one.median for line in lines]
    assert ratios == pytest.approx([1.0, 1.25, 2.5])
    assert [at_once for at_once, _, _ in crew.orders] == [1, 2, 4, 1, 2, 4, 2, 4, 1, 4, 1, 2]
    assert [seconds for _, _, seconds in crew.orders] == [0.0] * 3 + [0.5] * 9
    assert {order[:2] for order in crew.orders} == {(1, 1), (2, 4), (4, 2)}


def test_without_a_worker_that_was_lost_the_race_begins_anew_with_what_is_possible():
    crew = Scripted(4, losing=8)
    samples = race_of(crew, SETTINGS, 0.5, three_rounds())
    assert [line.at_once for line in lines_of(samples, SETTINGS)] == [1, 2]
    assert len(crew.orders) == 8 + 2 + 3 * 2
    assert race_of(Scripted(0), SETTINGS, 0.5, three_rounds()) is None


def at_once(settings, *, models=None, **changes):
    protocol = TINY if models is None else replace(TINY, models=models)
    asked = {"batch_size": 4, "compile": "none", "timing": three_rounds()}
    asked |= {"order_seconds": 0.05, **changes}
    (name,) = protocol.models
    return runs_at_once(name, protocol, settings=settings, **asked)


TWO = (ALONE, Concurrency(2, 1))


def test_two_processes_step_at_once_and_are_gone_afterwards():
    found = at_once(TWO)
    assert (found.model, found.method, found.batch_size) == ("tiny", "sam", 4)
    assert (found.launched, found.left_out) == ("eager", ())
    assert [(line.at_once, line.threads) for line in found.lines] == [(1, 1), (2, 1)]
    assert all(line.images_per_second.low > 0 for line in found.lines)
    assert [line.images_per_second.rounds for line in found.lines] == [3, 3]
    assert found.lines[0].over_one.median == 1.0
    assert not multiprocessing.active_children()


def test_a_worker_that_cannot_build_says_why():
    found = at_once((ALONE,), models={"broken": Broken()})
    assert found.lines == ()
    assert found.left_out == (
        "process 1: ValueError: no such layer",
        "more than 0 at once, for want of processes",
    )


@pytest.mark.parametrize(
    ("life", "patience", "reason"),
    [
        (lives.ends, 120.0, "ended with code 3"),
        (lives.killed, 120.0, "killed by signal 9"),
        (lives.silent, 0.5, "silent for 0.5 s"),
    ],
)
def test_a_worker_that_never_gets_ready_is_named_and_not_waited_for(life, patience, reason):
    found = at_once((ALONE,), life=life, patience=Patience(start=patience))
    assert found.lines == ()
    assert found.left_out[0] == f"process 1: {reason}"
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("how", "reason"),
    [("fail", "OutOfMemoryError: none left"), ("silent", "silent for 2 s")],
)
def test_a_worker_lost_at_work_costs_only_the_settings_that_need_it(tmp_path, how, reason):
    life = partial(lives.one_falls, str(tmp_path), how)
    found = at_once(TWO, life=life, patience=Patience(answer=2.0))
    assert [line.at_once for line in found.lines] == [1]
    assert found.lines[0].images_per_second.median == 50.0
    assert found.left_out == (
        f"process 1: {reason}",
        "more than 1 at once, for want of processes",
    )


def test_workers_are_killed_when_the_parent_is_interrupted():
    with pytest.raises(KeyboardInterrupt), Crew(1, task(), patience=Patience(start=120.0)) as crew:
        assert len(crew) == 1
        raise KeyboardInterrupt
    assert not multiprocessing.active_children()


def task():
    return Task("tiny", replace(TINY, methods=(SAM,)), 4, "none", CPU)


class Pipe:
    """Orders of a parent that then goes away, and the answers to them."""

    def __init__(self, *orders):
        self.orders, self.answers = list(orders), []

    def recv(self):
        if not self.orders:
            raise EOFError
        return self.orders.pop(0)

    def send(self, answer):
        self.answers.append(answer)


def test_a_worker_gets_ready_and_answers_every_order_with_its_threads():
    pipe = Pipe(task(), Order(0.0, 2))
    with pytest.raises(EOFError):
        _live(pipe)
    ready, done = pipe.answers
    assert (type(ready), ready.launched) == (Ready, "eager")
    assert done.images == 4
    assert torch.get_num_threads() == 2


def test_what_a_worker_dies_of_is_its_last_answer():
    broken = replace(task(), protocol=replace(TINY, models={"tiny": Broken()}))
    pipe = Pipe(broken)
    _live(pipe)
    assert pipe.answers == [Failed("ValueError: no such layer")]


def test_large_networks_are_measured_only_if_the_section_is_asked_for(monkeypatch):
    run = []
    monkeypatch.setattr(sections, "runs_at_once", lambda name, *_, **__: run.append(name))
    monkeypatch.setattr(sections, "minimiser_alone", lambda *_, **__: None)
    monkeypatch.setattr(sections, "_plain", lambda result: result)
    monkeypatch.setattr(sections, "_multiply_adds", lambda model, classes: 2e9)
    plan = sections.BenchPlan(
        protocol=BenchProtocol({"a": Tiny(), "b": Tiny()}, (SGD,)),
        step_methods=(SGD,),
        sections=("minimiser", "runs"),
        precisions=None,
        batch_size=4,
        seconds=1.0,
        rounds=3,
        device=CPU,
        threads=1,
    )
    document = sections.measured(plan, lambda _: None, Ticking())
    assert run == []
    said = [line for line in document["left_out"] if line.startswith("runs at once")]
    assert said == [
        f"runs at once, {name}: 2.0e+09 multiply-adds an image take minutes on a CPU; "
        "ask with --only runs"
        for name in "ab"
    ]
    sections.measured(replace(plan, sections=("runs",)), lambda _: None, Ticking())
    assert run == ["a", "b"]
    sections.measured(replace(plan, at_once=(1, 2)), lambda _: None, Ticking())
    assert run == ["a", "b", "a", "b"]
