"""docs/your-own-parts.md, executed: its files are written and its commands run as they stand."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsam_cli.datasets.image_folder import ENDINGS
from fsam_cli.recipe import yaml12
from fsam_cli.records.frame import load_runs
from tests.support.command import command

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "your-own-parts.md").read_text()
FILE = re.compile(r"^`(?P<name>[\w.]+)`:\n\n```(?:python|yaml)\n(?P<text>.*?)^```$", re.M | re.S)
FILES = {match["name"]: match["text"] for match in FILE.finditer(PAGE)}
COMMANDS = [
    block.strip().splitlines()
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.M | re.S)
]


def run(line: str, cwd: Path) -> str:
    """A command as the page prints it, in a process of its own; its standard output."""
    program, *arguments = shlex.split(line)
    assert program == "fsam"
    installed = shutil.which("fsam", path=str(Path(sys.executable).parent))
    done = subprocess.run(
        [installed, *arguments] if installed else command(*arguments),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "COLUMNS": "150", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    return done.stdout


def real_images() -> list[tuple[int, np.ndarray]]:
    """(class, 8x8 uint8) of 15 handwritten digits of each of 10 classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = [np.flatnonzero(digits.target == label)[:15] for label in range(10)]
    return [
        (int(digits.target[i]), (digits.images[i] * (255 / 16)).astype(np.uint8))
        for i in np.concatenate(chosen)
    ]


def write_images(folder: Path, pictures: list[tuple[int, np.ndarray]]) -> None:
    for number, (label, pixels) in enumerate(pictures):
        path = folder / f"digit-{label}" / f"a picture {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Empty, outside the repository, but for the page's files."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def columns(table: str) -> list[str]:
    """First cells of the table's lines."""
    return [line.split()[0] for line in table.splitlines() if line.strip()]


def test_the_page_has_its_files_and_the_minimiser_is_short():
    assert set(FILES) == {
        *("split.py", "sign_sam.py", "mine.yaml", "mlp.py", "arrays.py", "brightness.py"),
        "all_mine.yaml",
    }
    assert len(FILES["sign_sam.py"].splitlines()) <= 30
    assert [len(block) for block in COMMANDS] == [2, 2]


def test_every_picture_format_that_fsam_reads_is_named():
    named = re.findall(r"\w+", PAGE.partition("- Formats:")[2].partition("of at most")[0])
    assert {f".{word}" for word in named} >= set(ENDINGS)


def test_two_commands_lead_to_a_table_with_the_own_minimiser_on_own_images(folder):
    pictures = real_images()
    write_images(folder / "images" / "train", pictures[::2])
    write_images(folder / "images" / "test", pictures[1::2])
    train, report = COMMANDS[0]
    table = run(train, folder)
    methods = yaml12.parse(FILES["mine.yaml"])["methods"]
    assert {"sgd-1x", "sam", "asam", "fsam", "sign_sam"} <= set(methods)
    assert set(methods) <= set(columns(table))
    runs = load_runs(folder / "runs")
    assert len(runs) == 2 * len(methods)
    assert set(runs["status"]) == {"done"}
    mine = json.loads(next((folder / "runs").rglob("sign_sam/*/result.json")).read_text())
    assert mine["config"]["method"]["rho"] == 0.001
    assert "minus sign_sam" in run(report, folder)


def test_a_model_a_data_set_and_an_augmentation_of_ones_own(folder):
    labels, pixels = zip(*real_images(), strict=True)
    images = np.stack(pixels)[:, None]
    numbers = np.array(labels)
    np.savez(
        folder / "images.npz",
        train_images=images[::2],
        train_labels=numbers[::2],
        test_images=images[1::2],
        test_labels=numbers[1::2],
    )
    models, train = COMMANDS[1]
    line = next(line for line in run(models, folder).splitlines() if line.split()[:1] == ["mlp"])
    assert f"{3 * 32 * 32 * 64 + 64 + 64 * 10 + 10:,}" in line
    assert {"sgd", "sign_sam"} <= set(columns(run(train, folder)))
    sgd = next((folder / "runs").rglob("sgd/*/config.yaml")).parent
    assert sorted(path.name for path in (sgd / "plugins").iterdir()) == [
        *("arrays.py", "brightness.py", "mlp.py"),
    ]


def test_photos_sorted_by_class_are_divided_into_training_and_test(folder, monkeypatch):
    write_images(folder / "photos", real_images())
    monkeypatch.chdir(folder)
    runpy.run_path("split.py")
    counts = {
        part: len(list((folder / "images" / part).glob("digit-*/*.png")))
        for part in ("train", "test")
    }
    assert counts == {"train": 120, "test": 30}
