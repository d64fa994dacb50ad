"""Plans: identity, order, budgets and folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsam_cli.commands.train import sharded
from fsam_cli.errors import UsageError
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan

RECIPE = """
data: {name: digits, label_noise: {rate: 0.4}}
model: small_resnet
train: {epochs: 4}
methods:
  sgd: {epochs_factor: 2}
  sam: {rho: 0.1}
  fsam: {gamma: 0.1}
seeds: [0, 1]
"""


@pytest.fixture
def plans(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)

    def make(*overrides, **settings):
        settings.setdefault("device", "cpu")
        return plan(load_experiment(str(path), overrides), out=Path("runs"), **settings)

    return make


def test_runs_come_seed_by_seed_so_that_an_unfinished_table_is_paired(plans):
    assert [(p.seed, p.label) for p in plans()] == [
        (seed, label) for seed in (0, 1) for label in ("sgd", "sam", "fsam")
    ]


def test_seeds_share_a_cell_and_methods_do_not(plans):
    cells = {(p.label, p.cell) for p in plans()}
    assert len(cells) == 3
    assert len({cell for _, cell in cells}) == 3


def test_folders_name_recipe_label_seed_and_cell(plans):
    first = plans()[0]
    assert first.folder == Path("runs/mine/sgd") / f"seed0-{first.cell}"
    assert len(first.cell) == 8


@pytest.mark.parametrize(
    "override",
    [
        "train.lr=0.2",
        "train.epochs=5",
        "data.label_noise.rate=0.2",
        "data.validation=0.2",
        "model.norm=group",
        "threads=2",
        "channels_last=false",
        "precision=bf16",
        "train.optimizer.momentum=0.5",
    ],
)
def test_what_changes_numbers_changes_the_cell(plans, override):
    assert plans()[1].cell != plans(override)[1].cell


@pytest.mark.parametrize(
    "override", ["seeds=[0]", "device=cpu", "methods.other={method: sam}", "description=words"]
)
def test_what_changes_no_number_keeps_the_cell(plans, override):
    assert plans()[1].cell == plans(override)[1].cell


def test_a_method_spelt_out_with_its_defaults_is_the_same_cell(plans):
    assert plans()[1].cell == plans("methods.sam={method: sam, rho: 0.1}")[1].cell
    assert plans()[2].cell == plans("methods.fsam={gamma: 0.1, eta: 1.0}")[2].cell


def test_doubling_epochs_follows_an_override(plans):
    assert [p.epochs for p in plans("train.epochs=7")[:3]] == [14, 7, 7]


def test_a_budget_in_gradient_evaluations_buys_each_method_its_epochs(plans):
    made = plans(
        "train={gradient_evaluations: 12}",
        "methods.sgd={}",
        "model.norm=group",
        "methods.fsam.fisher=empirical",
    )
    assert [p.epochs for p in made[:3]] == [12, 6, 4]
    assert len({p.sample_gradients for p in made}) == 1


def test_a_budget_counts_the_plain_epochs_of_late_sam_once(plans):
    made = plans(
        "train={gradient_evaluations: 15, optimizer: {name: sgd, momentum: 0.9}}",
        "methods={late: {method: late_sam, start: 5}, msam: {}, sam: {}}",
    )
    assert [p.epochs for p in made[:3]] == [10, 15, 7]  # 5 + 2 * 5, 15, 2 * 7
    images = made[0].training_images
    assert [p.sample_gradients for p in made[:3]] == [15 * images, 15 * images, 14 * images]


def test_a_late_sam_that_would_never_climb_is_refused(plans):
    with pytest.raises(UsageError, match="never climbs in its 7 epochs"):
        plans("train.epochs=7", "methods={late: {method: late_sam, start: 7}}")


def test_whole_numbers_of_the_optimizer_are_no_other_identity(plans):
    cells = {
        plans(f"train.optimizer={{name: sgd, momentum: 0.9, weight_decay: {zero}}}")[0].cell
        for zero in ("0", "0.0")
    }
    assert len(cells) == 1


def test_settings_that_every_method_has_are_part_of_the_identity_only_where_they_are_given(plans):
    plain, natural = plans("methods={a: {method: sam}, b: {method: sam, natural_gradient: true}}")[
        :2
    ]
    assert set(plain.config["method"]) == {"name", "rho"}
    assert natural.config["method"]["natural_gradient"] == {
        "eta": 1.0,
        "inverse": "anti_regularised",
    }
    assert plain.cell != natural.cell


def test_sample_gradients_count_both_passes(plans):
    sgd, sam, _ = plans()[:3]
    images = sam.training_images
    assert images == 1437 - round(1437 * 0.1) or images > 0
    assert sgd.sample_gradients == 8 * images
    assert sam.sample_gradients == 4 * images * 2


def test_only_some_labels(plans):
    assert {p.label for p in plans(only=("sam",))} == {"sam"}
    with pytest.raises(UsageError, match="no method 'samm'"):
        plans(only=("samm",))


def test_shards_cover_everything_once(plans):
    every = plans()
    parts = [sharded(every, f"{i}/4") for i in range(1, 5)]
    assert sorted(str(p.folder) for part in parts for p in part) == sorted(
        str(p.folder) for p in every
    )


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "a/b", "1/0"])
def test_a_wrong_shard_is_a_usage_error(plans, shard):
    with pytest.raises(UsageError, match="--shard"):
        sharded(plans(), shard)


def test_cuda_without_a_card_is_a_usage_error(plans):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="no CUDA device"):
        plans(device="cuda")


@pytest.mark.parametrize("share", [0.9999, 0.0001])
def test_a_validation_part_that_leaves_nothing_is_refused(plans, share):
    with pytest.raises(UsageError, match="write another share, or 0 for none"):
        plans(f"data.validation={share}")


def test_a_label_asked_for_twice_is_planned_once(plans):
    labels = [each.label for each in plans(only=("sam", "sam"))]
    assert labels == ["sam", "sam"]


@pytest.mark.parametrize("override", ["data.normalise=half", "data.resize=16"])
def test_what_the_network_sees_of_the_images_is_part_of_the_identity(plans, override):
    assert plans()[1].cell != plans(override)[1].cell


def test_a_warm_up_of_all_epochs_is_refused(plans):
    with pytest.raises(UsageError, match=r"4 of the 4 epochs that methods\.sam trains"):
        plans("train.epochs=4", "train.warmup_epochs=4")
    plans("train.epochs=5", "train.warmup_epochs=4")
