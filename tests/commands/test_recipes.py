"""`fsam recipes`."""

from __future__ import annotations

import json

import yaml

from fsam_cli.recipe.load import shipped_recipes
from fsam_cli.recipe.schema import Recipe, Train
from tests.support.command import fsam


def test_ls_names_every_recipe_with_its_description(tmp_path):
    rows = json.loads(fsam("recipes", "ls", "-f", "json", cwd=tmp_path).stdout)
    names = [row["recipe"] for row in rows]
    assert "quickstart" in names
    assert "wrn28-10-c100" in names
    assert not any(name.startswith("_") for name in names)
    assert all(row["description"] for row in rows)


def test_show_prints_a_recipe_that_means_the_same(tmp_path):
    shown = fsam("recipes", "show", "quickstart", "train.epochs=7", cwd=tmp_path).stdout
    assert yaml.safe_load(shown)["train"]["epochs"] == 7
    (tmp_path / "again.yaml").write_text(shown)
    once = fsam(
        "train", "-r", "quickstart", "train.epochs=7", "--dry-run", "-f", "json", cwd=tmp_path
    ).stdout
    twice = fsam("train", "-r", "again.yaml", "--dry-run", "-f", "json", cwd=tmp_path).stdout
    assert json.loads(once) == json.loads(twice)


def test_show_fills_in_every_key_but_those_of_the_other_budget_of_a_grid_and_of_plugins(tmp_path):
    shown = yaml.safe_load(fsam("recipes", "show", "quickstart", cwd=tmp_path).stdout)
    assert shown.keys() == Recipe.model_fields.keys() - {"sweep", "plugins"}
    assert shown["train"].keys() == Train.model_fields.keys() - {"gradient_evaluations"}


def test_show_begins_with_the_comment_at_the_head_of_the_file(tmp_path):
    shown = fsam("recipes", "show", "wrn28-10-c100", cwd=tmp_path).stdout
    header = shipped_recipes()["wrn28-10-c100"].read_text().partition("extends:")[0]
    assert "# Guesses " in header
    assert shown.startswith(f"{header}name: wrn28-10-c100\n")
    (tmp_path / "bare.yaml").write_text("extends: quickstart # a remark\n# another\nseeds: [0]\n")
    assert fsam("recipes", "show", "bare.yaml", cwd=tmp_path).stdout.startswith("name: bare\n")


def test_show_quotes_what_would_be_read_as_a_number(tmp_path):
    words = ("description='1e5'", "methods={'1e-3': {method: sam}, '1e3': {method: sgd}}")
    shown = fsam("recipes", "show", "quickstart", *words, cwd=tmp_path).stdout
    (tmp_path / "again.yaml").write_text(shown)
    assert fsam("recipes", "show", "again.yaml", "name=quickstart", cwd=tmp_path).stdout == shown


def test_show_keeps_the_grid_and_finds_the_data_from_any_folder(tmp_path):
    shown = yaml.safe_load(fsam("recipes", "show", "figure5-digits", cwd=tmp_path).stdout)
    assert "methods.fsam.gamma" in shown["sweep"]["grid"]
    assert "sweep" not in yaml.safe_load(fsam("recipes", "show", "quickstart", cwd=tmp_path).stdout)
    (tmp_path / "there").mkdir()
    (tmp_path / "there/mine.yaml").write_text(
        "data: {name: image_folder, root: images, size: 8}\n"
        "model: small_resnet\ntrain: {epochs: 1}\nmethods: {sam: {}}\n"
    )
    shown = yaml.safe_load(fsam("recipes", "show", "there/mine.yaml", cwd=tmp_path).stdout)
    assert shown["data"]["root"] == str(tmp_path / "there/images")


def test_cp_never_overwrites_and_brings_what_is_extended(tmp_path):
    fsam("recipes", "cp", "resnet20-c10", cwd=tmp_path)
    assert (tmp_path / "resnet20-c10.yaml").exists()
    assert (tmp_path / "_table1-c10.yaml").exists()
    (tmp_path / "resnet20-c10.yaml").write_text("mine")
    for target in (".", "resnet20-c10.yaml"):
        done = fsam("recipes", "cp", "resnet20-c10", target, cwd=tmp_path, check=2)
        assert "resnet20-c10.yaml exists; nothing is overwritten" in done.stderr
    assert (tmp_path / "resnet20-c10.yaml").read_text() == "mine"


def test_cp_takes_a_folder_that_is_there_and_home(tmp_path):
    done = fsam("recipes", "cp", "quickstart", "there/", cwd=tmp_path, check=2)
    assert "no folder there/; create it, or give a file name for the copy" in done.stderr
    assert not (tmp_path / "there").exists()
    (tmp_path / "home").mkdir()
    fsam("recipes", "cp", "quickstart", "~", cwd=tmp_path, HOME=str(tmp_path / "home"))
    assert (tmp_path / "home/quickstart.yaml").exists()


def test_cp_leaves_a_part_that_is_there_as_it_is(tmp_path):
    (tmp_path / "_table1-c10.yaml").write_text("mine")
    copied = fsam("recipes", "cp", "resnet20-c10", "other.yaml", cwd=tmp_path).stdout.split()
    assert "other.yaml" in copied
    assert not any("_table1-c10" in name for name in copied)
    assert (tmp_path / "_table1-c10.yaml").read_text() == "mine"


def test_cp_brings_every_recipe_below_and_leaves_the_shipped_ones_where_they_are(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    for name, base in {"top": "middle.yaml", "middle": "low.yaml", "low": "quickstart"}.items():
        (tmp_path / "here" / f"{name}.yaml").write_text(f"extends: {base}\n")
    copied = fsam("recipes", "cp", "here/top.yaml", "there", cwd=tmp_path).stdout.split()
    assert copied == ["there/top.yaml", "there/middle.yaml", "there/low.yaml"]
    fsam("recipes", "validate", "there/top.yaml", cwd=tmp_path)


def test_cp_brings_the_plugins_of_a_recipe_in_place(tmp_path):
    (tmp_path / "here/parts").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "here/parts/mine.py").write_text("PROVIDES = {}  # never run here")
    (tmp_path / "here/mine.yaml").write_text("plugins: [parts/mine.py, ../elsewhere.py]\n")
    copied = fsam("recipes", "cp", "here/mine.yaml", "there", cwd=tmp_path).stdout.split()
    assert copied == ["there/mine.yaml", "there/parts/mine.py"]
    assert "never run" in (tmp_path / "there/parts/mine.py").read_text()
    (tmp_path / "here/broken.yaml").write_text("a: [")
    done = fsam("recipes", "cp", "here/broken.yaml", "there", cwd=tmp_path, check=2)
    assert "broken.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_cp_of_a_recipe_without_its_plugin_copies_nothing(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "mine.yaml").write_text("plugins: [gone.py]\n")
    done = fsam("recipes", "cp", "mine.yaml", "there", cwd=tmp_path, check=2)
    assert "cannot read gone.py: No such file or directory; nothing was copied" in done.stderr
    assert list((tmp_path / "there").iterdir()) == []


def test_validate_says_what_runs_and_exits_with_2_on_problems(tmp_path):
    done = fsam("recipes", "validate", "quickstart", "seeds=0:200", cwd=tmp_path)
    assert "8 methods x 200 seeds = 1,600 runs" in done.stdout
    bad = fsam("recipes", "validate", "quickstart", "train.epochz=1", cwd=tmp_path, check=2)
    assert "train.epochz: unknown key; did you mean 'epochs'?" in bad.stderr
    assert bad.stdout == ""


def test_a_single_seed_is_named_so_that_nobody_takes_it_for_their_number(tmp_path):
    arguments = ("recipes", "validate", "quickstart", "seeds=3", "methods={sam: {}}")
    assert "valid; 1 method x 1 seed (3) = 1 run\n" in fsam(*arguments, cwd=tmp_path).stdout
