"""Plans: identity, order, budgets and folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from fsam_cli.commands.train import sharded
from fsam_cli.errors import UsageError
from fsam_cli.recipe import yaml12
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan, resolve_device

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


def test_a_learning_rate_of_a_method_s_own_is_the_run_s_and_no_other_setting(plans):
    """The run is the one that an override of train.lr trains: same identity, same folder."""
    own = plans("methods.sam.lr=0.3")
    usual, other = plans(), plans("train.lr=0.3")
    assert [run.lr for run in own[:3]] == [0.1, 0.3, 0.1]
    assert own[1].folder == other[1].folder
    assert own[1].config == other[1].config
    assert own[1].folder != usual[1].folder
    assert [own[0].folder, own[2].folder] == [usual[0].folder, usual[2].folder]
    assert own[1].config["train"]["lr"] == 0.3
    assert {run.tuned for run in own} == {("train.lr",)}
    assert {run.tuned for run in usual} == {()}
    assert own[0].record()["planned"]["tuned"] == ["train.lr"]


def test_a_learning_rate_of_its_own_stays_with_a_method_that_is_named_anew(plans):
    assert plans("methods.sam.lr=0.3", "methods.sam=asam")[1].lr == 0.3
    assert plans("methods.sam.lr=0.3", "methods.sam.lr=null")[1].lr == 0.1


@pytest.mark.parametrize("lr", ["0", "-0.1", ".inf", "fast"])
def test_a_learning_rate_of_its_own_is_above_0(plans, lr):
    with pytest.raises(UsageError, match=r"methods\.sam\.lr: "):
        plans(f"methods.sam.lr={lr}")


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


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 10.5, 41])
@pytest.mark.parametrize("settings", ["{}", "{method: late_sam, start: 0.7}", "{method: sgd}"])
def test_no_other_number_of_epochs_comes_nearer_to_the_budget(plans, budget, settings):
    one = plans(f"train={{gradient_evaluations: {budget}}}", f"methods={{sam: {settings}}}")[0]
    away = [abs(one.method.passes(epochs, 10) - budget) for epochs in range(1, 50)]
    assert one.epochs == 1 + away.index(min(away))


def test_the_largest_budget_is_planned_in_no_time(plans):
    made = plans("train={gradient_evaluations: 100000}", "methods={sam: {}, late_sam: {}}")
    assert [p.epochs for p in made[:2]] == [50_000, 83_333]


def test_a_late_sam_that_would_never_climb_is_refused(plans):
    with pytest.raises(UsageError, match="never climbs in its 7 epochs"):
        plans("train.epochs=7", "methods={late: {method: late_sam, start: 7}}")


def test_whole_numbers_of_the_optimizer_are_no_other_identity(plans):
    cells = {
        plans(f"train.optimizer={{name: sgd, momentum: 0.9, weight_decay: {zero}}}")[0].cell
        for zero in ("0", "0.0")
    }
    assert len(cells) == 1


@pytest.mark.parametrize(
    ("plain", "spelt_out"),
    [
        ("{name: sgd}", "{name: SGD, momentum: 0, dampening: 0, weight_decay: 0.0}"),
        ("{name: sgd, momentum: 0.9}", "{name: sgd, momentum: 0.9, nesterov: false, dampening: 0}"),
        ("adam", "{name: adam, betas: [0.9, 0.999], amsgrad: false, weight_decay: 0}"),
        ("adamw", "{name: adamw, weight_decay: 0.01}"),
        ("adafactor", "{name: adafactor, eps: [null, 1e-3]}"),
        ("{name: adam, betas: [0.0, 0.9]}", "{name: adam, betas: [0, 0.9]}"),
    ],
)
def test_torch_s_defaults_written_or_left_out_are_one_identity(plans, plain, spelt_out):
    one, other = (plans(f"train.optimizer={given}")[0] for given in (plain, spelt_out))
    assert one.config["train"]["optimizer"] == other.config["train"]["optimizer"]
    assert one.cell == other.cell


@pytest.mark.parametrize(
    "other",
    [
        "{name: sgd, momentum: 0.9, nesterov: true}",
        "{name: sgd, momentum: 0.9, dampening: 0.1}",
        "{name: adam, betas: [0, 0.9]}",
        "{name: adam, amsgrad: true}",
    ],
)
def test_other_settings_of_the_optimiser_are_recorded(plans, other):
    recorded = plans(f"train.optimizer={other}")[0].config["train"]["optimizer"]
    assert recorded == yaml12.parse(other)


@pytest.mark.parametrize(
    "rate", ["=0", "=0.0", "={rate: 0}", "={rate: 0.0, flip: uniform}", ".rate=0"]
)
def test_label_noise_of_rate_0_is_none(plans, rate):
    clean, zero = plans("data.label_noise=null")[0], plans(f"data.label_noise{rate}")[0]
    assert zero.recipe.data.label_noise is None
    assert zero.cell == clean.cell
    assert clean.cell != plans("data.label_noise.rate=1e-3")[0].cell


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
    assert images == 1442 - 144  # of the digits, without the validation part
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


def test_shards_keep_the_runs_of_a_seed_together(plans):
    every = plans()  # three methods, two seeds
    halves = [sharded(every, f"{number}/2") for number in (1, 2)]
    assert [{each.seed for each in half} for half in halves] == [{0}, {1}]
    thirds = [sharded(every, f"{number}/3") for number in (1, 2, 3)]
    assert [[each.seed for each in third] for third in thirds] == [[0, 0], [0, 1], [1, 1]]
    assert [len(sharded(every, f"{number}/7")) for number in range(1, 8)] == [0, *[1] * 6]


def test_a_shard_is_in_the_order_of_the_plans(plans):
    every = sorted(plans(), key=lambda each: each.label)
    mine = sharded(every, "1/2")
    assert mine == [each for each in every if each in mine]
    assert sharded(every, "1/1") == every


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


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_where_there_is_one(monkeypatch, there, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert (resolve_device("auto"), resolve_device("cpu")) == (device, "cpu")


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


NETWORK = """
from torch import nn
from fsam_cli.contracts import Model

class Frozen(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)

class Net(Model):
    kind: str

    def build(self, *, channels, classes, image_size):
        if self.kind == "real":
            nn.Linear(1, 1).weight.tolist()  # which needs numbers
        norms = {"group": nn.Identity, "frozen": Frozen}
        norm = norms.get(self.kind, nn.BatchNorm2d)(channels)
        return nn.Sequential(norm, nn.Flatten(), nn.Linear(channels * image_size ** 2, classes))

PROVIDES = {"net": Net}
"""


def test_one_gradient_per_image_is_refused_of_a_network_that_turns_out_to_mix_them(plans, tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)

    def made(kind, *overrides, **settings):
        model = f"model={{name: net, kind: {kind}}}"
        return plans(f"plugins=[{tmp_path / 'net.py'}]", model, *overrides, **settings)

    empirical = "methods.fsam.fisher=empirical"
    with pytest.raises(UsageError) as caught:
        made("batch", empirical)
    assert (
        "mine.yaml: methods.fsam: the Fisher information 'empirical' needs one gradient per image, "
        "and '0' (BatchNorm2d) of the model net mixes the images of a batch; use a model without "
        "batch normalisation, or fsam with fisher: gradient_magnitude"
    ) in str(caught.value)
    assert "model.norm" not in str(caught.value)
    assert made("batch")
    assert made("batch", empirical, only=("sam",))
    assert made("group", empirical)
    assert made("frozen", empirical)  # its statistics stay as they are
    assert made("real", empirical)  # not to be told before it is trained


@pytest.mark.parametrize("architecture", ["resnet18", "vit_tiny_patch16_224"])
def test_timm_s_networks_are_asked_whether_they_mix_images(plans, architecture):
    pytest.importorskip("timm")
    given = (f"model={{name: timm, architecture: {architecture}}}", "data.resize=32")
    if architecture == "resnet18":
        with pytest.raises(UsageError, match=r"'bn1' \(BatchNorm2d\) of the model timm mixes"):
            plans(*given, "methods.fsam.fisher=model")
    else:
        assert plans(*given, "methods.fsam.fisher=model")


@pytest.mark.parametrize(("own", "precision"), [(True, "bf16"), (False, "fp32")])
def test_automatic_precision_is_bf16_on_a_gpu_that_does_not_emulate_it(
    plans, monkeypatch, own, precision
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation=True: own or including_emulation
    )
    assert {each.precision for each in plans("precision=auto", device="cuda")} == {precision}
    assert {each.precision for each in plans("precision=auto", device="cpu")} == {"fp32"}
