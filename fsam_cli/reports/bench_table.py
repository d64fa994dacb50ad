"""The document of `fsam bench` as tables; rounded here, and nowhere before.

A document (schema fsam-bench/1, docs/performance.md) has `environment`, `settings`, a list for each
section that was measured, and `left_out`. A spread in it is `{median, low, high, rounds}`, low and
high being the quartiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fsam_cli.errors import counted
from fsam_cli.reports.text_table import TextTable, bullets, titled_markdown

Document = Mapping[str, Any]
Spread = Mapping[str, Any]

SECTIONS = ("minimiser", "step", "augmentation", "peers", "runs")
BUSY = 0.05  # share of the processors used by others from which a race is called disturbed


def tables(document: Document) -> list[TextTable]:
    """One for every race, in the order they were run."""
    found = [_minimiser(race) for race in document.get("minimiser", ())]
    found += [_step(race) for race in document.get("step", ())]
    found += [_augmentation(race, document) for race in document.get("augmentation", ())]
    found += [_peers(race) for race in document.get("peers", ())]
    found += [_runs(race) for race in document.get("runs", ()) if race["lines"]]
    return found


def markdown(document: Document) -> str:
    """All tables and notes as a page."""
    pieces = ["# fsam bench", machine(document)]
    for table in tables(document):
        pieces += titled_markdown(table)
    return "\n\n".join([*pieces, bullets(notes(document))]) + "\n"


def long_rows(document: Document) -> list[dict[str, Any]]:
    """A row for every number, unrounded: what CSV holds."""
    rows = []
    for section, race in _races(document):
        rows += _floor_row(section, race)
        for line in race["lines"]:
            what = {
                "section": section,
                "model": race.get("model", ""),
                "variant": _variant(race, line),
                "batch_size": race.get("batch_size", ""),
                "label": line.get("label") or race["method"],
            }
            rows += [{**what, **number} for number in _numbers(line)]
    return rows


def _races(document: Document) -> list[tuple[str, Mapping[str, Any]]]:
    """Every race with its section."""
    return [(section, race) for section in SECTIONS for race in document.get(section, ())]


def _floor_row(section: str, race: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The bandwidth that `multiple` is of, where the race has one."""
    if "floor" not in race:
        return []
    what = {"section": section, "model": race["model"], "variant": "floor", "batch_size": ""}
    floor = race["floor"]
    return [{**what, "label": floor["kernel"], "quantity": "bandwidth", **floor["bandwidth"]}]


def _variant(race: Mapping[str, Any], line: Mapping[str, Any]) -> str:
    if "at_once" in line:
        return runs_and_threads(line)
    how = line.get("implementation") or race.get("precision", "")
    return f"{how}, graph" if line.get("launched") == "graph" else how


def runs_and_threads(line: Mapping[str, Any]) -> str:
    """A setting of the runs at once in words."""
    runs, threads = line["at_once"], line["threads"]
    each = " each" if runs > 1 else ""
    return f"{counted(runs, 'run')}, {counted(threads, 'thread')}{each}"


def _numbers(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Spreads with their quartiles, and the numbers that have none."""
    there = {key: value for key, value in line.items() if isinstance(value, Mapping)}
    spreads = {key: value for key, value in there.items() if "median" in value}
    spreads |= {f"over_{key}": value for key, value in line.get("over", {}).items()}
    found = [{"quantity": key, **value} for key, value in spreads.items()]
    found += [
        {"quantity": key, "median": line[key], "low": "", "high": "", "rounds": 1}
        for key in ("extra_memory", "difference")
        if line.get(key) is not None
    ]
    return found


def notes(document: Document) -> list[str]:
    """What the columns mean, where it was measured, and what was not."""
    lines = [machine(document)]
    if document["environment"].get("float32_convolutions") == "tf32":
        lines.append("fp32: torch's default on this device, with convolutions in TF32.")
    on_a_gpu = document["environment"]["device"] == "cuda"
    if on_a_gpu and any(race["floor"]["in_cache"] for race in document.get("minimiser", ())):
        lines.append(
            "A floor in cache on a GPU is bound by launching its kernels, and so is a step there: "
            "× floor then compares numbers of launches and says nothing about memory."
        )
    if document.get("minimiser"):
        lines += [
            "× floor: the time over that of the memory traffic alone, passes x 4 bytes x weights / "
            "bandwidth, within one round; 10 passes for SAM and Fisher SAM, 11 for ASAM, 5 for "
            "SGD. The bandwidth is that of the named kernel over four vectors of the network's "
            "size in the same race."
        ]
    if document.get("minimiser") or document.get("peers"):
        lines += [
            "memory: the most bytes alive at once beyond weights, gradient and momentum, over the "
            "bytes of the weights, from the making of the minimiser through three steps."
        ]
    lines.append(
        "Every race runs its lines in turn; medians of the rounds, quartiles behind them; ratios "
        "are taken within a round."
    )
    if document.get("step") or document.get("runs"):
        lines.append(
            "Whole steps and runs at once are fed random images of 3x32x32, whatever the data of a "
            "recipe are."
        )
    if any(has_graphs(race) for race in document.get("step", ())):
        lines.append(
            "graph: the same step captured as a CUDA graph; × eager: its time over the eager "
            "one's; × SGD and × SAM compare steps that are launched alike."
        )
    if any(race["lines"] for race in document.get("runs", ())):
        lines.append(
            "× one: the images/s of all runs together over those of one run with one thread. The "
            "line with most images/s is what -j, and the recipe's threads, should be."
        )
    lines += [_lowered(race) for race in document.get("step", ()) if race["lowered_from"]]
    lines += _versions(document)
    for race in document.get("peers", ()):
        lines += _not_equal(race)
    lines += _disturbed(document)
    lines += [f"left out: {reason}" for reason in _left_out(document)]
    lines += [f"failed: {reason}" for reason in document.get("failed", ())]
    if document.get("interrupted"):
        lines.append(f"interrupted at: {document['interrupted']}; the rest is not measured")
    return lines


def _left_out(document: Document) -> list[str]:
    """What one race could not measure, then what none could."""
    found = []
    for _, race in _races(document):
        of = ", ".join(filter(None, (race.get("model"), race.get("precision"))))
        found += [f"{of}, {reason}" for reason in race.get("left_out", ())]
    return [*found, *document["left_out"]]


def machine(document: Document) -> str:
    """Versions, hardware and date, in a line."""
    at = document["environment"]
    where = at["device_name"] if at["device"] == "cpu" else f"{at['device_name']}, {at['cpu']}"
    return (
        f"fsam {at['fsam']}, torch {at['torch']}, {where}, {at['cores']} cores, "
        f"{counted(at['threads'], 'thread')}, {at['date'][:10]}."
    )


def _minimiser(race: Mapping[str, Any]) -> TextTable:
    title = (
        f"minimiser alone: {race['model']}, {_weights(race)}; {_floor(race['floor'])}; "
        f"{_rounds(race)}"
    )
    rows = [
        {
            "step": line["label"],
            "fsam": line["implementation"] or "",
            "ms": _quartiles(line["seconds"], times=1e3),
            "× floor": _quartiles(line["multiple"]),
            "memory": _memory(line["extra_memory"]),
        }
        for line in race["lines"]
    ]
    return TextTable(title, rows, ("step", "fsam"))


def _step(race: Mapping[str, Any]) -> TextTable:
    title = (
        f"whole step: {race['model']}, {race['precision']}, batch {race['batch_size']}, "
        f"compile {race['compile']}; {_rounds(race)}"
    )
    graphs = has_graphs(race)
    rows = [
        {
            "step": line["label"],
            **({"launched": line["launched"]} if graphs else {}),
            "ms": _quartiles(line["seconds"], times=1e3),
            "images/s": f"{line['images_per_second']['median']:,.1f}",
            "× SGD": _quartiles(line["over_sgd"], 3),
            "× SAM": _quartiles(line["over_sam"], 3),
            **({"× eager": _quartiles(line["over_eager"], 3)} if graphs else {}),
        }
        for line in race["lines"]
    ]
    return TextTable(title, rows, ("step", "launched"))


def has_graphs(race: Mapping[str, Any]) -> bool:
    """Whether steps from CUDA graphs stand beside the eager ones."""
    return any(line.get("launched") == "graph" for line in race["lines"])


def _augmentation(race: Mapping[str, Any], document: Document) -> TextTable:
    at = document["environment"]
    ours = counted(at["threads"], "thread") if at["device"] == "cpu" else "the GPU"
    title = f"crop, flip, AutoAugment, Cutout: {race['images']} images of 3x32x32; {_rounds(race)}"
    rows = [
        {
            "pipeline": line["label"],
            "with": f"{line['workers']} workers" if line["workers"] else ours,
            "images/s": _quartiles(line["images_per_second"], 0),
            "× torchvision": _quartiles(line["over_torchvision"]),
        }
        for line in race["lines"]
    ]
    return TextTable(title, rows, ("pipeline", "with"))


def _peers(race: Mapping[str, Any]) -> TextTable:
    title = f"SAM side by side: {race['model']}, {_weights(race)}; {_rounds(race)}"
    rows = [
        {
            "SAM of": line["label"],
            "ms": _quartiles(line["seconds"], times=1e3),
            **{f"× {how}": f"{ratio['median']:.2f}" for how, ratio in line["over"].items()},
            "memory": _memory(line["extra_memory"]),
            "apart": "" if line["difference"] is None else f"{line['difference']:.0e}",
        }
        for line in race["lines"]
    ]
    return TextTable(title, rows)


def _runs(race: Mapping[str, Any]) -> TextTable:
    launched = "from CUDA graphs, " if race["launched"] == "graph" else ""
    title = (
        f"runs at once: {race['model']}, {race['method']}, {race['precision']}, batch "
        f"{race['batch_size']}, {launched}compile {race['compile']}; {_rounds(race)}"
    )
    rows = [
        {
            "runs at once": str(line["at_once"]),
            "threads each": str(line["threads"]),
            "images/s together": _quartiles(line["images_per_second"]),
            "× one": _quartiles(line["over_one"], 2),
        }
        for line in race["lines"]
    ]
    return TextTable(title, rows)


def _rounds(race: Mapping[str, Any]) -> str:
    line = race["lines"][0]
    return f"{line.get('seconds', line.get('images_per_second'))['rounds']} rounds"


def _weights(race: Mapping[str, Any]) -> str:
    count = race["weights"] if "weights" in race else race["lines"][0]["weights"]
    return f"{count:,} weights"


def _floor(floor: Mapping[str, Any]) -> str:
    speed = _quartiles(floor["bandwidth"], times=1e-9)
    place = {True: " in cache", False: " in memory", None: ""}[floor["in_cache"]]
    return f"floor {speed} GB/s by {floor['kernel']}, {floor['buffers'] / 1e6:,.1f} MB{place}"


def _lowered(race: Mapping[str, Any]) -> str:
    return (
        f"{race['model']}, {race['precision']}: batch {race['batch_size']} instead of "
        f"{race['lowered_from']}, which would not have fitted the time; --batch-size "
        f"{race['lowered_from']} takes it all the same."
    )


def _versions(document: Document) -> list[str]:
    """The other implementations, and what their own columns mean."""
    if not document.get("peers"):
        return []
    known = {line["label"]: line["version"] for race in document["peers"] for line in race["lines"]}
    named = ", ".join(f"{label} {version}" for label, version in known.items() if version)
    return [
        "× eager, × compiled: times fsam's own step; apart: the largest difference of eps and "
        "update from fsam's eager ones over two steps, relative to the largest of them."
        + (f" Versions: {named}." if named else "")
    ]


def _not_equal(race: Mapping[str, Any]) -> list[str]:
    return [
        f"{race['model']}: {line['label']} does not do the same work as fsam (relative difference "
        f"{line['difference']:.0e}); its times cannot be compared."
        for line in race["lines"]
        if not line["agrees"]
    ]


def _disturbed(document: Document) -> list[str]:
    shares = [each for _, race in _races(document) if (each := race["elsewhere"]) is not None]
    if not shares:
        return []
    if max(shares) < BUSY:
        return [f"Other processes used at most {100 * max(shares):.1f} % of the processors."]
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return [
        f"Disturbed: other processes used {low if low == high else f'{low} to {high}'} % of "
        "the processors during the races; repeat on an idle machine before believing a time."
    ]


def _quartiles(spread: Spread | None, digits: int | None = None, *, times: float = 1) -> str:
    """`2.07 (2.01–2.20)`, by default with three significant digits of the median."""
    if spread is None:
        return ""
    median, low, high = (times * spread[key] for key in ("median", "low", "high"))
    if digits is None:
        size = abs(median)
        digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.995 else 3
    return f"{median:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def _memory(multiple: float | None) -> str:
    return "" if multiple is None else f"{multiple:.2f}×"
