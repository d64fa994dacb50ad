"""A grid as a frame, its best point and its picture, from fabricated runs."""

from __future__ import annotations

import pandas as pd
import pytest

from fsam_cli.commands.sweep import verdict
from fsam_cli.records.statistics import Sample
from fsam_cli.reports._style import file_name, save
from fsam_cli.reports.sweep import (
    Selection,
    Swept,
    best_of,
    grid_frame,
    heat_map,
    picture_name,
    points_of,
)

BY = Selection("validation", "last")
GRID = {"a": [1, 2, 3], "b": [10, 20]}


def frame(means, grid=GRID, status="diverged"):
    """Of points with these means; one without a mean has a status that says why."""
    rows = [
        {
            **point,
            "mean": mean,
            "std": 0.0,
            "test_mean": mean,
            "test_std": 0.0,
            "sample": None if mean is None else Sample({0: mean}),
            **({"n": 0, "status": status} if mean is None else {"n": 2, "status": "done"}),
        }
        for point, mean in zip(points_of(grid), means, strict=True)
    ]
    return pd.DataFrame(rows)


def runs(*accuracies, **columns):
    """One for each seed, done; its path is its seed."""
    table = pd.DataFrame(
        {
            "path": [str(seed) for seed in range(len(accuracies))],
            "seed": range(len(accuracies)),
            "status": "done",
            "last_validation_accuracy": accuracies,
            "last_test_accuracy": 0.5,
        }
    )
    return table.assign(**columns)


def drawn(grid, table, by=BY):
    figure = heat_map(grid, table, title="t", by=by)
    texts = [text.get_text() for text in figure.axes[0].texts]
    return texts, " ".join(figure.get_supxlabel().split()), figure


def test_a_point_is_the_mean_and_std_of_its_runs():
    table = grid_frame({"a": [1]}, runs(0.2, 0.4), [["0", "1"]], BY)
    (row,) = table.to_dict("records")
    assert (row["n"], row["status"]) == (2, "done")
    assert (row["mean"], row["std"]) == (pytest.approx(0.3), pytest.approx(0.02**0.5))
    assert (row["test_mean"], row["test_std"]) == (0.5, 0)


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        (["done", "done", "planned"], "planned"),
        (["diverged", "done", "interrupted"], "diverged, interrupted"),
        (["failed"] * 3, "failed"),
    ],
)
def test_a_point_is_never_the_mean_of_the_runs_that_are_done(statuses, said):
    grid, folders = {"a": [1]}, [["0", "1", "2"]]
    (row,) = grid_frame(grid, runs(0.2, 0.4, 0.9, status=statuses), folders, BY).to_dict("records")
    assert (row["n"], row["status"]) == (0, said)
    assert row["mean"] is row["std"] is row["test_mean"] is row["test_std"] is None


def test_a_point_whose_runs_are_done_says_that_one_lacks_the_number():
    grid, folders = {"a": [1]}, [["0", "1", "2"]]
    (row,) = grid_frame(grid, runs(0.2, None, 0.9), folders, BY).to_dict("records")
    assert (row["n"], row["mean"], row["test_mean"]) == (0, None, None)
    assert row["status"] == "1 of 3 without last_validation_accuracy"


def test_a_grid_may_hold_null_and_lists():
    grid = {"train.clip_norm": [None, 1], "data.augment": [[], ["crop"]]}
    table = grid_frame(grid, runs(0.1, 0.4, 0.2, 0.3), [["0"], ["1"], ["2"], ["3"]], BY)
    best = best_of(grid, table)
    assert best.point == {"train.clip_norm": None, "data.augment": ["crop"]}
    assert sorted(round(near.difference, 6) for near in best.neighbours) == [-0.3, -0.1]
    drawn(grid, table)


def test_the_best_point_its_neighbours_and_the_edges():
    table = frame([0.1, 0.2, 0.3, 0.9, 0.5, 0.6])  # best: a=2, b=20
    best = best_of(GRID, table)
    assert best.point == {"a": 2, "b": 20}
    assert sorted(round(near.difference, 6) for near in best.neighbours) == [-0.7, -0.6, -0.3]
    assert best.on_edge == ["b"]
    assert "edge of the grid in b" in verdict(Swept(GRID, table), BY)
    assert "flattered" in verdict(Swept(GRID, table), Selection("test", "last"))
    assert "flattered" not in verdict(Swept(GRID, table), BY)


def test_a_neighbour_has_the_paired_interval_of_its_difference():
    # 2, 3 and 4 points worse: 3 with a standard deviation of 1; t(2, 0.975) = 4.302653.
    grid, folders = {"a": [1, 2]}, [["0", "1", "2"], ["3", "4", "5"]]
    table = grid_frame(grid, runs(0.9, 0.7, 0.8, 0.88, 0.67, 0.76, seed=[0, 1, 2] * 2), folders, BY)
    (near,) = best_of(grid, table).neighbours
    half = 0.01 / 3**0.5 * 4.302652729911275
    assert near.point == {"a": 2}
    assert near.difference == pytest.approx(-0.03)
    assert (near.low, near.high) == (pytest.approx(-0.03 - half), pytest.approx(-0.03 + half))
    said = verdict(Swept(grid, table), BY)
    assert "neighbour a=2: -3.00 (95 % interval -5.48 to -0.52)" in said
    assert "not corrected for choosing the best point from the same numbers" in said


def test_one_interval_among_the_neighbours_is_enough_for_its_caution():
    grid, folders = {"a": [1, 2, 3]}, [["0", "1"], ["2", "3"], ["4", "5"]]
    table = grid_frame(grid, runs(0.8, 0.8, 0.9, 0.9, 0.7, 0.8, seed=[0, 1] * 3), folders, BY)
    said = verdict(Swept(grid, table), BY)
    assert "neighbour a=1: -10.00 (no spread to test by)" in said
    assert "neighbour a=3: -15.00 (95 % interval " in said
    assert "not corrected for choosing" in said


def test_a_single_seed_tells_no_interval():
    table = frame([0.1, 0.2, 0.3, 0.9, 0.5, 0.6])
    assert {near.low for near in best_of(GRID, table).neighbours} == {None}
    assert "neighbour a=1, b=20: -70.00 (one seed only)\n" in verdict(Swept(GRID, table), BY)
    assert "not corrected for choosing" not in verdict(Swept(GRID, table), BY)


@pytest.mark.parametrize("other", [0.8, 0.9], ids=["a constant difference", "no difference"])
def test_a_difference_without_spread_says_why_it_has_no_interval(other):
    grid, folders = {"a": [1, 2]}, [["0", "1"], ["2", "3"]]
    table = grid_frame(grid, runs(0.9, 0.9, other, other, seed=[0, 1] * 2), folders, BY)
    (near,) = best_of(grid, table).neighbours
    assert (near.low, near.status) == (None, "no spread to test by")
    shown = f"{100 * (other - 0.9):+.2f}"
    assert f"neighbour a=2: {shown} (no spread to test by)" in verdict(Swept(grid, table), BY)


def test_the_best_of_a_part_of_the_grid_is_called_so():
    whole = verdict(Swept(GRID, frame([0.1, 0.2, 0.3, 0.9, 0.5, 0.6])), BY)
    assert whole.startswith("best by validation: a=2, b=20 with 90.00 %")
    part = verdict(Swept(GRID, frame([0.1, 0.2, None, 0.9, 0.5, None], status="planned")), BY)
    assert part.startswith(
        "best by validation of the 4 of 6 points that are complete: a=2, b=20 with 90.00 %"
    )
    assert "warning: the best of these lies on the edge of the grid in b" in part
    one = verdict(Swept(GRID, frame([None, 0.2, None, None, None, None])), BY)
    assert one.startswith("best by validation of the 1 of 6 points that is complete: a=1, b=20")


def test_points_that_are_measured_on_other_data_are_said_not_to_compare():
    for key, said in (("data.label_noise.rate", True), ("data.augment", False), ("a", False)):
        grid = {key: [0.2, 0.4]}
        table = grid_frame(grid, runs(0.8, 0.6), [["0"], ["1"]], BY)
        note = f"note: {key} changes what accuracy is measured on"
        assert (note in verdict(Swept(grid, table), BY)) == said


@pytest.mark.parametrize(
    ("values", "best", "neighbours", "edge"),
    [
        ([0.1, 0.01, 1], 0.1, [0.01, 1], False),
        ([0.1, 0.01, 1], 0.01, [0.1], True),
        ([0.1, 0.01, 1], 1, [0.1], True),
        (["batch", "group", "none"], "batch", ["group", "none"], False),
        (["batch", "group", "none"], "none", ["batch", "group"], False),
        ([True, False], False, [True], False),
        ([10, None, 1], 10, [1, None], True),
        ([10, None, 1], None, [10, 1], False),
        ([None, 1], 1, [None], False),
        ([1], 1, [], False),
    ],
)
def test_numbers_have_neighbours_and_edges_in_their_order_and_names_have_none(
    values, best, neighbours, edge
):
    grid = {"key": values}
    table = frame([0.9 if value == best else 0.5 for value in values], grid)
    table["key"] = pd.Series(values, dtype=object)
    found = best_of(grid, table)
    assert found.point == {"key": best}
    assert [near.point["key"] for near in found.neighbours] == neighbours
    assert found.on_edge == (["key"] if edge else [])


def test_a_diverged_point_is_crossed_out_and_never_best():
    table = frame([0.1, 0.2, 0.3, None, 0.5, 0.6])
    assert best_of(GRID, table).point == {"a": 3, "b": 20}
    texts, caption, _ = drawn(GRID, table)
    assert texts.count("×") == 1
    assert "60.0" in texts
    assert caption == "mean over n = 2 seeds at the last epoch; framed: best; ×: diverged"


def test_the_caption_says_what_was_not_done_and_nothing_of_crosses_where_there_are_none():
    waiting = frame([0.1, 0.2, 0.3, None, 0.5, 0.6], status="interrupted, planned")
    assert drawn(GRID, waiting)[1].endswith("; ×: interrupted, planned")
    assert "×" not in drawn(GRID, frame([0.1] * 6))[1]
    selected = drawn(GRID, frame([0.1] * 6), Selection("validation", "selected"))
    assert "at the selected epoch" in selected[1]


def test_a_grid_without_a_complete_point_has_no_best_and_is_all_crosses(tmp_path):
    table = frame([None] * 6, status="planned")
    assert best_of(GRID, table) is None
    assert "no best one" in verdict(Swept(GRID, table), BY)
    texts, caption, figure = drawn(GRID, table)
    assert texts == ["×"] * 6
    assert caption == "×: planned"
    (axes,) = figure.axes  # no scale
    assert not axes.patches
    save(figure, tmp_path, "empty")


def test_the_picture_has_its_numbers_in_order_and_frames_the_best():
    grid = {"a": [3, 1, 2], "b": [20, 10]}
    table = frame([0.5, 0.6, 0.1, 0.2, 0.3, 0.9], grid)  # best: a=2, b=10
    texts, _, figure = drawn(grid, table)
    assert texts == ["20.0", "10.0", "90.0", "30.0", "60.0", "50.0"]
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "20"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "3"]
    (square,) = axes.patches
    assert square.get_xy() == (-0.5, 0.5)


def test_grids_over_one_method_have_pictures_of_different_names():
    key = "methods.sam-0.1.rho"
    grids = [None, {key: [0.1, 0.2]}, {key: [0.1, 0.3]}, {"train.lr": [0.1, 0.2]}]
    many = [number / 1000 for number in range(100)]
    grids += [{key: many}, {key: [*many, 1.0]}]
    names = [file_name(picture_name("quickstart", "sam-0.1", grid)) for grid in grids]
    assert names[0] == "sweep-quickstart-sam-0.1"
    assert names[1] == "sweep-quickstart-sam-0.1-rho=0.1_0.2"
    assert len(set(names)) == len(names)
    assert all(len(f"{name}.png") <= 100 for name in names)


def test_a_point_that_the_test_set_chose_is_framed_as_such():
    _, caption, _ = drawn(GRID, frame([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), Selection("test", "last"))
    assert "framed: best, selected on test" in caption


def test_the_first_of_equal_points_is_the_best():
    assert best_of(GRID, frame([0.1, 0.5, 0.3, 0.5, 0.2, 0.5])).point == {"a": 1, "b": 20}


def test_the_colours_end_above_a_point_that_lies_far_below_the_others():
    grid = {"a": [1, 2, 3], "b": [10, 20, 30]}
    near = [0.80, 0.801, 0.802, 0.803, 0.804, 0.805, 0.806, 0.807]
    figure = drawn(grid, frame([0.01, *near], grid))[2]
    lowest, highest = figure.axes[0].images[0].get_clim()
    assert 79 < lowest < 80.0 and highest == pytest.approx(80.7)
    assert figure.axes[0].images[0].colorbar.extend == "min"
    figure = drawn(grid, frame([0.799, *near], grid))[2]
    assert figure.axes[0].images[0].get_clim()[0] == pytest.approx(79.9)
    assert figure.axes[0].images[0].colorbar.extend == "neither"
