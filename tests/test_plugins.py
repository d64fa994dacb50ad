"""Parts of the user's own: identity, records, workers, rooms, errors."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from fsam_cli.errors import RecipeError
from fsam_cli.plugins import read_plugin
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.records.store import RunDirectory
from tests.crash.test_killed import wait_for
from tests.support.command import bits, fsam, start
from tests.support.plugins import EVERYTHING, MINIMISER, MODEL

SHORT = ("-r", "quickstart", "train.epochs=1", "seeds=[0]", "train.batch_size=256", "-q")
BOTH = "methods={sam: {rho: 0.1}, doubled: {rho: 0.05}}"
# Cells of the quickstart as a version without plugins names them: they must not change for lack of
# any.
QUICKSTART = {
    "sgd-1x": "95071f92",
    "sgd-2x": "c498047b",
    "sam-0.1": "77f68f4a",
    "sam-0.2": "eeeb0268",
    "asam-0.5": "7208a150",
    "asam-1.0": "ed0fa9c6",
    "fsam-0.1": "91848bae",
    "fsam-0.2": "0a7d5fea",
}


@pytest.fixture
def write(tmp_path):
    def writer(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return writer


def plans(*overrides, plugins=(), recipe="quickstart"):
    experiment = load_experiment(recipe, overrides, plugins)
    return plan(experiment, out=Path("runs"), device="cpu")


def cells(*overrides, **settings) -> dict[str, str]:
    return {each.label: each.cell for each in plans(*overrides, **settings)}


# --- identity


def test_the_cells_of_a_recipe_without_plugins_are_what_they_were():
    assert cells() == QUICKSTART


def test_a_plugin_that_no_run_uses_changes_no_cell(write):
    assert cells(plugins=[write(MINIMISER)]) == QUICKSTART


def test_a_minimiser_changes_the_cell_of_its_own_label_only(write):
    own = "methods.doubled={rho: 0.05}"
    before = cells(own, plugins=[write(MINIMISER)])
    assert {label: cell for label, cell in before.items() if label != "doubled"} == QUICKSTART
    after = cells(own, plugins=[write(MINIMISER + "# a comment\n")])
    assert {label for label in before if before[label] != after[label]} == {"doubled"}


def test_neither_name_nor_folder_of_the_file_is_part_of_the_identity(write):
    first = cells(BOTH, plugins=[write(MINIMISER)])
    second = cells(BOTH, plugins=[write(MINIMISER, "elsewhere/other.py")])
    assert first == second


@pytest.mark.parametrize(
    ("text", "override"),
    [
        (MODEL, "model=flat"),
        (EVERYTHING + 'PROVIDES = {"half": Half}', "data.name=half"),
        (EVERYTHING + 'PROVIDES = {"dark": Dark}', "data.augment=[dark]"),
    ],
    ids=["model", "data set", "augmentation"],
)
def test_a_part_that_all_methods_use_changes_every_cell_with_its_file(write, text, override):
    before = cells(override, plugins=[write(text)])
    after = cells(override, plugins=[write(text + "\n# a comment\n")])
    assert set(before) == set(QUICKSTART)
    assert all(before[label] != after[label] for label in before)


def test_the_recorded_identity_has_the_sha_256_of_the_file(write):
    path = write(MINIMISER)
    sha256 = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    made = {each.label: each for each in plans(BOTH, plugins=[path])}
    assert made["doubled"].config["method"]["plugin"] == sha256.stdout.split()[0]
    assert "plugin" not in json.dumps(made["sam"].record())


# --- where plugins are named


def test_a_recipe_names_plugins_relative_to_itself_and_from_home(write, tmp_path, monkeypatch):
    recipe = write("plugins: [parts/mine.py]\ndata: digits\nmodel: small_resnet\n", "x/r.yaml")
    rest = ("train={epochs: 1}", "methods={doubled: {}}")
    write(MINIMISER, "x/parts/mine.py")
    monkeypatch.chdir("/")
    assert load_experiment(str(recipe), rest).methods["doubled"].radius == 0.1
    monkeypatch.setenv("HOME", str(tmp_path / "x"))
    at_home = load_experiment(str(recipe), (*rest, "plugins=~/parts/mine.py"))
    assert at_home.methods["doubled"].radius == 0.1


def test_the_option_is_relative_to_the_working_directory(write, tmp_path):
    write(MINIMISER)
    said = fsam(
        "recipes", "validate", "quickstart", BOTH, "--plugin", "mine.py", cwd=tmp_path
    ).stdout
    assert "valid; 2 methods" in said


def test_a_file_named_in_recipe_and_option_is_one_plugin(write):
    path = write(MINIMISER)
    experiment = load_experiment("quickstart", [BOTH, f"plugins=[{path}]"], [path, path])
    assert len(experiment.plugins) == 1


def test_what_recipes_show_prints_is_a_recipe_that_finds_its_plugins(write, tmp_path):
    write(MINIMISER)
    shown = fsam("recipes", "show", "quickstart", BOTH, "--plugin", "mine.py", cwd=tmp_path)
    saved = write(shown.stdout, "deep/down/saved.yaml")
    plugin = [tmp_path / "mine.py"]
    assert cells(recipe=str(saved)) == cells(BOTH, plugins=plugin)


def test_a_plugin_of_which_nothing_is_used_is_named(write, tmp_path):
    write(MINIMISER)
    few = ("train.epochs=1", "seeds=[0]", "methods={sgd: {}}", "--dry-run")
    asked = ("train", "-r", "quickstart", *few, "--plugin", "mine.py")
    said = " ".join(fsam(*asked, cwd=tmp_path).stderr.split())
    assert "mine.py: no part of it is used; it provides the method 'doubled'" in said
    assert fsam(*asked, "-q", cwd=tmp_path).stderr == ""
    assert fsam(*asked, "methods.doubled={}", cwd=tmp_path).stderr == ""
    write(MINIMISER.replace('{"doubled"', '{"spare": Doubled, "doubled"'))
    assert fsam(*asked, "methods.doubled={}", cwd=tmp_path).stderr == ""


def test_models_lists_the_models_of_plugins_with_their_numbers(write, tmp_path):
    write(MODEL)
    broken = MODEL.replace("Flat", "Deep").replace("flat", "deep").replace("= 5", "")
    write(broken, "second.py")
    listed = fsam(
        *("models", "--plugin", "mine.py", "--plugin", "second.py"),
        *("--channels", "1", "--image-size", "8", "-f", "json"),
        cwd=tmp_path,
    )
    rows = {row["model"]: row for row in json.loads(listed.stdout)}
    assert rows["flat"]["parameters"] == 64 * 5 + 5 + 5 * 10 + 10
    assert rows["flat"]["multiply-adds"] == 64 * 5 + 5 * 10
    assert rows["deep"]["parameters"] is None
    assert rows["deep"]["note"] == "has no default for width"
    assert "small_resnet" in rows


# --- records


def test_runs_keep_copies_of_just_the_files_they_use(write, tmp_path):
    path = write(MINIMISER)
    fsam("train", *SHORT, BOTH, "--plugin", "mine.py", cwd=tmp_path)
    sam = next((tmp_path / "runs").rglob("sam/seed0-*"))
    doubled = next((tmp_path / "runs").rglob("doubled/seed0-*"))
    assert not (sam / "plugins").exists()
    assert [copy.name for copy in (doubled / "plugins").iterdir()] == ["mine.py"]
    assert (doubled / "plugins" / "mine.py").read_bytes() == path.read_bytes()
    for record in (
        yaml.safe_load((doubled / "config.yaml").read_text()),
        json.loads((doubled / "result.json").read_text()),
    ):
        assert [each["file"] for each in record["plugins"]] == ["mine.py"]
        assert record["plugins"][0]["sha256"] == record["config"]["method"]["plugin"]


def test_the_copy_is_there_before_the_training(write, tmp_path):
    fails = MODEL.replace("pixels =", "raise RuntimeError(Path(__file__).name); pixels =")
    write("from pathlib import Path\n" + fails)
    fsam("train", *SHORT, "model=flat", "--plugin", "mine.py", cwd=tmp_path, check=1)
    folder = next((tmp_path / "runs").rglob("sgd-1x/seed0-*"))
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"
    assert "mine.py" in (folder / "log.txt").read_text()  # the traceback names the user's file
    assert (folder / "plugins" / "mine.py").is_file()


def test_a_copy_that_was_changed_is_mended_and_that_of_a_finished_run_left(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.plan({"a": 1}, {"mine.py": b"one"})
    copy = directory.plugins / "mine.py"
    copy.write_bytes(b"two")
    directory.plan({"a": 1}, {"mine.py": b"one"})
    assert copy.read_bytes() == b"one"
    copy.write_bytes(b"two")
    directory.write_result({"status": "done"})
    directory.plan({"a": 1}, {"mine.py": b"one"})
    assert copy.read_bytes() == b"two"


def test_doubled_sam_trains_to_the_bits_of_sam_at_twice_the_radius(write, tmp_path):
    write(MINIMISER)
    fsam("train", *SHORT, BOTH, "--plugin", "mine.py", cwd=tmp_path)
    found = {name.split("/")[1]: run for name, run in bits(tmp_path / "runs").items()}
    assert found["sam"]["weights"] == found["doubled"]["weights"]


# --- workers


def test_a_plan_is_unpickled_by_a_process_that_knows_no_plugin(write, tmp_path):
    path = write(MINIMISER + MODEL + 'PROVIDES = {"doubled": Doubled, "flat": Flat}')
    made = plans(BOTH, "model=flat", plugins=[path])
    (tmp_path / "plans").write_bytes(pickle.dumps(made))
    assert answer(tmp_path, "[(p.method.radius, p.model.width) for p in plans[:2]]") == (
        "[(0.1, 5), (0.1, 5)]"
    )
    path.write_text(MINIMISER.replace("2 *", "3 *"))
    said = answer(tmp_path, "0")
    assert "UsageError" in said
    assert "mine.py was changed while the command ran" in said
    path.unlink()
    assert "mine.py any more: No such file" in answer(tmp_path, "0")


def test_a_plan_needs_no_file_that_only_other_methods_use(write, tmp_path):
    path = write(MINIMISER)
    made = {each.label: each for each in plans(BOTH, plugins=[path])}
    (tmp_path / "plans").write_bytes(pickle.dumps(made["sam"]))
    path.unlink()
    assert answer(tmp_path, "sorted(plans.recipe.methods)") == "['doubled', 'sam']"


def test_a_process_at_work_keeps_the_code_it_began_with(write, tmp_path):
    made = plans(BOTH, plugins=[write(MINIMISER)])
    (tmp_path / "plans").write_bytes(pickle.dumps(made))
    edited = "(open('mine.py', 'a').write('# edited'), pickle.load(open('plans', 'rb')))"
    assert answer(tmp_path, f"{edited}[1][1].method.radius") == "0.1"


def answer(folder: Path, expression: str) -> str:
    """What a fresh process prints for the pickled plans, or its error."""
    program = f"import pickle; plans = pickle.load(open('plans', 'rb')); print({expression})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    return (done.stdout + done.stderr).strip()


def test_two_jobs_killed_and_repeated_end_in_the_bits_of_one(write, tmp_path):
    write(MINIMISER + MODEL + 'PROVIDES = {"doubled": Doubled, "flat": Flat}')
    more = ("train.epochs=20", "seeds=[0, 1]", "model=flat", "methods={sgd: {}, doubled: {}}")
    asked = ("train", *SHORT, *more, "--plugin", "../mine.py", "--checkpoint-every", "0.02")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    fsam(*asked, "-j", "1", cwd=tmp_path / "one")
    process = start(*asked, "-j", "2", cwd=tmp_path / "two")
    assert wait_for(lambda: any((tmp_path / "two").rglob("checkpoint.pt")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert len(list((tmp_path / "two").rglob("result.json"))) < 4
    fsam(*asked, "-j", "2", cwd=tmp_path / "two")
    one, two = (bits(tmp_path / folder / "runs") for folder in ("one", "two"))
    assert len(one) == 4
    assert one == two


def test_a_file_that_changes_before_the_workers_load_it_ends_the_command(write, tmp_path):
    # It changes itself when it is imported, which is after it was hashed.
    write(MINIMISER + "open(__file__, 'a').write('# more\\n')\n")
    done = fsam(
        *("train", *SHORT, "methods={doubled: {}}", "seeds=[0, 1]"),
        *("--plugin", "mine.py", "-j", "2"),
        cwd=tmp_path,
        check=2,
    )
    assert "mine.py was changed while the command ran" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("result.json"))


def test_a_file_changed_between_two_commands_makes_new_runs_beside_the_old(write, tmp_path):
    asked = ("train", *SHORT, BOTH, "--plugin", "mine.py")
    for text in (MINIMISER, MINIMISER + "# changed\n"):
        write(text)
        table = fsam(*asked, cwd=tmp_path).stdout
    assert len(list(tmp_path.rglob("doubled/*/result.json"))) == 2
    assert len(list(tmp_path.rglob("sam/*/result.json"))) == 1
    note = "quickstart: digits"
    assert table.partition(note)[0].count(" doubled ") == 1  # the runs of this command
    report = " ".join(fsam("report", cwd=tmp_path).stdout.split())
    assert report.partition(note)[0].count("doubled [plugin=") == 2  # never pooled
    versions = re.findall(r"doubled \[plugin=(\w+)\] \(plugin (\w+)\)", report)
    assert len(versions) == 2
    assert all(one == other and len(one) == 12 for one, other in versions)


def test_a_sweep_and_its_tuning_take_plugins(write, tmp_path):
    write(MINIMISER)
    few = (*SHORT, "methods={doubled: {}}", "--plugin", "mine.py")
    swept = fsam("sweep", *few, "--grid", "methods.doubled.rho=0.05,0.1", cwd=tmp_path)
    assert "best by validation" in swept.stdout
    tuned = fsam("sweep", *few, "--tune", "--trials", "1", cwd=tmp_path)
    assert "doubled" in tuned.stdout


def test_an_edit_during_a_command_does_not_reach_its_later_plans(write):
    path = write(MINIMISER)
    first = load_experiment("quickstart", [BOTH], [path])
    path.write_text(MINIMISER.replace("2 *", "3 *"))
    later = load_experiment("quickstart", [BOTH], [path], known=first.plugins)
    assert later.methods["doubled"].radius == first.methods["doubled"].radius == 0.1
    assert load_experiment("quickstart", [BOTH], [path]).methods["doubled"].radius > 0.14


# --- rooms


def test_one_file_provides_parts_of_all_four_rooms(write, tmp_path):
    parts = '{"doubled": Doubled, "flat": Flat, "half": Half, "dark": Dark}'
    path = write(MINIMISER + MODEL + EVERYTHING + f"PROVIDES = {parts}")
    plugin = read_plugin(path, "--plugin")
    assert {room: list(found) for room, found in plugin.rooms.items()} == {
        "minimisers": ["doubled"],
        "models": ["flat"],
        "datasets": ["half"],
        "augment": ["dark"],
    }
    fsam(
        *("train", *SHORT, "data={name: half, augment: [{name: dark, by: 3}]}"),
        *("model={name: flat, width: 7}", "methods={sgd: {}, doubled: {}}", "--plugin", "mine.py"),
        cwd=tmp_path,
    )
    result = json.loads(next(tmp_path.rglob("sgd/*/result.json")).read_text())
    sha256 = plugin.sha256
    assert result["config"]["model"] == {"name": "flat", "width": 7, "plugin": sha256}
    assert result["config"]["augment"] == [{"name": "dark", "by": 3, "plugin": sha256}]
    assert result["config"]["data"]["plugin"] == sha256
    assert "plugin" not in result["config"]["method"]


def test_a_misspelt_name_is_answered_with_those_of_the_plugins(write):
    with pytest.raises(RecipeError, match="unknown method 'dubled'; did you mean 'doubled'"):
        load_experiment("quickstart", ["methods={dubled: {}}"], [write(MINIMISER)])


def test_settings_of_a_plugins_part_are_validated_like_any(write):
    with pytest.raises(RecipeError, match=r"methods.doubled.rhoo: unknown key; did you mean 'rho'"):
        load_experiment("quickstart", ["methods={doubled: {rhoo: 1}}"], [write(MINIMISER)])


def test_a_plugin_is_compiled_as_it_stands_without_our_future_imports(write):
    text = "def f(a: int): ...\nassert f.__annotations__ == {'a': int}\n" + MINIMISER
    assert read_plugin(write(text), "--plugin").rooms


def test_a_plugin_leaves_no_cache_beside_the_users_file(write, tmp_path):
    read_plugin(write(MINIMISER + "# fresh\n"), "--plugin")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


# --- perturb, and what never loads code


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs of a plugin's model by a plugin's minimiser; importing the model leaves a mark."""
    folder = tmp_path_factory.mktemp("trained")
    mark = "open('imported', 'w').close()\n"
    (folder / "net.py").write_text(MODEL + mark)
    (folder / "climb.py").write_text(MINIMISER + mark)
    few = (*SHORT, "methods={doubled: {}}", "--plugin", "climb.py")
    fsam("train", *few, "model=flat", "seeds=[0,1]", "--plugin", "net.py", cwd=folder)
    fsam("train", *few, "--out", "builtin", cwd=folder)
    (folder / "imported").unlink()
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


PERTURB = ("perturb", "--alpha", "0.5", "--device", "cpu", "-q")


def alone(*arguments, cwd, check):
    """In a process of its own, where no plugin is known yet."""
    process = start(*arguments, cwd=cwd)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == check, (stdout, stderr)
    return stdout, " ".join(stderr.split())


def test_reports_never_load_a_plugin_and_perturb_none_that_is_not_named(runs):
    alone("report", cwd=runs, check=0)
    alone("runs", "ls", cwd=runs, check=0)
    _, said = alone(*PERTURB, cwd=runs, check=1)
    first = next((runs / "runs").rglob("seed0-*/plugins/net.py")).relative_to(runs)
    assert said.count("no run could be measured: 2 runs: unmeasurable: its model 'flat' comes") == 1
    assert "comes from a plugin, and code is loaded only from files you name; give" in said
    assert said.endswith(f"give --plugin {first}")
    _, said = alone(*PERTURB, "runs", "builtin", cwd=runs, check=1)
    assert said.count("left out: 2 runs: unmeasurable: its model 'flat' comes from a plugin") == 1
    assert said.count("comes from a plugin") == 1
    little = ("--no-hessian", "--images", "64", "--within", "sam", "--device", "cpu", "-q")
    shown, _ = alone("sharpness", "runs", "builtin", *little, cwd=runs, check=1)
    told = " ".join(shown.split())
    for seed in (0, 1):
        why = f"quickstart/doubled seed {seed}: unmeasurable: its model 'flat' comes from a plugin"
        assert told.count(why) == 1
    assert told.count("comes from a plugin") == 2
    assert not (runs / "imported").exists()


def test_perturb_takes_the_file_or_the_copy_in_the_record(runs):
    table, _ = alone(*PERTURB, "--plugin", "net.py", cwd=runs, check=0)
    assert "doubled" in table
    for path in runs.rglob("perturbation.csv"):
        path.unlink()
    copy = next(runs.rglob("plugins/net.py"))
    again, _ = alone(*PERTURB, "--plugin", copy, cwd=runs, check=0)
    assert again == table


def test_perturb_refuses_another_version_by_both_hashes(runs):
    (runs / "net.py").write_text(MODEL + "# another\n")
    _, said = alone(*PERTURB, "--plugin", "net.py", cwd=runs, check=1)
    assert "net.py is another version (sha256 " in said
    assert "plugins/net.py" in said
    copy = next(runs.rglob("plugins/net.py"))
    alone(*PERTURB, "--plugin", "net.py", "--plugin", copy, cwd=runs, check=0)  # for its own runs
    copy.write_text(MODEL + "# tampered\n")
    _, said = alone(*PERTURB, "--plugin", copy, cwd=runs, check=1)
    assert "is another version" in said


def test_perturb_needs_no_file_for_a_method_of_a_plugin(runs):
    table, _ = alone(*PERTURB, "builtin", cwd=runs, check=0)
    assert "doubled" in table
    assert not (runs / "imported").exists()


def test_perturb_builds_the_network_of_weight_files_from_a_plugin(runs):
    weights = next(runs.rglob("runs/**/weights.pt"))
    shutil.copy(weights, runs / "mine.pt")
    (runs / "r.yaml").write_text(
        "plugins: [net.py]\ndata: digits\nmodel: flat\ntrain: {epochs: 1}\nmethods: {sgd: {}}\n"
    )
    table, _ = alone(*PERTURB, "mine.pt", "-r", "r.yaml", cwd=runs, check=0)
    assert "mine" in table
