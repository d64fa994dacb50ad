"""What was trained, in a line: a table that is passed on should say it by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fsam_cli.records.summary import Cell, keys_apart


def protocol(cells: Sequence[Cell]) -> str:
    """What the cells of a recipe have in common; what they differ in stands in their rows' names,
    and of the methods `methods` tells."""
    readable = [cell for cell in cells if cell.config]
    if not readable:
        return ""
    every = [cell.settings for cell in readable]
    apart = keys_apart(every)

    def common(key: str) -> Any:
        return None if key in apart else every[0].get(key)

    augment, epochs = common("augment"), {each.get("train.epochs") for each in every}
    optimizer = {key: common(key) for each in every for key in each if key.startswith(_OPTIMIZER)}
    environments = [each for cell in readable for each in cell.runs["environment"] if each]
    words = [
        common("data.name"),
        _percent(common("label_noise.rate"), "label noise"),
        _percent(common("validation"), "held out for validation"),
        " + ".join(map(_name, augment if isinstance(augment, list) else ())),
        common("model.name"),
        "1 epoch" if epochs == {1} else f"{_or(epochs)} epochs",
        _batches(common("train.batch_size"), common("replicas")),
        _optimizer(optimizer),
        _with("lr", common("train.lr")) or _own_lr(readable),
        common("train.schedule"),
        common("precision"),
        *(_version(key, environments) for key in ("fsam", "torch")),
        _only([each.get("device_name") for each in environments]),
    ]
    return ", ".join(str(word) for word in words if word)


def methods(cells: Sequence[Cell]) -> str:
    """What each label is: `sam: sam-0.1 (rho 0.1), sam-0.2 (rho 0.2)`, what all labels of a method
    have in common told once, before the colon."""
    readable = [cell for cell in cells if cell.config]
    of_method: dict[str, dict[str, dict[str, Any]]] = {}  # settings by name of the cell
    for cell in readable:
        own = {
            key.removeprefix(_METHOD): value
            for key, value in cell.settings.items()
            if key.startswith(_METHOD)
        }
        if len({each.epochs for each in readable}) > 1:
            own["epochs"] = cell.epochs
        if "plugin" in own:
            own["plugin"] = str(own["plugin"])[:12]  # as in the name of a cell
        of_method.setdefault(str(own.pop("name", "?")), {}).setdefault(cell.name, own)
    return "; ".join(_of_method(name, labels) for name, labels in of_method.items())


def _of_method(name: str, labels: dict[str, dict[str, Any]]) -> str:
    apart = keys_apart(labels.values()) if len(labels) > 1 else []
    shared = _told({key: v for key, v in next(iter(labels.values())).items() if key not in apart})
    if list(labels) == [name]:
        return f"{name}{shared}"
    own = (
        f"{label}{_told({key: settings[key] for key in apart if key in settings})}"
        for label, settings in labels.items()
    )
    return f"{name}{shared}: {', '.join(own)}"


def _told(settings: dict[str, Any]) -> str:
    words = ", ".join(f"{key} {value}" for key, value in settings.items())
    return f" ({words})" if words else ""


_METHOD = "method."
_OPTIMIZER = "train.optimizer."


def _batches(size: Any, replicas: Any) -> str | None:
    shared = f" on {replicas} replicas" if replicas else ""
    return None if size is None else f"batch size {size}{shared}"


def _optimizer(settings: dict[str, Any]) -> str:
    name = settings.pop(f"{_OPTIMIZER}name", None) or ""
    told = [f"{key.removeprefix(_OPTIMIZER)} {value}" for key, value in settings.items() if value]
    return f"{name} ({', '.join(told)})" if name and told else name


def _own_lr(cells: Sequence[Cell]) -> str | None:
    """Where a row has several learning rates because its methods do; a note tells them."""
    return "each method's own lr" if any("train.lr" in cell.tuned for cell in cells) else None


def _percent(share: Any, of: str) -> str | None:
    return f"{100 * share:g} % {of}" if isinstance(share, float) and share else None


def _or(numbers: set[Any]) -> str:
    return " or ".join(map(str, sorted(filter(None, numbers))))


def _with(word: str, value: Any) -> str | None:
    return None if value is None else f"{word} {value}"


def _name(part: Any) -> str:
    return str(part.get("name") if isinstance(part, dict) else part)


def _version(package: str, environments: Sequence[dict[str, Any]]) -> str | None:
    return _with(package, _only([each.get(package) for each in environments]))


def _only(values: Sequence[Any]) -> Any:
    """Of all runs, if it is the same; else a note of its own names what there was."""
    return values[0] if len(set(map(str, values))) == 1 else None
