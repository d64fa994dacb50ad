"""What the README and the pages beside it show is run, or at least understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from torch import nn
from torch.nn import functional as F

from fsam_cli.app import app
from tests.support.recorded import record_cell

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """Every line of a shell block that begins with `fsam`, continued lines joined, once each."""
    lines = [
        line.partition(" # ")[0].removeprefix("srun ").strip()
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return list(dict.fromkeys(line for line in lines if line.startswith("fsam ")))


def test_there_are_commands_to_look_at():
    assert len(commands()) > 20


@pytest.mark.parametrize("line", commands())
def test_a_command_that_is_shown_is_one(line):
    """Its options are read as the command line would; nothing is carried out."""
    arguments = shlex.split(line.replace(" ls | show | cp | validate", " ls"))[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        context = typer.Context(command, info_name="fsam")
        command = command.get_command(context, arguments.pop(0))
        assert command is not None, line
    command.make_context("fsam", arguments)


def test_the_code_for_ones_own_loop_runs_as_it_stands():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    images, labels = torch.randn(6, 4), torch.randint(3, (6,))
    parts = [SimpleNamespace(images=images[a:b], labels=labels[a:b]) for a, b in ((0, 3), (3, 6))]
    names = {
        "torch": torch,
        "F": F,
        "model": model,
        "images": images,
        "labels": labels,
        "loader": [(images, labels)] * 3,
        "parts": parts,
        "steps": 10,
        "scaler": torch.amp.GradScaler("cpu"),
    }
    mine = [block for block in blocks("README.md", "python") if "closure" in block]
    assert len(mine) == 2
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for block in mine:
        exec(block.replace('"cuda"', '"cpu"'), names)  # the one thing that is not here
    after = list(model.parameters())
    assert all(not torch.equal(*each) for each in zip(before, after, strict=True))
    assert names["optimizer"].skipped_steps == 0


def test_the_code_for_ones_own_analysis_runs_as_it_stands(tmp_path, monkeypatch):
    record_cell(tmp_path / "runs", [0.5, 0.6, 0.7])
    monkeypatch.chdir(tmp_path)
    [block] = [block for block in blocks("README.md", "python") if "load_runs" in block]
    names: dict[str, object] = {}
    exec(block, names)
    assert len(names["runs"]) == 3
