"""Curves to numbers and pictures, from recorded runs without measuring."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from fsam_cli.records.frame import with_weight_files
from fsam_cli.records.perturbation import PerturbationSetting
from fsam_cli.reports import robustness, robustness_figure
from fsam_cli.reports._style import METHOD_STYLES, save
from fsam_cli.reports.render import json_text, markdown, terminal_tables
from tests.support.perturbed import ALPHAS, Measured, left_out, measured, points

SETTING = PerturbationSetting()
TWO = {"planned": (0, 1)}


@pytest.fixture
def usual(tmp_path):
    return measured(
        tmp_path,
        points("sgd", 0, (0.9, 0.5, 0.1), **TWO),
        points("sgd", 1, (0.7, 0.3, 0.1), **TWO),
        points("fsam", 0, (0.9, 0.8, 0.7), **TWO),
        points("fsam", 1, (0.9, 0.8, 0.3), **TWO),
        points("asam", 0, (0.9, 0.7, 0.6), **TWO),
        left_out("asam", 1, **TWO),
        left_out("gsam", 0, "planned", None),
    )


def shown(found: Measured):
    """The lines of its only table in a terminal."""
    [table] = terminal_tables(found.table())
    return list(table.rows)


def picture(found: Measured, setting=SETTING):
    [row] = found.table().rows
    return robustness_figure.figure(row, found.points, setting)


@pytest.mark.parametrize(
    ("accuracies", "alpha"),
    [
        ((0.8, 0.6, 0.2), 1.5),  # half, 0.4, lies halfway from 0.6 to 0.2
        ((0.8, 0.4, 0.4), 1.0),
        ((0.8, 0.3, 0.8), 0.8),  # the first time counts
        ((0.8, 0.7, 0.41), None),
        ((0.0, 0.0, 0.0), 1.0),  # nothing to lose is lost at once
    ],
)
def test_half_of_the_accuracy_is_lost_where_a_straight_line_says(accuracies, alpha):
    found = robustness.half_accuracy_alpha(ALPHAS, accuracies)
    assert found == (None if alpha is None else pytest.approx(alpha))


def test_the_area_is_the_mean_accuracy_over_the_range_whatever_the_spacing():
    assert robustness.area(ALPHAS, (0.8, 0.6, 0.2)) == pytest.approx((0.7 + 0.4) / 2)
    assert robustness.area((0, 0.5, 4), (0.8, 0.8, 0.8)) == pytest.approx(0.8)
    assert robustness.area((0.0,), (0.8,)) is None


def test_the_summary_is_mean_and_std_over_seeds_and_says_who_is_missing(usual):
    table = usual.summary()
    sgd = table[table["label"] == "sgd"]
    assert sgd["alpha"].tolist() == [0, 1, 2]
    assert sgd["accuracy_mean"].tolist() == pytest.approx([0.8, 0.4, 0.1])
    assert sgd["accuracy_std"].tolist() == pytest.approx([0.2 / 2**0.5, 0.2 / 2**0.5, 0])
    assert sgd["loss_mean"].tolist() == pytest.approx([1.2, 1.6, 1.9])
    assert set(sgd["n"]) == {2}
    lost = table[table["label"].isin(["asam", "gsam"])]
    assert lost[["n", "status"]].to_numpy().tolist() == [
        [0, "1 of 2 diverged"],
        [0, "1 of 1 planned"],
    ]
    numbers = ["alpha", "accuracy_mean", "accuracy_std", "loss_mean", "loss_std", "draws_std"]
    assert lost[numbers].isna().all(axis=None)  # never the mean of the seeds that are left


def test_means_are_of_the_numbers_of_runs(usual):
    table = usual.table()
    entries = {
        (line.metric.column, name): e for line in table.lines for name, e in line.entries.items()
    }
    # Seeds lose half, 0.45 and 0.35, after an eighth of the way to 0.1 and of the way to 0.3.
    expected = [1 + 0.05 / 0.4, 0.35 / 0.4]
    assert entries["half_alpha", "sgd"].sample.mean == pytest.approx(sum(expected) / 2)
    assert entries["half_alpha", "fsam"].sample is None
    assert entries["area", "fsam"].sample.mean == pytest.approx((0.8 + 0.7) / 2)
    assert entries["area", "sgd"].sample.mean == pytest.approx((0.5 + 0.35) / 2)
    assert entries["area", "asam"].sample is entries["half_alpha", "gsam"].sample is None


def test_a_planned_seed_of_which_there_is_no_run_leaves_no_mean(tmp_path):
    some = measured(
        tmp_path, *(points("sam", seed, (0.9, 0.5, 0.1), planned=(0, 1, 2)) for seed in (0, 1))
    )
    [row] = shown(some)
    assert row.pop("α=0") == "1 of 3 missing"
    assert set(row.values()) == {"sam", ""}
    assert "not measured: r: sam seed 2" in some.table().notes


def test_draws_are_averaged_within_their_run_first(tmp_path):
    noisy = measured(
        tmp_path,
        points("sgd", 0, (0.9, 0.8, 0.6), draw=0, **TWO),
        points("sgd", 0, (0.9, 0.6, 0.2), draw=1, **TWO),
        points("sgd", 1, (0.9, 0.7, 0.4), draw=0, **TWO),
        points("sgd", 1, (0.9, 0.7, 0.4), draw=1, **TWO),
    )
    table = noisy.summary()
    assert set(table["n"]) == {2}
    assert table["accuracy_mean"].tolist() == pytest.approx([0.9, 0.7, 0.4])
    assert table["accuracy_std"].tolist() == pytest.approx([0, 0, 0])
    assert table["draws_std"].tolist() == pytest.approx([0, 0.1 / 2**0.5, 0.2 / 2**0.5])
    text = "\n".join(noisy.table(PerturbationSetting("gaussian")).notes)
    assert "mean of 2 draws" in text
    assert "at most 28.28 percentage points" in text


def test_configurations_of_a_label_are_never_pooled_and_named_by_their_settings(tmp_path):
    long = "a-kind-of-scope-" * 3
    both = measured(
        tmp_path,
        points("sgd", 0, (0.9, 0.5, 0.1)),
        *(points("sam", 0, (0.9, 0.5, 0.1), settings={"scope": long + x + long}) for x in "ab"),
        *(points("fsam", 0, (0.9, 0.5, 0.1), settings={"gamma": gamma}) for gamma in (0.2, 0.1)),
    )
    names = [f"sam [scope={long}{x}{long}]" for x in "ab"]
    names = ["sgd", *names, "fsam [gamma=0.1]", "fsam [gamma=0.2]"]
    assert [row["method"] for row in shown(both)] == names
    assert both.summary()["n"].tolist() == [1] * 15
    [legend] = picture(both).legends
    hashes = both.table().rows[0].cells
    assert [text.get_text() for text in legend.get_texts()] == [
        "sgd (n=1)",
        *(f"sam [{hashes[name].hash}] (n=1)" for name in names[1:3]),
        "fsam [gamma=0.1] (n=1)",
        "fsam [gamma=0.2] (n=1)",
    ]


def test_the_table_shows_every_method_and_nobody_is_forgotten(usual):
    rows = shown(usual)
    assert rows[0] == {
        "method": "sgd",
        "n": "2",
        "α=0": "80.0±14.1",
        "α=1": "40.0±14.1",
        "α=2": "10.0±0.0",
        "half lost at α": "1.00±0.18",
        "area (%)": "42.5±10.6",
    }
    assert rows[1]["n"] == "2"
    assert rows[1]["half lost at α"] == "> 2 (1 of 2 lost half)"
    for row, status in ((rows[2], "1 of 2 diverged"), (rows[3], "1 of 1 planned")):
        assert row.pop("α=0") == status
        assert set(row.values()) == {row["method"], ""}
    notes = usual.table().notes
    assert any(note.startswith("r/asam seed 1: diverged: loss not finite (") for note in notes)
    assert "not measured: r: gsam seed 0" in notes


def test_who_never_loses_half_is_not_ranked_behind_who_does(tmp_path):
    """A mean over the runs that lose half would call `held` the weaker one, 1.7 against 1.9."""
    held = [points("held", seed, (0.9, 0.8, last), **TWO) for seed, last in ((0, 0.3), (1, 0.8))]
    fell = [points("fell", seed, (0.9, 0.8, 0.41), **TWO) for seed in (0, 1)]
    rows = shown(measured(tmp_path, *held, *fell))
    assert [row["half lost at α"] for row in rows] == ["> 2 (1 of 2 lost half)", "1.90±0.00"]


def test_a_method_that_never_loses_half_says_beyond_what(tmp_path):
    [row] = shown(measured(tmp_path, points("sam", 0, (0.9, 0.8, 0.7))))
    assert row["half lost at α"] == "> 2"
    assert row["α=0"] == "90.0"  # a single seed has no spread


def test_the_control_alone_has_no_area(tmp_path):
    [row] = shown(measured(tmp_path, points("sam", 0, (0.9,), alphas=(0.0,))))
    assert (row["half lost at α"], row["area (%)"]) == ("> 0", "a single strength")


@pytest.mark.parametrize(
    ("top", "half"),
    [
        (1e100, "6.06e+99±6.19e+98"),
        (1e7, "6062500±618718"),
        (1e-4, "0.000061±0.000006"),
        (1e-100, "6.06e-101±6.19e-102"),
    ],
)
def test_strengths_of_any_size_are_readable_and_overflow_nothing(tmp_path, top, half):
    alphas = (0.0, top / 2, top)
    wide = measured(
        tmp_path,
        points("sgd", 0, (0.9, 0.5, 0.1), alphas=alphas, **TWO),
        points("sgd", 1, (0.9, 0.6, 0.1), alphas=alphas, **TWO),
    )
    [row] = shown(wide)  # a warning is an error
    assert row["half lost at α"] == half
    assert row["area (%)"] == "52.5±3.5"


def test_strengths_that_print_alike_are_columns_of_their_own(tmp_path):
    alike = measured(
        tmp_path, points("sgd", 0, (0.9, 0.5, 0.1), alphas=(0.0, 1.0000001, 1.0000002))
    )
    metrics = [line.metric.column for line in alike.table().lines]
    assert len(set(metrics)) == len(metrics) == 5


def test_long_names_leave_the_picture_its_room(tmp_path):
    recipe, setting = "recipe-" * 20, PerturbationSetting(relative="filter", recalibrated=True)
    labels = [f"a-method-with-a-long-name-{i}" + "x" * 60 for i in range(3)]
    lost = [left_out(f"another-method-with-a-long-name-{i}", 0, recipe=recipe) for i in range(40)]
    parts = [points(label, 0, (0.9, 0.5, 0.1), recipe=recipe) for label in labels]
    found = measured(tmp_path / "runs", *parts, *lost)
    drawn = picture(found, setting)
    [row] = found.table().rows
    [path, _] = save(drawn, tmp_path, robustness_figure.figure_name(row, setting))
    assert len(path.name) <= 100
    assert path.stem.endswith("-gradient-train-filter-recalibrated")
    assert all(axes.get_position().width > 0.2 for axes in drawn.axes)
    [legend] = drawn.legends
    boxes = [each.get_window_extent() for each in (legend, *drawn.texts)]
    assert all(box.x0 >= 0 and box.x1 <= drawn.bbox.width for box in boxes)
    assert not any(boxes[0].overlaps(box) for box in boxes[1:])
    assert drawn.get_supxlabel().endswith("…")


def test_a_terminal_gets_the_control_the_ends_and_even_ratios_between(tmp_path):
    alphas = (0.0, 0.1, 0.59, 1.08, 1.57, 2.06, 2.55, 3.04, 3.53, 4.02, 4.51, 5.0)
    wide = measured(tmp_path, points("sgd", 0, [0.5] * 12, alphas=alphas))
    [short] = shown(wide)
    assert [key for key in short if key.startswith("α")] == [
        "α=0",
        "α=0.1",
        "α=0.59",
        "α=1.57",
        "α=5",
    ]
    assert markdown(wide.table()).count("| test accuracy at α=") == 12
    assert any("show 5 of the 12 strengths" in note for note in wide.table().notes)


def test_each_protocol_has_its_own_table(tmp_path):
    curve = (0.9, 0.5, 0.1)
    other = points("sgd", 0, curve, changes={"train.batch_size": 64})
    two = measured(
        tmp_path, points("sgd", 0, curve), other, points("sgd", 0, curve, recipe="other")
    )
    assert [row.title for row in two.table().rows] == [
        "other",
        "r (train.batch_size=64)",
        "r (train.batch_size=128)",
    ]
    assert [robustness_figure.figure_name(row, SETTING) for row in two.table().rows] == [
        "robustness-other-gradient-train",
        "robustness-r-train.batch_size=64-gradient-train",
        "robustness-r-train.batch_size=128-gradient-train",
    ]


def with_files(found: Measured, *names):
    """And weight files whose accuracies are 0.9, 0.5, 0.1, but for the last, `bad`."""
    at = [point for name in names[:-1] for point in points("", 0, (0.9, 0.5, 0.1)).points]
    rows = [{"path": f"/{names[i // 3]}.pt", **point} for i, point in enumerate(at)]
    runs = with_weight_files(found.runs, {f"/{name}.pt": name for name in names}, "r")
    bad = runs["label"] == names[-1]
    runs = runs.assign(
        status=runs["status"].mask(bad, "unmeasurable"), reason=runs["reason"].mask(bad, "damaged")
    )
    return Measured(runs, pd.concat([found.points, pd.DataFrame(rows)]))


def test_weight_files_stand_beside_the_runs_of_the_only_protocol_or_alone(tmp_path):
    one = measured(tmp_path, points("sgd", 0, (0.9, 0.5, 0.1)))
    assert [row["α=0"] for row in shown(with_files(one, "kept", "bad"))] == [
        *("90.0", "90.0"),
        "1 of 1 unmeasurable",
    ]
    notes = with_files(one, "kept", "bad").table().notes
    assert "r/bad weight file: unmeasurable: damaged (/bad.pt)" in notes
    assert not any("not measured" in note for note in notes)
    alone = Measured(one.runs[:0], one.points[:0])
    assert [row["method"] for row in shown(with_files(alone, "a", "b", "bad"))] == ["a", "b", "bad"]
    named_so = with_files(one, "sgd", "bad").table()  # a run's label
    assert [row.title for row in named_so.rows] == ["r", "r (weight files)"]
    assert list(named_so.rows[1].cells) == ["sgd", "bad"]


def test_json_has_every_number_and_null_for_what_is_none(usual):
    at = usual.points
    of_sgd = at["path"].str.contains("/sgd/")
    at.loc[of_sgd & (at["alpha"] == 2), "test_loss"] = float("inf")
    at.loc[at["path"].str.contains("/sgd/seed0") & (at["alpha"] == 1), "test_loss"] = None
    also = {"points": usual.summary().to_dict("records")}
    document = json.loads(json_text(usual.table(), schema=robustness.SCHEMA, also=also))
    assert document["schema"] == robustness.SCHEMA
    sgd = [point for point in document["points"] if point["label"] == "sgd"]
    losses = [point["loss_mean"] for point in sgd]
    assert losses == [pytest.approx(1.2), None, None]  # never the mean of the seeds that are left
    assert sgd[1]["accuracy_mean"] == pytest.approx(0.4)
    half = {run["label"] + str(run["seed"]): run["half_alpha"] for run in document["runs"]}
    assert half == {
        "sgd0": pytest.approx(1 + 0.05 / 0.4),
        "sgd1": pytest.approx(0.35 / 0.4),
        "fsam0": None,
        "fsam1": pytest.approx(1 + 0.35 / 0.5),
        **dict.fromkeys(("asam0", "asam1", "gsam0")),
    }


@pytest.mark.parametrize(
    ("setting", "words", "name"),
    [
        (
            PerturbationSetting(),
            "step of norm α along the gradient of the training loss",
            "gradient-train",
        ),
        (PerturbationSetting(gradient_split="test"), "gradient of the test loss", "gradient-test"),
        (
            PerturbationSetting("gaussian", relative="filter"),
            "each filter moved by α times its norm along Gaussian noise",
            "gaussian-filter",
        ),
        (
            PerturbationSetting(recalibrated=True),
            "BatchNorm recalibrated",
            "gradient-train-recalibrated",
        ),
    ],
)
def test_settings_are_told_apart_in_words_and_file_names(usual, setting, words, name):
    assert words in robustness.described(setting)
    [row] = usual.table().rows
    assert robustness_figure.figure_name(row, setting) == f"robustness-r-{name}"


def test_the_picture_has_a_line_and_a_band_per_method_chance_and_who_is_missing(usual, tmp_path):
    figure = picture(usual)
    accuracy, loss = figure.axes
    lines = {line.get_label(): line for line in accuracy.lines if line.get_label()[0] != "_"}
    assert list(lines) == ["sgd (n=2)", "fsam (n=2)"]
    assert lines["sgd (n=2)"].get_color() == METHOD_STYLES["sgd"].color
    assert lines["sgd (n=2)"].get_ydata().tolist() == pytest.approx([80, 40, 10])
    assert len(accuracy.collections) == len(loss.collections) == 2  # bands
    assert any(list(line.get_ydata()) == [10, 10] for line in accuracy.lines)  # chance, in %
    caption = figure.get_supxlabel()
    assert "not drawn: asam: 1 of 2 diverged; gsam: 1 of 1 planned" in caption
    assert "α" in accuracy.get_xlabel()
    written = save(figure, tmp_path, "picture")
    ElementTree.parse(written[1])
    before = [path.read_bytes() for path in written]
    again = save(picture(usual), tmp_path, "picture")
    assert [path.read_bytes() for path in again] == before


def test_an_infinite_loss_is_a_gap_in_the_picture(usual, tmp_path):
    at = usual.points
    at.loc[at["alpha"] == 2, "test_loss"] = [float("inf"), float("nan"), 1.0, 2.0, 3.0]
    save(picture(usual), tmp_path, "picture")


def test_labels_of_one_method_share_its_colour_and_differ_in_line(tmp_path):
    two = measured(
        tmp_path,
        points("sam-0.1", 0, (0.9, 0.5, 0.1), method="sam"),
        points("sam-0.2", 0, (0.9, 0.5, 0.1), method="sam"),
    )
    lines = list(picture(two).axes[0].lines)[:2]
    assert lines[0].get_color() == lines[1].get_color() == METHOD_STYLES["sam"].color
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_neither_torch_nor_matplotlib_is_imported_for_a_table():
    code = (
        "import sys, fsam_cli.reports.robustness\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_points_from_different_hardware_are_named(usual):
    assert not any("hardware" in note for note in usual.table().notes)
    usual.points.loc[0, "device_name"] = "another CPU"
    [note] = [note for note in usual.table().notes if "hardware" in note]
    assert note.endswith("a CPU, another CPU.")
