"""Curves to numbers and pictures, from frames alone."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from fsam_cli.records.perturbation import PerturbationSetting
from fsam_cli.records.plain import document_text
from fsam_cli.reports import robustness, robustness_figure
from fsam_cli.reports._style import METHOD_STYLES, save
from tests.support.perturbed import ALPHAS, frame, left_out, points


def as_document(table):
    """As `fsam perturb --format json` prints it."""
    return json.loads(document_text(robustness.as_json(table, PerturbationSetting())))


def scores(table):
    return pd.DataFrame(map(robustness.score, robustness.cells_of(table)))


@pytest.fixture
def usual():
    return frame(
        points("sgd", 0, (0.9, 0.5, 0.1)),
        points("sgd", 1, (0.7, 0.3, 0.1)),
        points("fsam", 0, (0.9, 0.8, 0.7)),
        points("fsam", 1, (0.9, 0.8, 0.3)),
        points("asam", 0, (0.9, 0.7, 0.6)),
        left_out("asam", 1),
        left_out("gsam", 0, "planned", ""),
    )


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


def test_the_summary_is_mean_and_std_over_seeds_and_counts_who_is_missing(usual):
    table = robustness.summary(usual)
    sgd = table[table["label"] == "sgd"]
    assert sgd["alpha"].tolist() == [0, 1, 2]
    assert sgd["accuracy_mean"].tolist() == pytest.approx([0.8, 0.4, 0.1])
    assert sgd["accuracy_std"].tolist() == pytest.approx([0.2 / 2**0.5, 0.2 / 2**0.5, 0])
    assert sgd["loss_mean"].tolist() == pytest.approx([1.2, 1.6, 1.9])
    asam = table[table["label"] == "asam"]
    assert asam["alpha"].tolist() == [0, 1, 2]
    assert set(asam["n"]) == set(asam["left_out"]) == {1}
    numbers = ["accuracy_mean", "accuracy_std", "loss_mean", "loss_std", "draws_std"]
    assert asam[numbers].isna().all(axis=None)  # never the mean of the seeds that are left
    gsam = table[table["label"] == "gsam"]
    assert gsam[["n", "left_out"]].to_numpy().tolist() == [[0, 1]]
    assert gsam["alpha"].isna().all()


def test_scores_average_the_scores_of_runs_and_say_how_many_lose_half(usual):
    found = scores(usual).set_index("label")
    assert list(found.index) == ["sgd", "fsam", "asam", "gsam"]
    # Seeds lose half, 0.45 and 0.35, after an eighth of the way to 0.1 and of the way to 0.3.
    expected = [1 + 0.05 / 0.4, 0.35 / 0.4]
    assert found.loc["sgd", "half_alpha_mean"] == pytest.approx(sum(expected) / 2)
    assert found.loc["fsam", "half_alpha_n"] == 1
    assert found.loc["fsam", ["half_alpha_mean", "half_alpha_std"]].isna().all()
    assert found.loc["fsam", "area_mean"] == pytest.approx((0.8 + 0.7) / 2)
    assert found.loc["sgd", "area_mean"] == pytest.approx((0.5 + 0.35) / 2)
    left_out = found.loc[["asam", "gsam"], ["half_alpha_mean", "area_mean", "area_std"]]
    assert left_out.isna().all(axis=None)


def counts(frame):
    return scores(frame)[["n", "left_out"]].to_numpy().tolist()


def test_a_planned_seed_of_which_there_is_no_run_leaves_no_mean():
    some = frame(*(points("sam", seed, (0.9, 0.5, 0.1), planned=(0, 1, 2)) for seed in (0, 1)))
    row = robustness.tables(some, every_alpha=True)["r"][0]
    assert row.pop("n") == "2 of 3"
    assert set(row.values()) == {"sam", ""}
    notes = robustness.notes(some, PerturbationSetting())
    assert "not measured: r/sam seed 2: planned, and not found here" in notes


def test_a_copy_of_a_run_is_not_left_out_and_a_diverged_copy_takes_its_seed():
    runs = [points("sam", seed, (0.9, 0.5, 0.1), planned=(0, 1, 2)) for seed in (0, 1, 2)]
    copy = left_out("sam", 1, "repeated", "the same run as another", planned=(0, 1, 2))
    assert counts(frame(*runs, copy)) == [[3, 0]]
    assert robustness.tables(frame(*runs, copy), every_alpha=True)["r"][0]["α=0"] == "90.0±0.0"
    # The run that the copy repeats is itself not measured.
    lost = left_out("sam", 1, "unmeasurable", "no weights", planned=(0, 1, 2))
    assert counts(frame(runs[0], runs[2], lost, copy)) == [[2, 1]]
    assert counts(frame(*runs, left_out("sam", 1, planned=(0, 1, 2)))) == [[2, 1]]


def test_weight_files_have_no_plan_and_count_each_by_its_path():
    own = {"cell": "", "planned": ()}
    both = frame(*(points("w", 0, (0.9, 0.5, 0.1), run=f"{at}/w.pt", **own) for at in "ab"))
    assert counts(both) == [[2, 0]]
    lost = left_out("w", 0, "unmeasurable", "no weights", run="c/w.pt", **own)
    assert counts(pd.concat([both, frame(lost)])) == [[2, 1]]


def test_draws_are_averaged_within_their_run_first():
    noisy = frame(
        points("sgd", 0, (0.9, 0.8, 0.6), draw=0),
        points("sgd", 0, (0.9, 0.6, 0.2), draw=1),
        points("sgd", 1, (0.9, 0.7, 0.4), draw=0),
        points("sgd", 1, (0.9, 0.7, 0.4), draw=1),
    )
    table = robustness.summary(noisy)
    assert set(table["n"]) == {2}
    assert table["accuracy_mean"].tolist() == pytest.approx([0.9, 0.7, 0.4])
    assert table["accuracy_std"].tolist() == pytest.approx([0, 0, 0])
    assert table["draws_std"].tolist() == pytest.approx([0, 0.1 / 2**0.5, 0.2 / 2**0.5])
    text = "\n".join(robustness.notes(noisy, PerturbationSetting("gaussian")))
    assert "mean of 2 draws" in text
    assert "at most 28.28 percentage points" in text


def test_configurations_that_share_a_label_are_never_pooled():
    both = frame(
        points("sgd", 0, (0.9, 0.5, 0.1), cell="aa"), points("sgd", 0, (0.5, 0.3, 0.1), cell="bb")
    )
    assert robustness.summary(both)["n"].tolist() == [1] * 6
    assert [row["method"] for row in robustness.tables(both, every_alpha=False)["r"]] == [
        "sgd [aa]",
        "sgd [bb]",
    ]


def test_configurations_of_a_label_are_named_by_their_settings():
    long = [
        f"weight_decay=0.0001, batch_size={size}, momentum=0.9, nesterov=true" for size in (8, 16)
    ]
    cells = [
        ("sgd", "aa", "lr=0.1"),
        *(("sam", cell, settings) for cell, settings in zip(("bb", "cc"), long, strict=True)),
        ("fsam", "dd", "gamma=0.1"),
        ("fsam", "ee", "gamma=0.2"),
    ]
    both = frame(
        *(points(label, 0, (0.9, 0.5, 0.1), cell=cell, settings=own) for label, cell, own in cells)
    )
    rows = robustness.tables(both, every_alpha=False)["r"]
    assert [row["method"] for row in rows] == [
        "sgd [lr=0.1]",
        *(f"sam [{settings}]" for settings in long),
        "fsam [gamma=0.1]",
        "fsam [gamma=0.2]",
    ]
    [legend] = robustness_figure.figure(both, "r", PerturbationSetting()).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "sgd [lr=0.1] (n=1)",
        "sam [bb] (n=1)",
        "sam [cc] (n=1)",
        "fsam [gamma=0.1] (n=1)",
        "fsam [gamma=0.2] (n=1)",
    ]


def test_the_table_shows_every_method_and_nobody_is_forgotten(usual):
    rows = robustness.tables(usual, every_alpha=True)["r"]
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
    for row, n in ((rows[2], "1 of 2"), (rows[3], "0 of 1")):
        assert row.pop("n") == n
        assert set(row.values()) == {row["method"], ""}
    notes = robustness.notes(usual, PerturbationSetting())
    assert "not measured: runs/r/asam/seed1-c0: diverged: loss not finite" in notes
    assert "not measured: runs/r/gsam/seed0-c0: planned" in notes


def test_who_never_loses_half_is_not_ranked_behind_who_does():
    """A mean over the runs that lose half would call `held` the weaker one, 1.7 against 1.9."""
    held = [points("held", seed, (0.9, 0.8, last)) for seed, last in ((0, 0.3), (1, 0.8))]
    fell = [points("fell", seed, (0.9, 0.8, 0.41)) for seed in (0, 1)]
    rows = robustness.tables(frame(*held, *fell), every_alpha=True)["r"]
    assert [row["half lost at α"] for row in rows] == ["> 2 (1 of 2 lost half)", "1.90±0.00"]
    cells = as_document(frame(*held, *fell))["cells"]
    assert [cell["half_alpha_mean"] for cell in cells] == [None, pytest.approx(1 + 0.35 / 0.39)]
    assert [cell["half_alpha_n"] for cell in cells] == [1, 2]


def test_a_method_that_never_loses_half_says_beyond_what():
    rows = robustness.tables(frame(points("sam", 0, (0.9, 0.8, 0.7))), every_alpha=False)["r"]
    assert rows[0]["half lost at α"] == "> 2"
    assert rows[0]["α=0"] == "90.0"  # a single seed has no spread


@pytest.mark.parametrize(
    ("top", "half"),
    [
        (1e100, "6.06e+99±6.19e+98"),
        (1e7, "6.06e+06±6.19e+05"),
        (1e6, "606250±61872"),
        (1e-6, "0.00000061±0.00000006"),
        (1e-100, "6.06e-101±6.19e-102"),
    ],
)
def test_strengths_of_any_size_are_readable_and_overflow_nothing(top, half):
    alphas = (0.0, top / 2, top)
    wide = frame(
        points("sgd", 0, (0.9, 0.5, 0.1), alphas=alphas),
        points("sgd", 1, (0.9, 0.6, 0.1), alphas=alphas),
    )
    rows = robustness.tables(wide, every_alpha=False)["r"]  # a warning is an error
    assert rows[0]["half lost at α"] == half
    assert rows[0]["area (%)"] == "52.5±3.5"


def test_long_names_leave_the_picture_its_room(tmp_path):
    recipe, setting = "recipe-" * 30, PerturbationSetting(relative="filter", recalibrated=True)
    labels = [f"a-method-with-a-long-name-{i}" + "x" * 60 for i in range(3)]
    lost = [left_out(f"another-method-with-a-long-name-{i}", 0, recipe=recipe) for i in range(40)]
    parts = [points(label, 0, (0.9, 0.5, 0.1), recipe=recipe) for label in labels]
    drawn = robustness_figure.figure(frame(*parts, *lost), recipe, setting)
    [path, _] = save(drawn, tmp_path, robustness_figure.figure_name(recipe, setting))
    assert len(path.name) <= 100
    assert path.stem.endswith("-gradient-train-filter-recalibrated")
    assert all(axes.get_position().width > 0.2 for axes in drawn.axes)
    [legend] = drawn.legends
    boxes = [each.get_window_extent() for each in (legend, *drawn.texts)]
    assert all(box.x0 >= 0 and box.x1 <= drawn.bbox.width for box in boxes)
    assert not any(boxes[0].overlaps(box) for box in boxes[1:])
    assert drawn.get_supxlabel().endswith("…")


def test_a_terminal_gets_the_control_the_ends_and_even_ratios_between():
    alphas = (0.0, 0.1, 0.59, 1.08, 1.57, 2.06, 2.55, 3.04, 3.53, 4.02, 4.51, 5.0)
    wide = frame(points("sgd", 0, [0.5] * 12, alphas=alphas))
    short = robustness.tables(wide, every_alpha=False)["r"][0]
    assert [key for key in short if key.startswith("α")] == [
        "α=0",
        "α=0.1",
        "α=0.59",
        "α=1.57",
        "α=5",
    ]
    assert len(robustness.tables(wide, every_alpha=True)["r"][0]) == 12 + 4


def test_each_recipe_has_its_own_table():
    two = frame(
        points("sgd", 0, (0.9, 0.5, 0.1)), points("sgd", 0, (0.9, 0.5, 0.1), recipe="other")
    )
    assert list(robustness.tables(two, every_alpha=False)) == ["r", "other"]


def test_json_has_every_number_and_null_for_what_is_none(usual):
    usual.loc[(usual["label"] == "sgd") & (usual["alpha"] == 2), "test_loss"] = float("inf")
    usual.loc[(usual["run"] == "runs/r/sgd/seed0-c0") & (usual["alpha"] == 1), "test_loss"] = None
    document = as_document(usual)
    assert document["schema"] == robustness.SCHEMA
    assert document["setting"]["direction"] == "gradient"
    by_label = {cell["label"]: cell for cell in document["cells"]}
    losses = [point["loss_mean"] for point in by_label["sgd"]["points"]]
    assert losses == [pytest.approx(1.2), None, None]  # never the mean of the seeds that are left
    assert by_label["sgd"]["points"][1]["accuracy_mean"] == pytest.approx(0.4)
    assert [point["accuracy_mean"] for point in by_label["asam"]["points"]] == [None] * 3
    assert by_label["gsam"]["points"] == []
    assert by_label["gsam"]["half_alpha_mean"] is None
    assert [run["status"] for run in document["left_out"]] == ["diverged", "planned"]


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
def test_settings_are_told_apart_in_words_and_file_names(setting, words, name):
    assert words in robustness.described(setting)
    assert robustness_figure.figure_name("quick", setting) == f"robustness-quick-{name}"


def test_the_picture_has_a_line_and_a_band_per_method_chance_and_who_is_missing(usual, tmp_path):
    figure = robustness_figure.figure(usual, "r", PerturbationSetting())
    accuracy, loss = figure.axes
    lines = {line.get_label(): line for line in accuracy.lines if line.get_label()[0] != "_"}
    assert list(lines) == ["sgd (n=2)", "fsam (n=2)"]
    assert lines["sgd (n=2)"].get_color() == METHOD_STYLES["sgd"].color
    assert lines["sgd (n=2)"].get_ydata().tolist() == pytest.approx([80, 40, 10])
    assert len(accuracy.collections) == len(loss.collections) == 2  # bands
    assert any(list(line.get_ydata()) == [10, 10] for line in accuracy.lines)  # chance, in %
    caption = figure.get_supxlabel()
    assert "not drawn: asam, 1 of 2 runs measured; gsam, 0 of 1 runs measured" in caption
    assert "α" in accuracy.get_xlabel()
    written = save(figure, tmp_path, "picture")
    ElementTree.parse(written[1])
    before = [path.read_bytes() for path in written]
    again = save(robustness_figure.figure(usual, "r", PerturbationSetting()), tmp_path, "picture")
    assert [path.read_bytes() for path in again] == before


def test_an_infinite_loss_is_a_gap_in_the_picture(usual, tmp_path):
    usual.loc[usual["alpha"] == 2, "test_loss"] = [float("inf"), float("nan"), 1.0, 2.0, 3.0]
    save(robustness_figure.figure(usual, "r", PerturbationSetting()), tmp_path, "picture")


def test_labels_of_one_method_share_its_colour_and_differ_in_line():
    two = frame(
        points("sam-0.1", 0, (0.9, 0.5, 0.1), method="sam"),
        points("sam-0.2", 0, (0.9, 0.5, 0.1), method="sam"),
    )
    lines = list(robustness_figure.figure(two, "r", PerturbationSetting()).axes[0].lines)[:2]
    assert lines[0].get_color() == lines[1].get_color() == METHOD_STYLES["sam"].color
    assert lines[0].get_linestyle() != lines[1].get_linestyle()


def test_neither_torch_nor_matplotlib_is_imported_for_a_table():
    code = (
        "import sys, fsam_cli.reports.robustness\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_points_from_different_hardware_are_named(usual):
    assert not any("hardware" in note for note in robustness.notes(usual, PerturbationSetting()))
    usual.loc[0, "device_name"] = "another CPU"
    [note] = [note for note in robustness.notes(usual, PerturbationSetting()) if "hardware" in note]
    assert note.endswith("a CPU, another CPU.")
