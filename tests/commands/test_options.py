"""What options that are misspelt, unknown or refused are answered."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from fsam_cli import options
from tests.support.command import fsam


def told(folder: Path, *arguments: str) -> str:
    """The whole of a refusal, without the box that Typer draws."""
    stderr = fsam(*arguments, cwd=folder, check=2).stderr
    return " ".join(stderr.translate(dict.fromkeys(map(ord, "│╭╮╰╯─"), " ")).split())


@pytest.mark.parametrize(
    ("option", "key"),
    [
        (("--epochs", "3"), "train.epochs=3"),
        (("--epochs=3",), "train.epochs=3"),
        (("--epochs",), "train.epochs=VALUE"),
        (("--lr", "-1"), "train.lr=-1"),
        (("--epochs", "--quiet"), "train.epochs=VALUE"),
        (("--train.batch-size", "64"), "train.batch_size=64"),
        (("--batch-size", "64"), "train.batch_size=64"),
        (("--seeds", "0:3"), "seeds=0:3"),
        (("--seed", "3"), "seeds=3"),
        (("--name", "mine"), "name=mine"),
        (("--model", "resnet20"), "model=resnet20"),
        (("--rho", "0.1"), "methods.LABEL.rho=0.1"),
        (("--methods.sam-0.1.rho=0.3",), "methods.sam-0.1.rho=0.3"),
        (("--architecture", "resnet18"), "model.architecture=resnet18"),
        (("--weight-decay", "1e-4"), "train.optimizer.weight_decay=1e-4"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_an_unknown_option_that_is_a_key_of_recipes_is_told_as_one(tmp_path, command, option, key):
    said = told(tmp_path, command, "-r", "quickstart", "--dry-run", *option)
    assert f"No such option: {option[0].partition('=')[0]}; keys of the recipe" in said
    assert said.endswith(f"given as KEY=VALUE: {key}")


@pytest.mark.parametrize(
    "command",
    [
        ("report", "--epochs", "3"),
        ("train", "-r", "quickstart", "--workers", "3"),
        ("train", "-r", "quickstart", "--trainer.lr", "3"),
    ],
    ids=["no overrides", "no key", "no section"],
)
def test_other_unknown_options_are_not(tmp_path, command):
    said = told(tmp_path, *command)
    assert f"No such option: {command[-2]}" in said
    assert "KEY=VALUE:" not in said


def test_an_option_of_a_similar_name_is_told_beside_a_key(tmp_path):
    said = told(tmp_path, "train", "-r", "quickstart", "--data", "there")
    assert "data=there" in said
    assert "--data-dir" in said.partition("data=there")[2]
    assert "Possible options" not in told(tmp_path, "train", "-r", "quickstart", "--lr", "1")


@pytest.mark.parametrize(
    "command",
    [
        ("report", "-f", "latx"),
        ("train", "-r", "quickstart", "--device", "gpu"),
        ("train", "-r", "quickstart", "-j", "two"),
        ("train", "-r", "quickstart", "--checkpoint-every=-1"),
        ("sweep", "-r", "quickstart", "--select", "tset"),
        ("models", "--classes", "1"),
        ("bench", "--threads", "1000"),
        ("bench", "--batch-size", "1"),
        ("bench", "--repeats", "2"),
        ("train", "-r", "quickstart", "-j", "0"),
        ("sweep", "-r", "quickstart", "--tune", "--trials", "0"),
        ("sweep", "-r", "quickstart", "--tune", "--tuning-seeds", "0"),
        ("perturb", "--draws", "0"),
        ("sharpness", "--draws", "0"),
        ("sharpness", "--m", "0"),
        ("models", "--channels", "0"),
    ],
    ids=lambda command: " ".join((command[0], *command[-2:])),
)
def test_a_refused_value_is_named_in_the_words_of_no_library(tmp_path, command):
    said = told(tmp_path, *command)
    assert "value error" not in said.lower()
    value = command[-1].rpartition("=")[2]
    assert value in said.partition("Invalid value for")[2]


def test_a_recipe_without_its_option_is_told_the_option(tmp_path):
    assert told(tmp_path, "sweep", "mine.yaml", "--tune").endswith(". Write --recipe mine.yaml.")
    for given in ((), ("train.epochs=3",), ("-f", "csv")):
        assert told(tmp_path, "train", *given).endswith("Missing option '--recipe' / '-r'.")


def test_labels_may_have_spaces_beside_their_commas_and_be_given_one_by_one(tmp_path):
    only = ("--only", "sgd-1x , sam-0.1", "--only", "sam-0.2")
    dry = fsam("train", "-r", "quickstart", *only, "--dry-run", "-f", "json", cwd=tmp_path)
    assert {row["method"] for row in json.loads(dry.stdout)} == {"sgd-1x", "sam-0.1", "sam-0.2"}


def test_data_lie_where_the_environment_says_unless_the_option_names_another_place(tmp_path):
    dry = ("train", "-r", "wrn28-10-c100", "--dry-run")
    home = {"HOME": str(tmp_path), "FSAM_DATA": "~/there"}
    assert f" in {tmp_path}/there;" in fsam(*dry, cwd=tmp_path, **home).stderr
    said = fsam(*dry, "--data-dir=~/here", cwd=tmp_path, **home).stderr
    assert f" in {tmp_path}/here;" in said


def test_a_folder_may_be_below_home_where_the_shell_leaves_that_to_the_command(tmp_path):
    home = {"HOME": str(tmp_path)}
    dry = ("train", "-r", "quickstart", "--dry-run", "-f", "json")
    rows = json.loads(fsam(*dry, "--out=~/there", cwd=tmp_path, **home).stdout)
    assert all(row["folder"].startswith(f"{tmp_path}/there/") for row in rows)
    refused = fsam("runs", "ls", "~/there", cwd=tmp_path, check=2, **home)
    assert f"{tmp_path}/there: no such folder" in refused.stderr


def test_every_path_that_can_be_given_may_be_below_home():
    requests = [kind for name, kind in vars(options).items() if name.endswith("Request")]
    assert len(requests) == 14
    for request in requests:
        for name, hint in get_type_hints(request, include_extras=True).items():
            kind, asked = hint.__origin__, hint.__metadata__[0]
            if Path in (kind, *get_args(kind), *chain(*map(get_args, get_args(kind)))):
                assert asked.callback is options.at_home, (request, name)


def test_the_form_of_arguments_is_told_once(tmp_path):
    for command, form in (("train", "KEY=VALUE"), ("report", "ROOTS"), ("perturb", "RUNS")):
        usage = fsam(command, "--help", cwd=tmp_path).stdout.splitlines()[1]
        assert usage.count(form) == 1
        assert "[[" not in usage


def test_no_torch_is_imported_to_refuse_an_option():
    code = (
        "import sys\n"
        "sys.argv = ['fsam', 'train', '--epochs', '3']\n"
        "from fsam_cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


LONG = "x" * 300  # no file system of today takes it
WITH_LONG_PATHS = [
    ("train", "-r", LONG),
    ("train", "-r", "quickstart", "--out", LONG),
    ("train", "-r", "quickstart", "--plugin", f"{LONG}.py"),
    ("sweep", "-r", "quickstart", "--tune", "--write-recipe", LONG),
    ("report", LONG),
    ("perturb", LONG),
    ("sharpness", LONG),
    ("runs", "show", LONG),
    ("recipes", "cp", "quickstart", LONG),
    ("recipes", "show", LONG),
]


@pytest.mark.parametrize("asked", WITH_LONG_PATHS, ids=[" ".join(a[:2]) for a in WITH_LONG_PATHS])
def test_a_path_too_long_for_a_file_is_one_message(asked, tmp_path):
    done = fsam(*asked, cwd=tmp_path, check=2)
    assert "File name too long" in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["name", "methods"])
def test_names_of_folders_have_at_most_a_hundred_characters(key, tmp_path):
    def override(name):
        return f"name={name}" if key == "name" else f"methods={{{name}: {{method: sam}}}}"

    fsam("recipes", "cp", "quickstart", "mine.yaml", cwd=tmp_path)
    dry = ("train", "-r", "mine.yaml", "--dry-run")
    fsam(*dry, override("x" * 100), cwd=tmp_path)
    done = fsam(*dry, override("x" * 101), cwd=tmp_path, check=2)
    assert f"{key}: '{'x' * 101}' names a folder; use at most 100 letters, digits" in done.stderr


def test_a_long_name_of_a_recipe_is_cut_for_the_folder_of_its_runs(tmp_path):
    fsam("recipes", "cp", "quickstart", f"{'x' * 150}.yaml", cwd=tmp_path)
    shown = fsam("recipes", "show", f"{'x' * 150}.yaml", cwd=tmp_path).stdout
    assert f"\nname: {'x' * 100}\n" in shown


def test_a_folder_that_may_not_be_entered_is_one_message(tmp_path, monkeypatch):
    def refused(*_roots):
        raise PermissionError(errno.EACCES, "Permission denied", "secret/runs")

    monkeypatch.setattr("fsam_cli.commands.report.load_runs", refused)
    done = fsam("report", cwd=tmp_path, check=2)
    assert done.stderr == "error: secret/runs: Permission denied; give another path\n"
