"""`fsam sweep --tune --write-recipe`: the winners of a tuning as a recipe, to be trained again."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsam_cli.commands._print import say_written
from fsam_cli.commands.recipes import resolved
from fsam_cli.errors import UsageError
from fsam_cli.options import SweepRequest
from fsam_cli.recipe import yaml12
from fsam_cli.recipe.load import Experiment

_WIDTH = 100  # of a line of the header


def refuse_beforehand(path: Path, searched: Sequence[str]) -> None:
    """What would keep the recipe from being written, found before a trial and not after hours.

    Args:
        path: of the recipe.
        searched: the keys of the protocol that are searched for some method.

    Raises:
        UsageError: the file exists, its folder does not, or a key of the protocol is searched that
            a recipe cannot have for each method.
    """
    if path.exists() or path.is_symlink():
        raise UsageError(_exists(path))
    if not path.parent.is_dir():
        raise UsageError(f"--write-recipe {path}: no folder {path.parent}; create it")
    shared = [key for key in searched if key != "train.lr"]
    if shared:
        raise UsageError(
            f"--write-recipe: {', '.join(shared)} is searched for each method, and in a recipe it "
            "is one for all (only lr can be a method's own); leave --write-recipe out and take the "
            "winners from tuning.json, or do not search it"
        )


def write_recipe(
    path: Path,
    winners: Experiment,
    request: SweepRequest,
    *,
    labels: Sequence[str],
    without: Sequence[str],
    asked: str,
    chosen_by: str,
) -> None:
    """Write it, with a header that says where it comes from.

    Args:
        path: of the recipe; nothing is overwritten.
        winners: the recipe that was tuned, with the winners' settings and the seeds of the results.
        request: of the tuning.
        labels: of the methods that have a winner.
        without: of those that have none.
        asked: how many trials there were, and on which seeds.
        chosen_by: what they were compared by.

    Raises:
        UsageError: the file has come to exist, or cannot be written.
    """
    recipe = winners.recipe
    whole: dict[str, Any] = resolved(winners)
    for label in without:
        del whole["methods"][label]
    others = [label for label in whole["methods"] if label not in labels]
    whole.pop("sweep", None)  # it has been searched
    whose = ", ".join(labels) if others else "each method"
    lines = [
        ("Origin", f"fsam sweep --tune --recipe {request.recipe}: the winner of {whose}"),
        ("Trials", f"{asked}, {chosen_by}"),
        ("Record", str(request.out / recipe.name / "tuning.json")),
        (
            "Seeds",
            "below those of the winners' results, which chose nothing; more may join them. Seeds "
            "of trials have chosen the settings, and reports leave them out",
        ),
        *([("Kept", f"{', '.join(others)}: as they were, not tuned here")] if others else []),
        *([("Without", f"{', '.join(without)}: no winner")] if without else []),
        ("Command", _command(path, request)),
    ]
    text = "".join(_commented(*line) for line in lines) + yaml12.dump(whole)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(_exists(path)) from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    say_written([path])


def _exists(path: Path) -> str:
    return f"--write-recipe {path}: it exists, and nothing is overwritten; name another file"


def _command(path: Path, request: SweepRequest) -> str:
    """That trains it, with what the tuning's command line said of where and on what."""
    words = ["fsam", "train", "--recipe", str(path)]
    if request.out != Path("runs"):
        words += ["--out", str(request.out)]
    if request.data_dir is not None:
        words += ["--data-dir", str(request.data_dir)]
    if request.device is not None:
        words += ["--device", request.device]
    return shlex.join(words)


def _commented(word: str, text: str) -> str:
    """`# Word     text`, as the shipped recipes have it."""
    start, further = f"# {word:<11}", f"#{' ' * 12}"
    wrapped = textwrap.wrap(
        " ".join(text.split()),
        _WIDTH,
        initial_indent=start,
        subsequent_indent=further,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapped) + "\n"
