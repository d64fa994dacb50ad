"""The house itself: recipes, wheel, words."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

from fsam_cli.models._contract import trainable_parameters
from fsam_cli.recipe.load import load_experiment, shipped_recipes
from fsam_cli.recipe.plan import plan

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted(name for name in shipped_recipes() if not name.startswith("_"))
PAPER = re.compile("-(c10|c100|cars|flowers|imagenet)$")


def test_how_many_recipes_are_shipped():
    # The quickstart, Tables 1 to 4, Figures 4 and 5, Section 5.7, and four on digits.
    assert len(EXPERIMENTS) == 1 + 16 + 1 + 3 + 8 + 1 + 1 + 1 + 4


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_shipped_recipe_is_loaded_planned_and_built(name, vision_data):
    experiment = load_experiment(name)
    needs_files = experiment.recipe.data.name in ("flowers", "cars", "imagenet")
    starts = experiment.recipe.model.init_from is not None
    root = vision_data if needs_files or starts else None
    plans = plan(experiment, out=Path("runs"), device="cpu", data_dir=root)
    recipe = experiment.recipe
    assert len(plans) == len(recipe.methods) * len(recipe.seeds)
    assert recipe.description
    channels, height, _ = plans[0].input_shape
    with torch.device("meta"):
        model = plans[0].model.build(
            channels=channels, classes=plans[0].fingerprint.classes, image_size=height
        )
    assert trainable_parameters(model) > 10_000


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if PAPER.search(n)])
def test_every_paper_recipe_names_its_source_guesses_cost_and_state(name):
    header = shipped_recipes()[name].read_text().partition("\nextends:")[0].partition("\ndata:")[0]
    for word in ("# Paper ", "# Expected ", "# Cost ", "# Command ", "# Guesses ", "nobody has"):
        assert word in header.replace("Nobody", "nobody"), word
    assert f"--recipe {name} " in header


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if PAPER.search(n)])
def test_every_recipe_with_fisher_sam_has_its_control_at_the_same_radius(name):
    methods = load_experiment(name).methods
    if "figure5" in name:
        return  # a grid of Fisher SAM alone, as the paper's
    gamma = methods["fsam"].gamma
    assert any(getattr(method, "rho", None) == gamma for method in methods.values())
    if name == "section5.7-c10":
        return  # it compares the time of steps, which twice the epochs do not change
    factors = {label: m.epochs_factor for label, m in load_experiment(name).recipe.methods.items()}
    assert factors["sgd-1x"] == 1
    assert factors["sgd-2x"] == 2


def test_every_file_of_python_is_one_room_of_at_most_500_lines():
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.exists():
            assert len(path.read_text().splitlines()) <= 500, name
