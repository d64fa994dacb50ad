"""Peers of `fsam bench`, and its document; nothing is timed."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import replace
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest
import torch

from fsam_cli.engine import sgd as sgd_
from fsam_cli.engine import step as step_
from fsam_cli.errors import UsageError, briefly
from fsam_cli.measure.bench import peer_files, sections, workers
from fsam_cli.measure.bench import peers as peers_
from fsam_cli.measure.bench.minimiser import ACCUMULATION
from fsam_cli.measure.bench.network import BenchMethod, BenchProtocol
from fsam_cli.measure.bench.peer_files import NamedPeer, found_peers
from fsam_cli.minimisers.gsam import Gsam
from fsam_cli.minimisers.look_sam import LookSam
from fsam_cli.reports import bench_table
from tests.support.bench import (  # noqa: F401 (fixtures)
    CPU,
    PADDED,
    SAM,
    SGD,
    TINY,
    WEIGHTS,
    Broken,
    ByHand,
    Clock,
    Ticking,
    Tiny,
    eager_only,
    one_thread,
    three_rounds,
    undisturbed,
)


def beside(*peers):
    return peers_.side_by_side(
        "tiny",
        TINY,
        [NamedPeer(name, build, None) for name, build in peers],
        implementations=("eager",),
        timing=three_rounds(),
    )


def test_another_sam_with_the_same_numbers_agrees():
    found = beside(("by hand", ByHand))
    ours, theirs = found.lines
    assert (ours.label, ours.difference, ours.agrees) == ("fsam eager", None, True)
    assert theirs.difference < 1e-5
    assert theirs.agrees
    assert theirs.over["eager"].median == 1.0  # everything takes a second
    assert theirs.multiple.median == pytest.approx(0.8)
    # Alive at most: momentum, saved weights, and the largest gradient twice in float64; one vector
    # of the padded length is taken off for the momentum.
    alive = 4 * 2 * WEIGHTS + 8 * 2 * 2560
    assert theirs.extra_memory == pytest.approx(alive / (4 * PADDED) - 1, abs=0.01)
    assert found.weights == WEIGHTS


@pytest.mark.parametrize("wrong", ["radius", "decay", "restore", "momentum"])
def test_a_sam_that_does_other_work_is_told_apart(wrong):
    found = beside(("wrong", lambda parameters, setting: ByHand(parameters, setting, wrong)))
    assert not found.lines[1].agrees


@pytest.mark.parametrize("place", [0, -1])
def test_a_peer_whose_weights_are_no_longer_finite_is_left_out(place):
    class Overflowing(ByHand):
        @torch.no_grad()
        def first_step(self):
            super().first_step()
            self.parameters[place].fill_(math.nan)

    found = beside(("overflowing", Overflowing), ("by hand", ByHand))
    assert [line.label for line in found.lines] == ["fsam eager", "by hand"]
    assert found.left_out == ("overflowing: it leaves weights that are not finite",)


def test_a_peer_that_raises_is_left_out_and_the_others_are_not():
    def broken(parameters, setting):
        raise RuntimeError("no such kernel")

    found = beside(("broken", broken), ("by hand", ByHand))
    assert [line.label for line in found.lines] == ["fsam eager", "by hand"]
    assert found.left_out == ("broken: RuntimeError: no such kernel",)


def test_the_step_of_pytorch_optimizer_is_ours():
    pytest.importorskip("pytorch_optimizer")
    peers, skipped = found_peers([])
    assert not skipped
    assert {peer.name for peer in peers} >= {"pytorch_optimizer", "pytorch_optimizer foreach"}
    found = beside(*((peer.name, peer.build) for peer in peers))
    assert not found.left_out
    assert all(line.agrees for line in found.lines)


def test_a_peer_that_is_not_installed_is_skipped_with_a_line(monkeypatch):
    monkeypatch.setattr(peer_files, "_version", lambda distribution: None)
    peers, skipped = found_peers([])
    assert peers == ()
    assert skipped == ("pytorch-optimizer is not installed; pip install 'fsam-cli[bench]' has it",)


GOOD = """
class Mine:
    def first_step(self): ...
    def second_step(self): ...

PROVIDES = {"mine": lambda parameters, setting: Mine()}
"""


def peer_file(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_a_file_of_ones_own_is_a_peer(tmp_path):
    peers, _ = found_peers([peer_file(tmp_path, GOOD)])
    assert peers[-1].name == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]  # nothing beside it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "mine.py has no PROVIDES; end it with PROVIDES = {"),
        ("PROVIDES = {}", "is empty; end it with PROVIDES = {"),
        ("PROVIDES = {'mine': 3}", "'mine' is not a name with a builder"),
        ("x = 1\nimport nonsense_package", "line 2 (import nonsense_package): ModuleNot"),
        ("def f(:", "line 1 (def f(:): SyntaxError"),
        ("PROVIDES = {'mine': lambda p, s: object()}", "has no first_step()"),
        ("PROVIDES = {'mine': lambda p: p}", "'mine' cannot be built: {path}: TypeError"),
        (
            "def f(p, s):\n    import nonsense\nPROVIDES = {'mine': f}",
            "'mine' cannot be built: {path}, line 2 (import nonsense): ModuleNotFoundError",
        ),
        ("PROVIDES = {'fsam eager': print}", "the name 'fsam eager' is taken"),
    ],
)
def test_a_file_that_is_no_peer_is_refused_with_its_place(tmp_path, text, message):
    path = peer_file(tmp_path, text)
    with pytest.raises(UsageError) as told:
        found_peers([path])
    assert message.replace("{path}", str(path)) in str(told.value)
    assert str(path) in str(told.value)


def test_a_file_may_hold_a_dataclass_whose_annotations_are_texts(tmp_path):
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    text = f"{head}@dataclass\nclass At:\n    w: float\n" + textwrap.dedent(GOOD)
    assert found_peers([peer_file(tmp_path, text)])[0][-1].name == "mine"


def test_two_files_may_not_share_a_name(tmp_path):
    files = [peer_file(tmp_path, GOOD, name) for name in ("a.py", "b.py")]
    with pytest.raises(UsageError, match="'mine' is taken"):
        found_peers(files)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no file .*there.py; paths start at the work"):
        found_peers([tmp_path / "there.py"])


def plan(**changes):
    asked = {
        "protocol": TINY,
        "step_methods": (SGD, SAM),
        "sections": sections.SECTIONS,
        "precisions": ("fp32",),
        "batch_size": 4,
        "seconds": 1.0,
        "rounds": 3,
        "device": CPU,
        "threads": 1,
        "peers": (NamedPeer("by hand", ByHand, "1.0"),),
        "images": 8,
        "workers": 0,
        "at_once": (1,),
    }
    return sections.BenchPlan(**{**asked, **changes})


def test_the_document_holds_every_section_as_plain_numbers():
    told = []
    document = sections.measured(plan(), told.append, Ticking())
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(document))
    assert document["schema"] == "fsam-bench/1"
    assert [len(document[section]) for section in sections.SECTIONS] == [1, 1, 1, 1, 1]
    assert told == [
        "minimiser alone, tiny",
        "whole step, tiny, fp32",
        "augmentation",
        "other implementations, tiny",
        "runs at once, tiny",
    ]
    (alone_,) = document["minimiser"]
    assert alone_["floor"]["kernel"] == "mul_"
    assert isinstance(alone_["floor"]["in_cache"], bool | None)
    sam = next(line for line in alone_["lines"] if line["label"] == "sam")
    assert sam["multiple"]["median"] == pytest.approx(0.8)
    assert sam["multiple"]["rounds"] == 3
    assert [line["agrees"] for line in document["peers"][0]["lines"]] == [True, True]
    assert document["runs"][0]["lines"][0]["over_one"]["median"] == 1.0
    assert document["environment"]["threads"] == 1
    assert document["environment"]["torch"] == torch.__version__
    assert document["settings"]["methods"]["sam"]["rho"] == 0.05
    assert document["settings"]["peers"] == {"by hand": "1.0"}
    assert document["left_out"] == ["compiled: switched off by a test"]
    assert document["failed"] == []
    assert (document["settings"]["images"], document["settings"]["classes"]) == ([3, 32, 32], 10)


def test_a_network_that_cannot_be_built_fails_its_own_races_only():
    models = {"broken": Broken(), "tiny": Tiny()}
    asked = ("minimiser", "step")
    both = plan(protocol=BenchProtocol(models, (SGD,)), step_methods=(SGD,), sections=asked)
    document = sections.measured(both, lambda _: None, Ticking())
    assert [[race["model"] for race in document[section]] for section in asked] == [["tiny"]] * 2
    assert document["failed"] == [
        "minimiser alone, broken: ValueError: no such layer",
        "whole step, broken, fp32: ValueError: no such layer",
    ]


def test_the_steps_that_are_not_timed_are_named():
    look = BenchMethod("look", "look_sam", LookSam(k=4))
    every = BenchMethod("every", "look_sam", LookSam(k=1))
    protocol = BenchProtocol({"tiny": Tiny()}, (look, every, SGD))
    asked = plan(protocol=protocol, step_methods=protocol.methods, sections=("step",))
    document = sections.measured(asked, lambda _: None, Ticking())
    told = "whole step, look: the 3 steps of 4 that do not climb"
    assert document["left_out"] == ["compiled: switched off by a test", told]


class Verbose(RuntimeError):
    """As a compiler's: a command, and hundreds of lines."""

    def __init__(self):
        super().__init__("C++ compile error\n\n" + "broken line\n" * 300)


def test_a_compiler_that_fails_costs_the_compiled_lines_only(monkeypatch):
    class Fails:
        def __init__(self, *_):
            pass

        def __call__(self, *_, **__):
            raise Verbose

    monkeypatch.setattr(step_, "CompiledClimb", Fails)
    monkeypatch.setattr(sections, "why_not_compiled", lambda *_: None)
    monkeypatch.setattr(sections, "reset_compiler", lambda: None)
    monkeypatch.setattr(sgd_, "as_one_loop_for_all", lambda function: function)
    asked = plan(sections=("minimiser", "peers"))
    document = sections.measured(asked, lambda _: None, Ticking())
    assert document["failed"] == document["left_out"] == []
    (alone_,), (beside,) = document["minimiser"], document["peers"]
    lines = [(line["label"], line["implementation"]) for line in alone_["lines"]]
    assert lines == [("sgd", "eager"), ("sgd", "compiled"), ("sam", "eager"), (ACCUMULATION, None)]
    assert [line["label"] for line in beside["lines"]] == ["fsam eager", "by hand"]
    assert [line["difference"] for line in beside["lines"]] == [None, pytest.approx(0, abs=1e-3)]
    for race, name in ((alone_, "sam compiled"), (beside, "fsam compiled")):
        (line,) = race["left_out"]
        assert line.startswith(f"{name}: Verbose: C++ compile error broken line broken")
        assert line.endswith("…")
        assert len(line) < 180
    assert [line for line in bench_table.notes(document) if "tiny, sam compiled: Verb" in line]


def test_what_fails_is_told_in_a_line_of_bearable_length(monkeypatch):
    def fails(*_, **__):
        raise Verbose

    monkeypatch.setattr(sections, "minimiser_alone", fails)
    monkeypatch.setattr(workers, "build", fails)
    document = sections.measured(plan(sections=("minimiser",)), lambda _: None, Ticking())
    (line,) = document["failed"]
    assert line.startswith("minimiser alone, tiny: Verbose: C++ compile error broken")
    assert len(line) < 200
    near, far = Pipe()
    near.send(SimpleNamespace(device=CPU))
    workers._live(far)
    assert near.recv() == workers.Failed(briefly(Verbose()))


def test_torchvision_has_as_many_workers_as_fsam_has_threads():
    asked = plan(sections=("augmentation",), workers=None)
    document = sections.measured(asked, lambda _: None, Ticking())
    assert document["augmentation"][0]["lines"][1]["workers"] == 1


def test_sections_that_were_not_asked_for_are_not_there():
    document = sections.measured(plan(sections=("step",)), lambda _: None, Ticking())
    assert set(sections.SECTIONS) & set(document) == {"step"}


def test_a_method_that_cannot_stand_alone_is_left_out_of_that_section_only():
    gsam = BenchMethod("mine", "gsam", Gsam())
    both = plan(
        protocol=BenchProtocol({"tiny": Tiny()}, (SGD, gsam)),
        step_methods=(SGD, gsam),
        sections=("minimiser", "step"),
    )
    document = sections.measured(both, lambda _: None, Ticking())
    labels = {s: [line["label"] for line in document[s][0]["lines"]] for s in both.sections}
    assert labels == {"minimiser": ["sgd", ACCUMULATION], "step": ["sgd", "mine"]}
    assert any("mine: its step combines" in line for line in document["left_out"])


def test_variants_that_earlier_races_compiled_count_against_none(monkeypatch):
    """torch gives up after so many variants of a function, and methods share theirs."""
    happened = []

    def race(section):
        def fails():
            happened.append(section)
            raise RuntimeError("no")

        return section, section, fails

    races = [race(section) for section in ("minimiser", "step", "augmentation", "peers")]
    monkeypatch.setattr(sections, "_races", lambda *_: iter(races))
    monkeypatch.setattr(sections, "reset_compiler", lambda: happened.append("afresh"))

    def order(missing, compile):
        happened.clear()
        monkeypatch.setattr(sections, "why_not_compiled", lambda *_: missing)
        asked = plan()
        asked = replace(asked, protocol=replace(asked.protocol, compile=compile))
        sections.measured(asked, lambda _: None, Ticking())
        return " ".join(happened)

    of_minimisers = "afresh minimiser step augmentation afresh peers"
    assert order(None, "none") == of_minimisers
    assert order(None, "all") == of_minimisers.replace("step", "afresh step")
    assert order("no compiler", "all") == "minimiser step augmentation peers"
