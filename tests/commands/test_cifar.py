"""A CIFAR recipe of the paper trained on small sets in CIFAR's real format."""

from __future__ import annotations

import json

import pytest

from tests.support.cifar_archive import write_cifar
from tests.support.command import fsam

# The recipe's own augmentation, AutoAugment and all, on a smaller network for a single epoch.
SHORT = (
    "data.checksum=none",
    "model=small_resnet",
    "train.epochs=1",
    "train.batch_size=64",
    "seeds=[0]",
    "methods={sgd: {}, fsam: {gamma: 0.1, eta: 1.0}}",
)


def train(*arguments, cwd, **more):
    return fsam("train", "--recipe", "resnet20-c10.yaml", *SHORT, *arguments, cwd=cwd, **more)


def results(folder):
    return [json.loads(file.read_text()) for file in (folder / "runs").rglob("result.json")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_cifar(tmp_path_factory.mktemp("data"), train=128, test=32)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train("--data-dir", data.root, "-f", "markdown", cwd=folder)


def test_a_recipe_of_the_paper_trains_on_an_archive_given_by_data_dir(trained):
    recorded = results(trained[0])
    assert sorted(result["run"]["label"] for result in recorded) == ["fsam", "sgd"]
    assert {result["status"] for result in recorded} == {"done"}
    augment = ["crop", "flip", "autoaugment", "cutout"]
    assert all([part["name"] for part in r["config"]["augment"]] == augment for r in recorded)
    spent = {result["run"]["label"]: result["sample_gradients"] for result in recorded}
    assert spent == {"sgd": 128, "fsam": 256}


def test_data_without_an_official_checksum_are_unverified_in_table_and_record(trained):
    folder, done = trained
    assert "resnet20-c10: unverified data" in done.stdout
    assert {result["data_verified"] for result in results(folder)} == {False}


def test_a_packed_archive_named_by_fsam_data_gives_the_same_numbers(data, trained, tmp_path):
    packed = write_cifar(tmp_path / "packed", train=128, test=32, packed=True)
    train("-q", cwd=tmp_path, FSAM_DATA=str(packed.root))

    def numbers(folder):
        return {r["run"]["label"]: (r["run"]["cell"], r["last"]) for r in results(folder)}

    assert numbers(tmp_path) == numbers(trained[0])


def test_data_dir_goes_before_fsam_data(data, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    assert nowhere in train("--dry-run", cwd=tmp_path, check=2, FSAM_DATA=nowhere).stderr
    train("--dry-run", "--data-dir", data.root, cwd=tmp_path, FSAM_DATA=nowhere)


@pytest.mark.parametrize("checksum", ["none", "official"])
@pytest.mark.parametrize("given", ["no place", "an empty place"])
def test_missing_data_are_one_message_and_nothing_is_written(tmp_path, checksum, given):
    place = tmp_path / "place"
    place.mkdir()
    where = ("--data-dir", place) if given == "an empty place" else ()
    done = train(f"data.checksum={checksum}", *where, "-j", "1", cwd=tmp_path, check=2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    message = " ".join(done.stderr.split())
    for way_out in ("data.root", "--data-dir", "FSAM_DATA", "--download"):
        assert message.count(way_out) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert list(place.iterdir()) == []


def test_a_dry_run_warns_of_missing_data(data, tmp_path):
    asked = ("data.checksum=official", "--dry-run", "-f", "json")
    done = train(*asked, "--data-dir", tmp_path, cwd=tmp_path)
    assert done.stderr.startswith("warning: no cifar-10-python.tar.gz and no ")
    assert len(json.loads(done.stdout)) == 2
    assert "no cifar-10" not in train(*asked, "--data-dir", data.root, cwd=tmp_path).stderr


def test_data_that_are_not_the_official_ones_are_refused_before_anything_is_written(data, tmp_path):
    arguments = ("data.checksum=official", "--data-dir", data.root)
    done = train(*arguments, cwd=tmp_path, check=2)
    assert data.md5["data_batch_1"] in done.stderr
    assert "data.checksum: none" in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []
