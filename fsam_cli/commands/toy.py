"""`fsam toy`: the toy problem of Sec. 3.1 of the paper, its Figures 1 to 3, and its basins."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fsam_cli.commands._print import out, print_json, print_notes, print_rows, say, say_written
from fsam_cli.measure import toy as measure
from fsam_cli.measure import toy_basins
from fsam_cli.options import ToyRequest
from fsam_cli.records.frame import as_rows
from fsam_cli.records.plain import frame_csv
from fsam_cli.records.store import write_atomically
from fsam_cli.reports import toy_figures
from fsam_cli.reports._style import require_matplotlib, save
from fsam_cli.reports._toy_plane import Landscape
from fsam_cli.reports.toy_basins_figure import basins as basins_figure

_TITLES = {2: "SAM and FSAM", 3: "ASAM and FSAM"}


def toy(request: ToyRequest) -> None:
    """Print minima, trajectories and basins (as csv one table, its first column says of what); with
    `figures`, draw toy-1 to toy-3 and toy-basins there as PNG and SVG, with their data as CSV.

    Raises:
        UsageError: pictures without matplotlib.
        RecordError: the folder cannot be written.
    """
    if request.figures is not None:
        require_matplotlib()
    problem = measure.ToyProblem(request.energy)
    at = measure.landmarks(problem)
    cases = measure.cases()
    paths = measure.trajectories(problem, cases)
    endings = measure.endings(paths, at)
    ends = _map_basins(problem, at) if request.basins else None
    fractions = None if ends is None else toy_basins.fractions(ends)
    try:  # before `| head` has seen enough
        if request.figures is not None:
            _draw(problem, at, paths, ends, fractions, request.figures)
    finally:
        _print(request.energy, at, endings, fractions, request.format)


def _map_basins(problem: measure.ToyProblem, at: measure.Landmarks) -> pd.DataFrame:
    methods, starts = toy_basins.basin_methods(), len(toy_basins.basin_starts())
    say(f"basins: {len(methods)} methods from {starts:,} starts, {measure.STEPS} steps each")

    def progress(step: int) -> None:
        if sys.stderr.isatty() and step % 25 == 0:
            sys.stderr.write(f"\rstep {step}/{measure.STEPS}")
            if step == measure.STEPS:
                sys.stderr.write("\n")

    return toy_basins.basins(problem, methods, at, progress=progress)


def _print(
    energy: str,
    at: measure.Landmarks,
    endings: pd.DataFrame,
    fractions: pd.DataFrame | None,
    format: str,
) -> None:
    if format == "json":
        document = {
            "schema": "fsam-toy/1",
            "energy": energy,
            "scheme": measure.SCHEME,
            "points": [
                {**point._asdict(), "published": measure.PUBLISHED.get(point.name)} for point in at
            ],
            "trajectories": as_rows(endings),
            "basins": None if fractions is None else as_rows(fractions),
        }
        print_json(document)
    elif format == "csv":
        parts = {"point": pd.DataFrame(at), "trajectory": endings}
        if fractions is not None:
            parts["basin"] = fractions
        tidy = pd.concat([part.assign(part=name) for name, part in parts.items()])
        whole = tidy.columns.intersection(["figure", "starts", *measure.DESTINATIONS])
        tidy = tidy.astype(dict.fromkeys(whole, "Int64"))
        tidy.insert(0, "energy", energy)
        tidy.insert(0, "part", tidy.pop("part"))
        out(frame_csv(tidy))
    else:
        title = f"Stationary points of the toy loss (energy: {energy})"
        print_rows([_point(point) for point in at], format=format, title=title)
        title = "Trajectories of Figures 2 and 3, and controls; probe: length of the first one"
        print_rows([_ending(each) for each in as_rows(endings)], format=format, title=title)
        if fractions is not None:
            title = f"Which starts reach the flat minimum (of {fractions['starts'].iloc[0]:,})"
            print_rows([_fraction(each) for each in as_rows(fractions)], format=format, title=title)
        print_notes(_notes(energy, endings, fractions), format=format)


def _point(point: measure.StationaryPoint) -> dict[str, Any]:
    printed = measure.PUBLISHED.get(point.name)
    return {
        "point": point.name,
        "mu": f"{point.mu:.4f}",
        "sigma": f"{point.sigma:.4f}",
        "loss": f"{point.loss:.4f}",
        "tr Hessian": f"{point.hessian_trace:.6f}",
        "published": (
            f"({printed['mu']}, {printed['sigma']}), {printed['loss']}, {printed['hessian_trace']}"
            if printed
            else "-"
        ),
    }


def _ending(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "figure": f"{row['figure']}" if row["published"] else f"{row['figure']}, control",
        "method": row["method"],
        "radius": f"{row['radius']:g}",
        "start": f"({row['start_mu']:g}, {row['start_sigma']:g})",
        "probe": f"{row['probe']:.3f}",
        "after 1 step": f"({row['step1_mu']:.3f}, {row['step1_sigma']:.3f})",
        "ends at": row["ends_at"],
    }


def _fraction(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": row["method"],
        "radius": f"{row['radius']:g}",
        "first probe": f"{row['probe']:.2f}",
        "fraction": f"{row['flat_fraction']:.3f}",
        **{name: row[name] for name in measure.DESTINATIONS},
    }


def _notes(energy: str, endings: pd.DataFrame, fractions: pd.DataFrame | None) -> list[str]:
    """What the numbers say about the paper's claim, from the numbers."""
    notes = []
    for figure, group in endings.groupby("figure"):
        parts = [
            f"{row['method']} {row['radius']:g} probes {row['probe']:.2f} units at the start and"
            f" ends at {row['ends_at']}"
            for row in as_rows(group[group["published"]])
        ]
        others = [
            f"{row['method']} {row['radius']:g}"
            for row in as_rows(group[~group["published"] & (group["ends_at"] == "flat")])
        ]
        also = f" From there {' and '.join(others)} reach flat, too." if others else ""
        notes.append(f"Figure {figure}: {'; '.join(parts)}.{also}")
    if fractions is not None:
        notes.append(_note_on_basins(fractions))
    if energy == "kl":
        notes.append("Energy kl is the formula as printed; the published minima are paper's.")
    return notes


def _note_on_basins(fractions: pd.DataFrame) -> str:
    ranked = fractions.sort_values("flat_fraction", ascending=False, kind="stable")
    own = ranked[ranked["method"] == "fsam"].iloc[0]
    more = [
        f"{row['method']} {row['radius']:g} ({row['flat_fraction']:.3f})"
        for row in as_rows(ranked[ranked["flat_fraction"] > own["flat_fraction"]])
    ]
    others = f" More starts than that reach flat with {', '.join(more)}." if more else ""
    return (
        f"Basins: fsam's most is {own['flat_fraction']:.3f} with {own['radius']:g}, where"
        f" {own['saddle']} starts end at the saddle.{others} sam_matched is SAM's direction with"
        " FSAM's length."
    )


def _draw(
    problem: measure.ToyProblem,
    at: measure.Landmarks,
    paths: pd.DataFrame,
    ends: pd.DataFrame | None,
    fractions: pd.DataFrame | None,
    folder: Path,
) -> None:
    grid = measure.surface(problem, np.linspace(-45, 45, 181), np.linspace(2, 62, 121))
    landscape = Landscape(*grid, points=pd.DataFrame(at), energy=problem.energy)
    line = measure.line_between(problem, at.flat, at.sharp)
    written = save(toy_figures.contours(landscape, line), folder, "toy-1")
    for figure, who in _TITLES.items():
        chosen = paths[(paths["figure"] == figure) & paths["published"]]
        title = f"Figure {figure}: {who} from the same start"
        written += save(toy_figures.paths(landscape, chosen, title), folder, f"toy-{figure}")
    data = {"toy-paths": paths}
    if ends is not None and fractions is not None:
        written += save(basins_figure(ends, fractions, landscape), folder, "toy-basins")
        data["toy-basins"] = ends
    for name, frame in data.items():
        path = folder / f"{name}.csv"
        write_atomically(path, frame_csv(frame).encode())
        written.append(path)
    say_written(written)
