"""The document of `fsam bench` as tables, CSV and a picture, without torch."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from fsam_cli.reports import bench_figure, bench_table
from fsam_cli.reports._style import save


def spread(median, low=None, high=None, rounds=5):
    return {"median": median, "low": low or median, "high": high or median, "rounds": rounds}


FLOOR = {
    "kernel": "mul_",
    "passes": 8,
    "bandwidth": spread(21e9, 20e9, 22e9),
    "buffers": 583_667_712,
    "cache": 33_554_432,
    "in_cache": False,
}


def alone(label, how, multiple, extra=1.0):
    return {
        "model": "wrn28_10",
        "weights": 36_479_194,
        "label": label,
        "implementation": how,
        "seconds": spread(0.1234, 0.12, 0.13),
        "passes": 10,
        "multiple": None if multiple is None else spread(multiple, multiple - 0.1, multiple + 0.1),
        "extra_memory": extra,
    }


def stepped(label, over_sgd, over_sam):
    return {
        "label": label,
        "seconds": spread(2.0, 1.9, 2.5),
        "images_per_second": spread(64.0, 51.0, 67.0),
        "over_sgd": over_sgd and spread(over_sgd),
        "over_sam": over_sam and spread(over_sam),
    }


def beside(label, version, multiple, difference, *, agrees=True):
    return {
        "label": label,
        "version": version,
        "seconds": spread(0.3),
        "multiple": spread(multiple),
        "over": {"eager": spread(multiple / 2), "compiled": spread(multiple)},
        "extra_memory": 1.004,
        "difference": difference,
        "agrees": agrees,
    }


def together(at_once, threads, speed, over_one):
    return {
        "at_once": at_once,
        "threads": threads,
        "images_per_second": spread(speed),
        "over_one": spread(over_one),
    }


def graphs():
    """The step's race as a GPU gives it."""
    race = document()["step"][0]
    lines = []
    for line in race["lines"]:
        lines.append({**line, "launched": "eager", "over_eager": None})
        lines.append({**line, "launched": "graph", "over_eager": spread(0.25, 0.2, 0.3)})
    reason = "fsam from a graph: the network draws random numbers"
    return document(step=[{**race, "lines": lines, "left_out": [reason]}])


def document(**changes):
    whole = {
        "schema": "fsam-bench/1",
        "environment": {
            "fsam": "0.1.0",
            "torch": "2.14.1",
            "cpu": "a CPU",
            "device": "cpu",
            "device_name": "a CPU",
            "cores": 2,
            "threads": 2,
            "date": "2026-11-24T12:00:00+00:00",
        },
        "settings": {"methods": {"sgd": {"name": "sgd"}, "sam-0.1": {"name": "sam"}}},
        "minimiser": [
            {
                "model": "wrn28_10",
                "floor": FLOOR,
                "elsewhere": 0.01,
                "lines": [
                    alone("sgd", "eager", 1.5, 0.0),
                    alone("sam-0.1", "compiled", 1.25),
                    alone("mine", "eager", None),
                    {**alone("zero, add g", None, 1.1, 0.0)},
                ],
            }
        ],
        "step": [
            {
                "model": "wrn28_10",
                "precision": "fp32-channels-last",
                "batch_size": 8,
                "lowered_from": 128,
                "compile": "none",
                "elsewhere": 0.02,
                "lines": [stepped("sgd", None, 0.5), stepped("sam-0.1", 2.0, None)],
            }
        ],
        "augmentation": [
            {
                "images": 4096,
                "elsewhere": None,
                "lines": [
                    {
                        "label": "fsam, batched",
                        "workers": 0,
                        "images_per_second": spread(31_234.5),
                        "over_torchvision": spread(6.0),
                    },
                    {
                        "label": "torchvision, PIL",
                        "workers": 2,
                        "images_per_second": spread(5_000.0),
                        "over_torchvision": spread(1.0),
                    },
                ],
            }
        ],
        "peers": [
            {
                "model": "wrn28_10",
                "weights": 36_479_194,
                "floor": FLOOR,
                "elsewhere": 0.0,
                "lines": [
                    beside("fsam eager", None, 2.0, None),
                    beside("theirs", "4.1.0", 7.0, 3e-7),
                    beside("wrong", None, 1.0, 0.5, agrees=False),
                ],
                "left_out": ["broken: RuntimeError: no"],
            }
        ],
        "runs": [
            {
                "model": "resnet20",
                "method": "sam-0.1",
                "precision": "fp32-channels-last",
                "batch_size": 128,
                "compile": "none",
                "launched": "eager",
                "elsewhere": 0.0,
                "lines": [together(1, 1, 155.8, 1.0), together(2, 1, 280.4, 1.8)],
                "left_out": ["process 3: OutOfMemoryError: none left"],
            },
            {
                "model": "resnet56",
                "method": "sam-0.1",
                "precision": "fp32-channels-last",
                "batch_size": 128,
                "compile": "none",
                "launched": "eager",
                "elsewhere": None,
                "lines": [],
                "left_out": ["process 1: ended with code 3"],
            },
        ],
        "left_out": ["compiled: no compiler"],
    }
    return {**whole, **changes}


def test_a_table_for_every_race_with_medians_and_quartiles():
    first, second, third, fourth, fifth = bench_table.tables(document())
    assert first.title == (
        "minimiser alone: wrn28_10, 36,479,194 weights; floor 21.0 (20.0–22.0) GB/s by mul_, "
        "583.7 MB in memory; 5 rounds"
    )
    assert first.rows[1] == {
        "step": "sam-0.1",
        "fsam": "compiled",
        "ms": "123 (120–130)",
        "× floor": "1.25 (1.15–1.35)",
        "memory": "1.00×",
    }
    assert first.rows[2]["× floor"] == ""
    assert second.rows[0]["× SAM"] == "0.500 (0.500–0.500)"
    assert second.rows[0]["× SGD"] == ""
    assert third.rows[0]["images/s"] == "31,234 (31,234–31,234)"
    assert [row["with"] for row in third.rows] == ["2 threads", "2 workers"]
    assert fourth.rows[1]["apart"] == "3e-07"
    assert fourth.rows[1]["× eager"] == "3.50"
    assert fifth.title == (
        "runs at once: resnet20, sam-0.1, fp32-channels-last, batch 128, compile none; 5 rounds"
    )
    assert fifth.rows[1] == {
        "runs at once": "2",
        "threads each": "1",
        "images/s together": "280 (280–280)",
        "× one": "1.80 (1.80–1.80)",
    }


def test_steps_from_graphs_have_columns_only_where_there_are_any():
    plain, graphed = (bench_table.tables(each)[1] for each in (document(), graphs()))
    assert list(plain.rows[0]) == ["step", "ms", "images/s", "× SGD", "× SAM"]
    assert [row["launched"] for row in graphed.rows] == ["eager", "graph"] * 2
    assert graphed.rows[2]["× eager"] == ""
    assert graphed.rows[3]["× eager"] == "0.250 (0.200–0.300)"
    assert not any("CUDA graph" in note for note in bench_table.notes(document()))
    notes = "\n".join(bench_table.notes(graphs()))
    assert "graph: the same step captured as a CUDA graph" in notes
    assert "left out: wrn28_10, fp32-channels-last, fsam from a graph: the network" in notes
    variants = {row["variant"] for row in bench_table.long_rows(graphs())}
    assert {"fp32-channels-last", "fp32-channels-last, graph"} <= variants


def test_on_a_gpu_fsams_augmentation_is_not_said_to_have_threads():
    at = {**document()["environment"], "device": "cuda", "device_name": "a GPU"}
    third = bench_table.tables(document(environment=at))[2]
    assert [row["with"] for row in third.rows] == ["the GPU", "2 workers"]


def test_what_failed_is_below_the_tables():
    failed = document(failed=["whole step, resnet20, fp32: OutOfMemoryError: none left"])
    note = "failed: whole step, resnet20, fp32: OutOfMemoryError: none left"
    assert bench_table.notes(failed)[-1] == note
    assert f"- {note}\n" in bench_table.markdown(failed)


def test_runs_that_came_from_graphs_are_said_to():
    race = {**document()["runs"][0], "launched": "graph"}
    table = bench_table.tables({**document(runs=[race])})[-1]
    assert "batch 128, from CUDA graphs, compile none" in table.title


def test_sections_that_are_not_there_have_no_table():
    left = {key: value for key, value in document().items() if key != "peers"}
    assert len(bench_table.tables(left)) == 4
    assert not any("apart" in note for note in bench_table.notes(left))


def test_on_a_gpu_what_fp32_is_and_what_a_floor_in_cache_is_are_said():
    def said(in_cache, **environment):
        race = document()["minimiser"][0]
        race["floor"]["in_cache"] = in_cache
        changed = {**document()["environment"], **environment}
        notes = "\n".join(bench_table.notes(document(environment=changed, minimiser=[race])))
        return notes.count("convolutions in TF32"), notes.count("bound by launching")

    gpu = {"device": "cuda", "float32_convolutions": "tf32"}
    assert (said(True), said(True, **gpu), said(False, **gpu)) == ((0, 0), (1, 1), (1, 0))


def test_every_caveat_is_below_the_tables():
    notes = "\n".join(bench_table.notes(document()))
    assert "batch 8 instead of 128" in notes
    assert "wrong does not do the same work as fsam (relative difference 5e-01)" in notes
    assert "left out: wrn28_10, broken: RuntimeError: no" in notes
    assert "left out: compiled: no compiler" in notes
    assert "left out: resnet20, fp32-channels-last, process 3: OutOfMemoryError" in notes
    assert "left out: resnet56, fp32-channels-last, process 1: ended with code 3" in notes
    assert "theirs 4.1.0" in notes
    assert "fsam 0.1.0, torch 2.14.1, a CPU, 2 cores, 2 threads, 2026-11-24." in notes
    assert "Other processes used at most 2.0 % of the processors." in notes


def test_a_busy_machine_is_said_to_be_one():
    races = document()["minimiser"]
    notes = "\n".join(bench_table.notes(document(minimiser=[{**races[0], "elsewhere": 0.4}])))
    assert "Disturbed: other processes used 0 to 40 %" in notes


def test_a_name_of_ones_own_cannot_open_a_column_of_the_page():
    [race] = document()["peers"]
    lines = [{**line, "label": f"{line['label']}|mine"} for line in race["lines"]]
    page = bench_table.markdown(document(peers=[{**race, "lines": lines}]))
    [row] = [line for line in page.splitlines() if "theirs\\|mine" in line]
    assert row.replace("\\|", "").count("|") == 7


def test_markdown_has_every_table_and_note():
    page = bench_table.markdown(document())
    assert page.startswith("# fsam bench\n")
    assert page.count("| ---:") >= 4
    assert "| sam-0.1 | compiled | 123 (120–130) | 1.25 (1.15–1.35) | 1.00× |" in page
    for note in bench_table.notes(document()):
        assert f"- {note}\n" in page


def test_csv_rows_are_unrounded_and_alike():
    rows = bench_table.long_rows(document())
    keys = ["section", "model", "variant", "batch_size", "label", "quantity"]
    assert all(list(row) == [*keys, "median", "low", "high", "rounds"] for row in rows)
    by_key = {tuple(row[key] for key in keys): row["median"] for row in rows}
    assert by_key["minimiser", "wrn28_10", "compiled", "", "sam-0.1", "seconds"] == 0.1234
    step = "step", "wrn28_10", "fp32-channels-last", 8
    assert by_key[*step, "sam-0.1", "over_sgd"] == 2.0
    assert by_key["peers", "wrn28_10", "", "", "theirs", "over_eager"] == 3.5
    assert by_key["peers", "wrn28_10", "", "", "theirs", "difference"] == 3e-7
    assert by_key["peers", "wrn28_10", "floor", "", "mul_", "bandwidth"] == 21e9
    runs = "runs", "resnet20", "2 runs, 1 thread each", 128, "sam-0.1"
    assert by_key[*runs, "over_one"] == 1.8
    assert by_key["augmentation", "", "", "", "fsam, batched", "over_torchvision"] == 6.0


def test_the_picture_has_a_panel_for_each_section_and_every_number(tmp_path):
    pytest.importorskip("matplotlib")
    drawn = bench_figure.figure(document())
    assert len(drawn.axes) == 5
    names = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    # No multiple, no point: `mine` is only in the table.
    assert names == ["wrn28_10", "sgd, eager", "sam-0.1, compiled", "zero, add g"]
    assert [text.get_text() for text in drawn.axes[0].texts] == ["1.50", "1.25", "1.10"]
    assert [text.get_text() for text in drawn.axes[1].texts] == ["2.000"]
    assert [text.get_text() for text in drawn.axes[4].texts] == ["1.00", "1.80"]
    written = save(drawn, tmp_path, "bench")
    assert [path.name for path in written] == ["bench.png", "bench.svg"]
    ElementTree.parse(written[1])


def test_the_whole_machine_is_on_the_picture_and_a_dollar_is_one():
    pytest.importorskip("matplotlib")
    at = {**document()["environment"], "device": "cuda", "cores": 128, "threads": 64}
    at |= {
        "device_name": "NVIDIA RTX 6000 Ada Generation",
        "cpu": "INTEL(R) XEON(R) PLATINUM 8480+",
    }
    peers = document()["peers"][0]
    peers["lines"][1]["label"] = r"a $\peer$"
    drawn = bench_figure.figure(
        document(environment={**at, "torch": "2.14.1+cu130"}, peers=[peers])
    )
    drawn.canvas.draw()
    heading = drawn._suptitle.get_window_extent()
    assert heading.x1 <= drawn.bbox.x1
    assert "2026-11-24" in drawn._suptitle.get_text()


def test_an_eager_line_is_open_and_a_compiled_one_filled():
    pytest.importorskip("matplotlib")
    alone_ = bench_figure.panels(document())[0]
    assert [point.filled for point in alone_.points[1:]] == [False, True, True]
    beside_ = bench_figure.panels(document())[2]
    assert [point.filled for point in beside_.points[1:]] == [False, True, True]


def test_a_graphs_step_is_filled_and_has_a_panel_of_its_own():
    pytest.importorskip("matplotlib")
    found = {panel.title: panel for panel in bench_figure.panels(graphs())}
    step = found["whole step, forward and backward passes included"].points
    assert [(point.name, point.filled) for point in step[1:]] == [
        ("sam-0.1, eager", False),
        ("sam-0.1, graph", True),
    ]
    names = [point.name for point in found["whole step from a CUDA graph"].points[1:]]
    assert names == ["sgd, graph", "sam-0.1, graph"]
    drawn = bench_figure.figure(graphs())
    assert drawn.axes[2].get_xlim()[1] > 1  # the eager step is in the picture


def test_several_runs_have_a_stroke_where_they_would_not_disturb_each_other():
    pytest.importorskip("matplotlib")
    panel = bench_figure.panels(document())[-1]
    assert [(point.name, point.ideal) for point in panel.points] == [
        ("resnet20, sam-0.1, batch 128", None),
        ("1 run, 1 thread", 1),
        ("2 runs, 1 thread each", 2),
    ]
    axes = bench_figure.figure(document()).axes[-1]
    strokes = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|"]
    assert strokes == [1, 2]
    assert axes.get_xlim()[1] > 2


def test_tables_and_picture_need_no_torch():
    code = "import sys; import fsam_cli.reports.bench_table, fsam_cli.reports.bench_figure; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
