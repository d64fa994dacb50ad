"""Methods that would train to a clean table of something else are refused beforehand."""

from __future__ import annotations

import textwrap
from dataclasses import replace

import pytest

from fsam_cli.errors import RecipeError
from fsam_cli.minimisers._check import broken_contract
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.friendly_sam import FriendlySam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.gsam import Gsam
from fsam_cli.minimisers.late_sam import LateSam
from fsam_cli.minimisers.look_sam import LookSam
from fsam_cli.minimisers.sam_matched import SamMatched
from fsam_cli.parts import catalogue
from fsam_cli.plugins import plugins_of_command, provided
from fsam_cli.recipe.load import load_experiment
from tests.support.command import fsam

OTHERS = {
    "asam all": Asam(scope="all", eta=0.0),
    "empirical": FisherSam(fisher="empirical"),
    "model, all": FisherSam(fisher="model", labels="all", inverse="damped"),
    "eta 1e6": FisherSam(eta=1e6),
    "damped 1e-8": FisherSam(eta=1e-8, inverse="damped"),
    "matched, model": SamMatched(fisher="model"),
    "natural": SamMatched(natural_gradient=True, m_sharpness=4),
    "far": Gsam(alpha=10.0, rho=1e3, rho_min=0.0),
    "slow": FriendlySam(decay=0.999999999, sigma=0.0),
    "late": LateSam(start=3),
    "look": LookSam(k=2, alpha=10.0),
}


@pytest.mark.parametrize("name", catalogue("minimisers"))
def test_every_method_keeps_the_contract(name):
    assert broken_contract(catalogue("minimisers")[name](), "x") is None


@pytest.mark.parametrize("name", OTHERS)
def test_and_does_with_other_settings(name):
    assert broken_contract(OTHERS[name], "x") is None


CLASS = """
import torch
from typing import ClassVar
from fsam_cli.contracts import Minimiser
from fsam_cli.minimisers.asam import Asam

calls = []

class Mine(Minimiser):
    rho: float = 0.05

    @property
    def radius(self):
        return self.rho

    def direction(self, at):
        return at.g

{body}

PROVIDES = {{"mine": Mine}}
"""
ELEMENTWISE = "compute elementwise, and leave sums over all weights to `sums` and `length`"


@pytest.fixture
def mine(tmp_path):
    def writer(body):
        path = tmp_path / "mine.py"
        text = CLASS.format(body=textwrap.indent(body, "    "))
        path.write_text(f"{text}# {path}\n")  # what was loaded from another place is not again
        return path

    return writer


def refusal(path) -> str:
    with pytest.raises(RecipeError) as caught:
        load_experiment("quickstart", ["methods={mine: {}}"], [path])
    (problem,) = caught.value.problems
    assert problem.key == "methods.mine"
    head = f"Mine of {path}: "
    assert problem.what.startswith(head)
    return str(replace(problem, key="", what=problem.what.removeprefix(head)))


def looks(remember: str, between: str) -> str:
    """A method like LookSAM."""
    return (
        "remembers: ClassVar[bool] = True\ncombines: ClassVar[bool] = True\n"
        f"{period('3')}"
        f"def remember_both(self, m, g1, g2, sums):\n    {remember}\n"
        f"def between(self, g, m, sums):\n    return {between}\n"
    )


def period(value: str) -> str:
    return f"@property\ndef period(self):\n    return {value}\n"


def direction(value: str) -> str:
    return f"def direction(self, at):\n    return {value}\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (direction("-at.g"), "its length is 0 for any gradient, so no weight would climb; let"),
        (direction("at.g / at.g.norm()"), f"chunk's two parts, and {{}}; {ELEMENTWISE}"),
        (direction("at.g - at.g.mean()"), ELEMENTWISE),
        (direction("at.g.flip(0)"), ELEMENTWISE),
        (
            direction("at.g.mul_(2)"),
            "its direction writes over at.g; leave what is handed over as it is: at.g * 2 instead "
            "of at.g.mul_(2)",
        ),
        (direction("at.w.add_(1) * 0 + at.g"), "its direction writes over at.w; leave"),
        (direction("at.g[:5]"), "its direction is of shape (5,) where the gradient is of shape"),
        (direction("3"), "its direction is int where the gradient"),
        (direction("at.g / at.g.abs()"), "its direction is not finite, where weight and gradient"),
        (direction("torch.randn_like(at.g)"), "another one when it is asked again; compute it"),
        (
            direction("calls.append(0) or at.g * len(calls)"),
            "another one when it is asked again; compute it from what is handed over: a method "
            "has no state but its memory, and no random numbers of its own",
        ),
        (direction("at.f * at.g"), "(mine.py, line 20, in direction); fix the file"),
        (direction("torch.sgin(at.g)"), "AttributeError: module 'torch' has no attribute 'sgin'"),
        (
            "def sums(self, at):\n    return (at.g.norm(),)",
            "its length depends on where chunks end, over all of which fsam adds its sums up; let "
            "`sums` give sums of elementwise terms, and `length` take the roots",
        ),
        ("def sums(self, at):\n    return at.g.sum()", "its sums is not a tuple of 0-dim tensors"),
        ("def sums(self, at):\n    return (at.g,)", "its sums is not a tuple of 0-dim tensors"),
        ("def sums(self, at):\n    return ()", "its sums are empty; give one scalar"),
        ("def sums(self, at):\n    return (at.g.mul_(2).sum(),)", "its sums writes over at.g"),
        (
            "def sums(self, at):\n    return ((at.g / at.w).sum(),)",
            "its sums are not finite, where weight and gradient are 0 for instance",
        ),
        ("def length(self, sums):\n    return self.rho", "its length is not a 0-dim tensor; give"),
        ("def length(self, sums):\n    return sums[0] * 0", "its length is 0 for any gradient"),
        ("def length(self, sums):\n    return sums[0].log() * 0 / 0", "its length is nan for any"),
        (
            "def w_plus_direction(self, at, factor, out):\n    return at.w + at.g",
            "its w_plus_direction is not w plus the factor times its direction; leave it out",
        ),
        (
            "def remember(self, m, g):\n    m.copy_(g)",
            "its `remember` is never called, since remembers is False; write remembers: ClassVar",
        ),
        ("def descent(self, g1, g2, sums):\n    return g2", "since combines is False; write"),
        (
            "remembers: ClassVar[bool] = True\ndef remember(self, m, g):\n    m = 0.9 * m + g",
            "its `remember` leaves the memory at zero; write to m in place: m.lerp_(g, 0.1)",
        ),
        (
            "remembers: ClassVar[bool] = True\ndef remember(self, m, g):\n    m.add_(g / g.norm())",
            "its memory of a chunk is not that of the chunk's two parts",
        ),
        (
            "remembers: ClassVar[bool] = True\ndef remember(self, m, g):\n    m.add_(g.mul_(2))",
            "its `remember` writes over the gradient; write to m alone",
        ),
        (
            "remembers: ClassVar[bool] = True\ndef remember(self, m, g):\n    m.copy_(1 / g)",
            "its memory is not finite; some weights have no gradient",
        ),
        (
            "combines: ClassVar[bool] = True\n"
            "def descent(self, g1, g2, sums):\n    return g2 - g1 * g2.norm()",
            "its descent of a chunk is not that of the chunk's two parts; compute elementwise, "
            "and leave sums over all weights to `descent_sums`",
        ),
        (
            "combines: ClassVar[bool] = True\n"
            "def descent_sums(self, g1, g2):\n    return (g1.norm(),)\n"
            "def descent(self, g1, g2, sums):\n    return g2 / sums[0]",
            "its descent depends on where chunks end, over all of which fsam adds its "
            "descent_sums up; let `descent_sums` give sums of elementwise terms, and `descent`",
        ),
        (
            "combines: ClassVar[bool] = True\ndef descent_sums(self, g1, g2):\n    return g1.sum()",
            "its descent_sums is not a tuple of 0-dim tensors",
        ),
        (
            "combines: ClassVar[bool] = True\n"
            "def descent(self, g1, g2, sums):\n    return g1.add_(g2)",
            "its `descent` writes over g1; work on a copy",
        ),
        (
            "combines: ClassVar[bool] = True\ndef descent(self, g1, g2, sums):\n    return g2 / g1",
            "its descent is not finite",
        ),
        ("def between(self, g, m, sums):\n    return g", "since remembers is False; write"),
        (
            "remembers: ClassVar[bool] = True\ndef remember_both(self, m, g1, g2, sums):\n    pass",
            "its `remember_both` is never called, since combines is False",
        ),
        (period("0"), "its period is 0; give a whole number of steps, from 1, which is every step"),
        (period("2.5"), "its period is 2.5; give a whole number"),
        (period("len(calls) == 0"), "its period is True; give a whole number"),
        (
            "remembers: ClassVar[bool] = True\ncombines: ClassVar[bool] = True\n"
            "def remember_both(self, m, g1, g2, sums):\n    m.copy_(g2)\n"
            "def between(self, g, m, sums):\n    return g + m",
            "its `between` is never called, since every step climbs; define `period`",
        ),
        (looks("m.copy_(g1.mul_(2))", "g"), "its `remember_both` writes over the gradient"),
        (looks("m.copy_(g2 / g2.norm())", "g"), "its memory of a chunk is not that of the chunk's"),
        (looks("pass", "g"), "its `remember_both` leaves the memory at zero"),
        (looks("m.copy_(g2)", "g + m.mul_(2)"), "its `between` writes over the memory; work on a"),
        (looks("m.copy_(g2)", "g + m / m.norm()"), "its between of a chunk is not that of the"),
        (looks("m.copy_(g2)", "g / m"), "its between is not finite; some weights have no gradient"),
        (looks("m.copy_(g2)", "g.mul_(2)"), "its `between` writes over g; work on a copy"),
        (
            "combines: ClassVar[bool] = True\n"
            "def descent(self, g1, g2, sums):\n    return (g1 * g2).sum()",
            "its descent is of shape () where the gradient is of shape (257,); give a tensor",
        ),
    ],
)
def test_a_method_that_would_train_to_something_else_is_refused(mine, body, expected):
    told = refusal(mine(body))
    for part in expected.split("{}"):
        assert part in told


@pytest.mark.parametrize(
    "body",
    [
        direction("at.w"),  # uphill for half of the gradients
        direction("torch.abs(at.g, out=at.scratch).mul_(at.g)"),
        direction("at.g.sign()"),
        direction("at.g.double()"),
        "def perturbs(self, kind):\n    return kind == 'bias'",
        "climbs: ClassVar[bool] = False\n" + direction("at.g.norm()"),
        "combines: ClassVar[bool] = True\n"
        "def descent(self, g1, g2, sums):\n    return g2.add_(g1)",  # on the place it goes to
        # Not known here; the training tells.
        direction("torch.tensor([1.0, 2.0]) + at.g"),
        "def perturbs(self, kind):\n    raise ValueError('only on a GPU')",
    ],
)
def test_what_a_method_is_free_to_do_is_not_refused(mine, body):
    load_experiment("quickstart", ["methods={mine: {}}"], [mine(body)])


def test_the_settings_of_the_recipe_are_tried_each(mine):
    path = mine(direction("at.g * (1 - self.rho)"))
    methods = ["methods={sgd: {}, a: {method: mine, rho: 0.1}, b: {method: mine, rho: 3.0}}"]
    with pytest.raises(RecipeError, match=r"1 problem\n  methods\.b: Mine of .*its length is 0"):
        load_experiment("quickstart", methods, [path])


@pytest.mark.parametrize(
    "command",
    [
        ("recipes", "validate", "quickstart", "methods={mine: {}}"),
        ("train", "-r", "quickstart", "methods={mine: {}}"),
        ("train", "-r", "quickstart", "methods={mine: {}}", "--dry-run"),
        ("sweep", "-r", "quickstart", "methods={mine: {}}", "--grid", "train.lr=0.1,0.2"),
        ("bench", "--methods", "sgd,mine", "--models", "resnet20"),
        ("sharpness", "--within", "mine"),
    ],
    ids=" ".join,
)
def test_every_command_refuses_it_before_anything_is_done(mine, tmp_path, command):
    path = mine(direction("-at.g"))
    done = fsam(*command, "--plugin", "mine.py", cwd=tmp_path, check=2)
    assert f"Mine of {path}: its length is 0 for any gradient" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["mine.py"]


def test_a_method_that_no_run_uses_is_not_tried(mine):
    path = mine(direction("-at.g"))
    load_experiment("quickstart", (), [path])
    assert provided(plugins_of_command([path]), "minimisers").keys() == {"mine"}
