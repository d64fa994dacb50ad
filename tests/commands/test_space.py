"""What `fsam sweep --tune` searches: declared spaces and the user's ranges."""

from __future__ import annotations

import json

import pytest

from fsam_cli.commands._space import Space, spaces_of
from fsam_cli.errors import RecipeError, UsageError
from fsam_cli.minimisers._contract import LogRange
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.recipe.load import load_experiment
from tests.support.command import TINY, fsam

METHODS = "methods={sgd: {}, sam: {}, sam.big: {method: sam}, fsam: {}}"


def spaces(*given, only=("sgd", "sam", "sam.big", "fsam"), overrides=()):
    return spaces_of(load_experiment("quickstart", [METHODS, *overrides]), given, only)


def test_without_ranges_of_ones_own_the_declared_ones_are_searched():
    found = spaces()
    assert found["sam"] == Space(Sam.search)
    assert found["fsam"].ranges == FisherSam.search
    assert found["sam"].probes == []


def test_a_key_of_the_protocol_is_one_more_dimension_of_every_method():
    found = spaces("train.lr=0.02:0.5", "train.optimizer.weight_decay=1e-4:1e-2")
    for label, space in found.items():
        assert space.ranges["train.lr"] == LogRange(0.02, 0.5)
        assert space.ranges["train.optimizer.weight_decay"] == LogRange(1e-4, 1e-2)
        assert space.kept == {"train.lr", "train.optimizer.weight_decay"}, label
    assert list(found["sam"].ranges) == ["rho", "train.lr", "train.optimizer.weight_decay"]


def test_a_setting_is_of_each_method_that_has_it_or_of_the_one_that_is_named():
    every = spaces("rho=1:2")
    assert [label for label, space in every.items() if space.kept] == ["sam", "sam.big"]
    one = spaces("methods.sam.big.rho=1:2")
    assert [label for label, space in one.items() if space.kept] == ["sam.big"]
    assert one["sam.big"].ranges == {"rho": LogRange(1, 2)}
    recipe = "sweep={space: {methods.sam.rho: [1, 2]}}"
    assert spaces(only=("fsam",), overrides=[recipe]) == {"fsam": Space(FisherSam.search)}


@pytest.mark.parametrize("key", ["methods.sam.big.rho", "rho"])
def test_a_range_that_no_tuned_method_has_is_refused(key):
    with pytest.raises(UsageError) as raised:
        spaces(f"{key}=1:2", only=("sgd", "fsam"))
    assert f"the space of {key} changes nothing: no run of sgd, fsam depends on" in str(
        raised.value
    )


def test_a_range_that_is_given_twice_is_refused():
    with pytest.raises(UsageError, match="--space rho is given twice; write one range"):
        spaces("rho=0.1:0.2", "train.lr=0.1:0.2", "rho=0.2:0.3")


def test_the_command_line_replaces_what_the_recipe_says_of_the_same_key():
    recipe = "sweep={space: {train.lr: [0.1, 0.2], rho: [1, 2]}}"
    found = spaces("train.lr=0.3:0.4", overrides=[recipe])["sam"]
    assert found.ranges == {"rho": LogRange(1, 2), "train.lr": LogRange(0.3, 0.4)}


@pytest.mark.parametrize(
    "given", [("rho=1:2", "methods.sam.rho=3:4"), ("methods.sam.rho=3:4", "rho=1:2")]
)
def test_what_is_said_of_one_method_stands_whatever_is_said_of_all(given):
    found = spaces(*given)
    assert found["sam"].ranges == {"rho": LogRange(3, 4)}
    assert found["sam.big"].ranges == {"rho": LogRange(1, 2)}


def test_the_command_line_replaces_even_what_the_recipe_says_of_one_method():
    found = spaces("rho=1:2", overrides=["sweep={space: {methods.sam.rho: [3, 4]}}"])
    assert found["sam"].ranges == {"rho": LogRange(1, 2)}


def test_the_corners_and_the_middle_are_probed():
    found = Space({"rho": LogRange(0.01, 1)}, frozenset({"rho"}))
    assert found.probes == [{"rho": 0.01}, {"rho": 0.1}, {"rho": 1.0}]


NO_RANGES = ("rho", "rho=", "rho=1", "rho=1:2:3", "=1:2", "rho=2:1", "rho=1:1", "rho=0:1")


@pytest.mark.parametrize("entry", [*NO_RANGES, "rho=-1:1", "rho=a:b", "rho=1:inf", "rho=nan:1"])
def test_what_is_no_range_is_refused(entry):
    with pytest.raises(UsageError, match="write KEY=LOW:HIGH"):
        spaces(entry)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("roh=1:2", "no method has it; did you mean 'rho'?"),
        ("methods.sam.gamma=1:2", "no method has it"),
        ("methods.samm.rho=1:2", "no such method; there are sgd, sam, sam.big, fsam"),
    ],
)
def test_what_is_nobodys_setting_is_refused(entry, message):
    with pytest.raises(UsageError) as raised:
        spaces(entry)
    assert f"the space of {entry.partition('=')[0]}: " in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("sweep={}", "give a grid, or a space for --tune"),
        ("sweep={space: {rho: [2, 1]}}", "the space of rho goes from low to high: [1, 2]"),
        ("sweep={space: {rho: [0, 1]}}", "greater than 0"),
        ("sweep={space: {rho: [1]}}", "sweep.space.rho"),
    ],
)
def test_a_recipe_without_a_sound_space_is_refused(section, message):
    with pytest.raises(RecipeError) as raised:
        load_experiment("quickstart", [section])
    assert message in str(raised.value)


def test_a_space_alone_is_no_grid(tmp_path):
    done = fsam("sweep", "-r", "quickstart", "sweep={space: {rho: [1, 2]}}", cwd=tmp_path, check=2)
    assert "nothing to sweep" in done.stderr


def test_what_the_recipe_would_refuse_is_refused_before_a_trial(tmp_path):
    tune = ("sweep", "-r", "quickstart", *TINY, "--tune", "--space")
    done = fsam(*tune, "train.label_smoothing=0.1:5", cwd=tmp_path, check=2)
    assert "train.label_smoothing: 5.0 is refused" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_every_method_searches_the_learning_rate_too_and_never_outside_the_range(tmp_path):
    tune = ("sweep", "-r", "quickstart", *TINY, "train.epochs=1", "-q", "--tune", "--trials", "3")
    done = fsam(*tune, "--space", "train.lr=0.05:0.08", cwd=tmp_path)
    content = json.loads((tmp_path / "runs" / "quickstart" / "tuning.json").read_text())
    assert [method["method"] for method in content["methods"]] == ["sgd", "fsam"]
    for method in content["methods"]:
        rates = [point["train.lr"] for point in method["points"]]
        assert len(set(rates)) == 3
        assert all(0.05 <= rate <= 0.08 for rate in rates)
        assert method["space"]["train.lr"] == [0.05, 0.08]
        assert "train.lr" not in method["extended"]
    assert set(content["methods"][1]["space"]) == {"gamma", "eta", "train.lr"}
    assert "train.lr is each method's own" in " ".join(done.stdout.split())
