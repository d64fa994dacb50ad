"""Runs that start from a file of weights: what is loaded, what is drawn, what is refused."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import yaml
from safetensors.torch import save_file

from fsam_cli.engine.initial_weights import load_initial
from fsam_cli.engine.run import execute, loaded
from fsam_cli.engine.state import build_model
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import DataError, Interrupted, UsageError
from fsam_cli.recipe.initial import initial_weights
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from tests.support.command import fsam

RECIPE = """
data: {name: digits, augment: [crop]}
model: {name: small_resnet, init_from: start.pt}
train: {epochs: 1, batch_size: 256, lr: 1e-30, diagnostics: off}
methods: {sgd: {}, sam: {}}
seeds: [0, 1]
"""


def small_resnet(classes=10, seed=99):
    torch.manual_seed(seed)
    model = load_experiment("quickstart").model.build(channels=1, classes=classes, image_size=8)
    for name, buffer in model.named_buffers():  # statistics that are not the initial ones
        if name.endswith("running_mean"):
            buffer.add_(0.5)
    return model.state_dict()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    torch.save(small_resnet(), tmp_path / "start.pt")
    return tmp_path


def planned(folder, *overrides, **more):
    experiment = load_experiment(str(folder / "mine.yaml"), overrides)
    return plan(experiment, out=folder / "runs", device="cpu", **more)


def begun(one):
    """The network as a run begins with it, and the names that stayed as drawn."""
    model = build_model(one, loaded(one))
    return model.state_dict(), load_initial(model, one.initial)


def test_every_method_and_seed_starts_from_the_file_statistics_included(folder):
    start = small_resnet()
    for one in planned(folder):
        state, drawn = begun(one)
        assert drawn == ()
        assert all(torch.equal(state[name], start[name]) for name in start)


def test_of_several_linear_layers_only_the_last_may_be_for_other_classes(tmp_path):
    def network(hidden, classes):
        return torch.nn.Sequential(torch.nn.Linear(4, hidden), torch.nn.Linear(hidden, classes))

    other, deeper = network(3, 5), network(6, 2)
    for file, saved in (("other.pt", other), ("deeper.pt", deeper)):
        torch.save(saved.state_dict(), tmp_path / file)
    mine = network(3, 2)
    drawn = load_initial(mine, initial_weights("other.pt", tmp_path, None))
    assert drawn == ("1.weight", "1.bias")
    assert torch.equal(mine[0].weight, other[0].weight)
    with pytest.raises(DataError, match=r"0\.weight of shape \(6, 4\) instead of \(3, 4\)"):
        load_initial(mine, initial_weights("deeper.pt", tmp_path, None))


def test_a_run_trains_from_the_file_and_says_so(folder):
    one = planned(folder)[0]
    assert execute(one, Hooks()).ended == "done"
    kept = torch.load(one.folder / "weights.pt", weights_only=True)["weights"]
    start = small_resnet()
    for name, weight in kept.items():
        if "running" not in name and "num_batches" not in name:
            # At this learning rate next to nothing moves.
            assert torch.allclose(weight, start[name], rtol=0, atol=1e-20), name
    assert (
        f"initial weights: those of {folder / 'start.pt'}\n" in (one.folder / "log.txt").read_text()
    )
    record = json.loads((one.folder / "result.json").read_text())
    assert record["init_from"] == str(folder / "start.pt")
    assert record["config"]["model"]["init_from"] == one.initial.digest


def test_a_classifier_for_other_classes_stays_as_the_seed_drew_it(folder):
    torch.save(small_resnet(classes=7), folder / "start.pt")
    first, _, second, _ = planned(folder)  # two methods, then the next seed
    drawn_first = build_model(first, loaded(first)).state_dict()
    (state, drawn), (other, _) = begun(first), begun(second)
    assert drawn == ("classifier.weight", "classifier.bias")
    assert torch.equal(state["classifier.weight"], drawn_first["classifier.weight"])
    assert not torch.equal(state["classifier.weight"], other["classifier.weight"])
    body = [name for name in state if not name.startswith("classifier")]
    assert all(torch.equal(state[name], small_resnet(classes=7)[name]) for name in body)


@pytest.mark.parametrize("key", ["weights", "model", "state_dict"])
def test_the_usual_keys_around_the_weights_are_seen_through(folder, key):
    torch.save({key: small_resnet(), "epoch": 3}, folder / "start.pt")
    state, drawn = begun(planned(folder)[0])
    assert drawn == ()
    assert torch.equal(state["stem.0.weight"], small_resnet()["stem.0.weight"])


def test_safetensors_are_read(folder):
    save_file(small_resnet(), folder / "start.safetensors")
    state, _ = begun(planned(folder, "model.init_from=start.safetensors")[0])
    assert torch.equal(state["stem.0.weight"], small_resnet()["stem.0.weight"])


def test_a_file_from_before_batches_were_counted_is_read(folder):
    start = {k: v for k, v in small_resnet().items() if not k.endswith("num_batches_tracked")}
    torch.save(start, folder / "start.pt")
    assert begun(planned(folder)[0])[1] == ()


def test_the_file_is_looked_for_beside_the_recipe_and_in_the_data_folder(folder):
    data = folder / "data"
    data.mkdir()
    (folder / "start.pt").rename(data / "start.pt")
    assert planned(folder, data_dir=data)[0].initial.path == data / "start.pt"
    torch.save(small_resnet(seed=1), folder / "start.pt")
    assert planned(folder, data_dir=data)[0].initial.path == folder / "start.pt"
    whole = planned(folder, f"model.init_from={data / 'start.pt'}")[0]
    assert whole.initial.path == data / "start.pt"


def test_the_content_is_part_of_what_a_run_is_and_its_place_is_not(folder):
    cell = planned(folder)[0].cell
    (folder / "start.pt").rename(folder / "moved.pt")
    assert planned(folder, "model.init_from=moved.pt")[0].cell == cell
    torch.save(small_resnet(seed=1), folder / "start.pt")
    assert planned(folder)[0].cell != cell
    for seen in ("data.resize=12", "data.normalise=half"):
        assert planned(folder, seen)[0].cell != planned(folder)[0].cell
    assert planned(folder, "model.init_from=null")[0].cell not in (cell, planned(folder)[0].cell)


def test_no_file_names_all_places_that_were_looked_at(folder):
    with pytest.raises(UsageError, match=rf"no file {folder}/gone.pt or {folder}/data/gone.pt"):
        planned(folder, "model.init_from=gone.pt", data_dir=folder / "data")


def tampered(**changes):
    return {**{k: v for k, v in small_resnet().items() if k not in changes}, **changes}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({k: v for k, v in small_resnet().items() if k != "stem.0.weight"}, "no stem.0.weight"),
        (tampered(**{"stem.0.weight": torch.zeros(2, 1, 3, 3)}), r"stem.0.weight of shape \(2, 1"),
        (tampered(extra=torch.zeros(1)), "extra, which the network has not"),
        ({}, "no stem.0.weight.* and .* more"),
        ({"weights": 3}, "holds no state dictionary"),
        ([1, 2], "holds no state dictionary"),
        (torch.nn.Linear(1, 1), "damaged, or holds more than weights"),
    ],
)
def test_what_is_not_of_the_network_is_refused_by_name(folder, content, words):
    torch.save(content, folder / "start.pt")
    with pytest.raises(DataError, match=words):
        begun(planned(folder)[0])


def test_a_damaged_file_is_refused_in_one_line(folder):
    whole = (folder / "start.pt").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        for name in ("start.pt", "start.safetensors"):
            (folder / name).write_bytes(content)
            with pytest.raises(DataError, match="is damaged") as caught:
                begun(planned(folder, f"model.init_from={name}")[0])
            assert "\n" not in str(caught.value)


def test_a_file_that_changes_after_the_plan_is_refused(folder):
    one = planned(folder)[0]
    torch.save(small_resnet(seed=1), folder / "start.pt")
    with pytest.raises(DataError, match="changed while the command ran"):
        begun(one)


def test_safetensors_without_the_package_name_the_way_to_install_it(folder, monkeypatch):
    save_file(small_resnet(), folder / "start.safetensors")
    one = planned(folder, "model.init_from=start.safetensors")[0]
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(DataError, match=r"pip install 'fsam-cli\[timm\]'"):
        begun(one)


def test_nothing_is_written_before_the_weights_are_known_to_fit(folder):
    torch.save({"other.weight": torch.zeros(1)}, folder / "start.pt")
    done = fsam("train", "--recipe", "mine.yaml", cwd=folder, check=2)
    assert "model.init_from: start.pt is not of this network" in done.stderr
    assert not (folder / "runs").exists()


def test_every_file_of_a_grid_is_looked_at_before_anything_is_written(folder):
    torch.save({"other.weight": torch.zeros(1)}, folder / "worse.pt")
    grid = ("--grid", "model.init_from=start.pt,worse.pt")
    done = fsam("sweep", "--recipe", "mine.yaml", "--only", "sgd", *grid, cwd=folder, check=2)
    assert "model.init_from: worse.pt is not of this network" in done.stderr
    assert not (folder / "runs").exists()


def test_a_recipe_shows_the_whole_path_of_weights_that_lie_beside_it(folder):
    shown = fsam("recipes", "show", "mine.yaml", cwd=folder).stdout
    assert yaml.safe_load(shown)["model"]["init_from"] == str(folder / "start.pt")
    shown = fsam("recipes", "show", "deit-b-imagenet", cwd=folder).stdout
    name = "deit_base_patch16_224-b5f2ef4d.pth"  # in the data folder, wherever that is
    assert yaml.safe_load(shown)["model"]["init_from"] == name


def test_a_fine_tuned_network_is_perturbed_as_it_was_trained(folder):
    """Resized, normalised by other numbers, begun from a file that is gone."""
    options = ("data.resize=12", "data.normalise=half", "train.lr=0.05", "seeds=0", "-q")
    fsam("train", "--recipe", "mine.yaml", *options, cwd=folder)
    (folder / "start.pt").unlink()
    done = fsam("perturb", "--alpha", "0.1,0.2", "--format", "json", "-q", cwd=folder)
    points = json.loads(done.stdout)["points"]
    controls = {point["label"]: point for point in points if point["alpha"] == 0}
    assert set(controls) == {"sgd", "sam"}
    for path in (folder / "runs").rglob("result.json"):
        result = json.loads(path.read_text())
        control = controls[result["run"]["label"]]
        assert control["accuracy_mean"] == result["last"]["test_accuracy"]
        assert control["loss_mean"] == pytest.approx(result["last"]["test_loss"], rel=1e-6)


def test_weights_to_start_from_are_measured_before_any_training(folder):
    """Without the file that the recipe names, and in the form that DeiT's have."""
    (folder / "start.pt").unlink()
    torch.save({"model": small_resnet()}, folder / "deit.pth")
    options = ("--recipe", "mine.yaml", "--alpha", "0.1,0.2", "--format", "json", "-q")
    done = fsam("perturb", "deit.pth", *options, cwd=folder)
    points = json.loads(done.stdout)["points"]
    assert [(point["label"], point["alpha"], point["n"]) for point in points] == [
        ("deit", 0, 1),
        ("deit", 0.1, 1),
        ("deit", 0.2, 1),
    ]


def test_a_checkpoint_of_an_unfinished_run_is_a_file_of_weights_too(folder):
    one = planned(folder)[0]
    with pytest.raises(Interrupted):
        execute(one, Hooks(should_stop=lambda: True))
    state, drawn = begun(planned(folder, f"model.init_from={one.folder / 'checkpoint.pt'}")[0])
    assert drawn == ()
    assert "stem.1.running_mean" in state
