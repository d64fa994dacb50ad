"""`fsam sharpness`: measure what is not on record yet, then the table and the picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from fsam_cli import parts
from fsam_cli.commands._measuring import (
    Survey,
    any_failed,
    measure_missing,
    with_statuses,
)
from fsam_cli.commands._print import out, say, say_written
from fsam_cli.commands.report import against, only_these, print_table
from fsam_cli.errors import UsageError
from fsam_cli.measure import sharpness as measuring
from fsam_cli.measure.sharpness import Neighbourhood, Quantity, SharpnessSetting, rise_within
from fsam_cli.measure.subjects import Candidate, recorded
from fsam_cli.options import ROOTS, SharpnessRequest
from fsam_cli.plugins import PluginFile, origin, plugins_of_command
from fsam_cli.recipe import yaml12
from fsam_cli.recipe.schema import NamedPart
from fsam_cli.records.frame import load_runs
from fsam_cli.records.side_table import Measurement
from fsam_cli.records.summary import Metric, Row, result_metric
from fsam_cli.reports import render, sharpness_figure
from fsam_cli.reports import sharpness as reporting
from fsam_cli.reports._style import require_matplotlib, save
from fsam_cli.reports.render import Beside
from fsam_cli.reports.table import Table, build_table

WITHIN = ("sam", "asam", "fsam")
OnRecord = dict[str, dict[Quantity, Measurement]]  # by path of the run


def sharpness(request: SharpnessRequest) -> int:
    """Measure, print, draw.

    Returns:
        0, or 1 where `any_failed`.

    Raises:
        UsageError: options or data; or nothing there to measure.
        RecordError: the disk refuses, or no run could be measured.
        Interrupted: Ctrl-C or SIGTERM; run the same command again to resume.
    """
    plugins = plugins_of_command(request.plugins, versions=True)
    setting = setting_of(request, plugins)
    if request.figures is not None:
        require_matplotlib()
    roots = request.roots or ROOTS
    runs, left_out = only_these(load_runs(*roots), request)
    entries = list(recorded(runs, request.data_dir, plugins))
    entries = measure_missing(_survey(setting), request, runs=runs, entries=entries, places=roots)
    columns = columns_of(setting)
    found = _on_record(entries, setting)
    metrics = _metrics(setting, columns)
    runs = with_statuses(runs, entries).merge(_values(found, columns), on="path", how="left")
    table = build_table(runs, metrics=partial(_of_row, metrics))
    told = [*_about(setting), *_doubts(found), *left_out]
    table = replace(table, notes=[*table.notes, *told])
    beside = Beside(
        against(table, request.versus), more=reporting.correlation_tables(table, metrics)
    )
    try:  # before `| head` has seen enough
        if request.figures is not None:
            _draw(table, metrics, request.figures)
    finally:
        _print(table, beside, metrics, setting, format=request.format)
    if request.format == "csv" and request.versus is not None:
        say("differences are not in csv; see -f json or -f markdown")
    return 1 if any_failed(entries) else 0


def setting_of(request: SharpnessRequest, plugins: Sequence[PluginFile] = ()) -> SharpnessSetting:
    """What the command line asked for.

    Raises:
        UsageError: options that say nothing, or a neighbourhood that is none.
    """
    return SharpnessSetting(
        images=_images(request.images),
        draws=request.draws,
        neighbourhoods=tuple(_neighbourhood(each, plugins) for each in request.within or WITHIN),
        m=request.m,
        hessian=request.hessian,
    )


def _images(text: str) -> int | None:
    if text == "all":
        return None
    if not (text.isdecimal() and int(text)):
        raise UsageError(f"--images {text}: write a number of images, or all")
    return int(text)


def _neighbourhood(text: str, plugins: Sequence[PluginFile]) -> Neighbourhood:
    """`sam:rho=0.1`."""
    name, _, rest = text.partition(":")
    settings = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not (equals and key):
            raise UsageError(f"--within {text}: write METHOD:KEY=VALUE,..., e.g. sam:rho=0.1")
        if key in settings:
            raise UsageError(f"--within {text}: {key} twice; write --within again for another")
        try:
            settings[key] = yaml12.parse(value)
        except ValueError as error:
            raise UsageError(f"--within {text}: {error}") from None
    named, plugin = NamedPart(name=name, settings=settings), origin(plugins, "minimisers", name)
    also = plugin.rooms["minimisers"] if plugin else parts.NONE
    try:
        minimiser = parts.build("minimisers", named, "--within", also)
    except parts.PartError as error:
        raise UsageError(str(error)) from None
    own = {"m_sharpness", "natural_gradient"} & settings.keys()
    if own:
        raise UsageError(f"--within {text}: {min(own)} is about training; leave it out")
    along_g = minimiser.climbs and minimiser.climbs_along == "gradient"
    if not along_g or minimiser.remembers or minimiser.fisher_source is not None:
        raise UsageError(
            f"--within {text}: it keeps a memory, or its perturbation is no function of weights "
            "and one gradient; name another, e.g. sam, asam or fsam"
        )
    return Neighbourhood(name, minimiser, plugin.sha256[:12] if plugin else "")


def _survey(setting: SharpnessSetting) -> Survey[Quantity]:
    return Survey(
        "sharpness",
        "measure",
        partial(measuring.missing, setting=setting),
        lambda subject, wanted, device, advance: measuring.measure(
            subject, setting, wanted, device=device, on_quantity=advance
        ),
    )


def columns_of(setting: SharpnessSetting) -> dict[Quantity, str]:
    """The column of every quantity in the frame of runs: what is measured, with its setting where
    another is of the same."""
    wanted = list(measuring.quantities(setting))
    times = Counter(quantity.measure for quantity in wanted)
    return {
        each: each.measure if times[each.measure] == 1 else f"{each.measure} ({each.setting})"
        for each in wanted
    }


def _metrics(setting: SharpnessSetting, columns: dict[Quantity, str]) -> list[Metric]:
    of_the_loss = [each for each in reporting.OF_THE_LOSS if each.column in columns.values()]
    rises = [(columns[rise_within(each, setting.m)], each.name) for each in setting.neighbourhoods]
    return [*of_the_loss, *(reporting.rise_metric(*each) for each in dict(rises).items())]


def _of_row(metrics: Sequence[Metric], row: Row) -> list[Metric]:
    """The test accuracy of the weights that were measured, and what was measured of them."""
    results = dict.fromkeys(result_metric(cell) for cell in row.cells.values() if cell.config)
    return [*results, *metrics]


def _on_record(entries: Sequence[Candidate], setting: SharpnessSetting) -> OnRecord:
    return {
        entry.run: measuring.on_record(entry.subject, setting)
        for entry in entries
        if entry.subject is not None
    }


def _values(found: OnRecord, columns: dict[Quantity, str]) -> pd.DataFrame:
    """By path of the run, what was measured."""
    rows = [
        {"path": run, **{columns[key]: row["value"] for key, row in measured.items()}}
        for run, measured in found.items()
    ]
    return pd.DataFrame(rows, columns=["path", *columns.values()])


def _about(setting: SharpnessSetting) -> list[str]:
    return reporting.notes(
        images=setting.images,
        draws=setting.draws if setting.hessian else None,
        neighbourhoods=[each.name for each in setting.neighbourhoods],
        m=setting.m,
    )


def _doubts(found: OnRecord) -> list[str]:
    """What was not measured well."""
    notes = []
    for run, measured in found.items():
        endless = [key.measure for key, row in measured.items() if not math.isfinite(row["value"])]
        if endless:
            notes.append(f"{run}: not finite: {', '.join(endless)}.")
        for key, row in measured.items():
            if key.measure == "lambda_max" and not measuring.settled(row):
                notes.append(
                    f"{run}: λmax is known to ±{row['error']:.2g} only: Lanczos' iteration did "
                    "not settle."
                )
    return notes


def _print(
    table: Table,
    beside: Beside,
    metrics: Sequence[Metric],
    setting: SharpnessSetting,
    *,
    format: str,
) -> None:
    if format != "json":
        print_table(table, beside, format=format)
        return
    how = {
        "images": setting.images,
        "draws": setting.draws,
        "m": setting.m,
        "within": [
            {"method": each.method, "setting": each.setting} for each in setting.neighbourhoods
        ],
    }
    also = {"setting": how, "rank_correlations": reporting.correlations(table, metrics)}
    out(render.json_text(table, beside, schema=reporting.SCHEMA, also=also))


def _draw(table: Table, metrics: Sequence[Metric], folder: Path) -> None:
    for row in table.rows:
        there = [
            metric
            for metric in metrics
            if not metric.wide
            and any(cell.sample(metric) is not None for cell in row.cells.values())
        ]
        if not there:
            say(f"{row.title}: no picture, as no method has all its planned seeds measured")
            continue
        drawn = sharpness_figure.figure(row, there)
        say_written(save(drawn, folder, sharpness_figure.figure_name(row)))
