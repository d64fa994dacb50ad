"""Pictures: drawn from frames alone, whole files, the same bytes twice."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pandas as pd
import pytest

from fsam_cli.records.summary import Cell, Row
from fsam_cli.reports._style import METHOD_STYLES, save, style_of
from fsam_cli.reports.figures import against_radius, over, pictures, styles_of


def cell(label, method, statuses=("done", "done"), folder=None, **settings):
    runs = pd.DataFrame(
        {
            "seed": range(len(statuses)),
            "status": statuses,
            "label": label,
            "path": [str(folder / f"{label}-{i}") if folder else "" for i in range(len(statuses))],
            "last_test_accuracy": [0.8 + 0.02 * i for i in range(len(statuses))],
            "selected_test_accuracy": [0.85 + 0.02 * i for i in range(len(statuses))],
        }
    )
    return Cell(
        recipe="r",
        label=label,
        hash="0",
        config={"method": {"name": method, **settings}},
        runs=runs,
        expected_seeds=tuple(range(len(statuses))),
    )


@pytest.fixture
def row(tmp_path):
    cells = {
        "sgd": cell("sgd", "sgd", folder=tmp_path),
        "sam-0.1": cell("sam-0.1", "sam", folder=tmp_path, rho=0.1),
        "sam-0.2": cell("sam-0.2", "sam", folder=tmp_path, rho=0.2),
        "fsam": cell("fsam", "fsam", ("done", "diverged"), folder=tmp_path, gamma=0.1),
    }
    for one in cells.values():
        for position, path in enumerate(one.runs["path"]):
            folder = tmp_path / path.rpartition("/")[2]
            folder.mkdir()
            pd.DataFrame(
                {
                    "epoch": [1, 2, 3],
                    "test_accuracy": [0.5, 0.6, 0.7 + 0.1 * position],
                    "train_loss": [2.0, 1.5, 1.0],
                    "test_loss": [2.0, 1.5, 1.0],
                    "corrupted_fit": [0.1, 0.2, 0.3],
                    "sample_gradients": [100, 200, 300],
                }
            ).to_csv(folder / "metrics.csv", index=False)
    return Row("r", "", cells)


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))


def test_every_picture_of_a_row_is_drawn(row):
    names = [picture.name for picture in pictures([row])]
    assert names == [
        "r-accuracy",
        "r-train-loss",
        "r-test-loss",
        "r-noise-fit",
        "r-cost",
        "r-radius",
    ]


def test_a_cell_that_is_not_complete_is_named_and_not_drawn(row):
    for picture in pictures([row]):
        shown = texts(picture.figure)
        assert "not drawn: fsam: 1 of 2 diverged" in shown
        assert "sam-0.1 (n=2)" in shown
        assert "fsam (n=" not in shown


def test_lines_are_means_and_bands_reach_from_the_lowest_to_the_highest_seed(row):
    from fsam_cli.records.curves import load_curves

    curves = load_curves(row.cells["sgd"].runs)
    figure = over(curves, {"sgd": METHOD_STYLES["sgd"]}, "epoch", "test_accuracy", scale=100)
    axes = figure.axes[0]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([50, 60, 75])
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((50, 80))


def test_accuracy_stands_over_the_radius_and_methods_without_one_are_lines(row):
    figure = against_radius(row, styles_of(row))
    positions = [c.lines[0].get_xdata()[0] for c in figure.axes[0].containers]
    assert positions == pytest.approx([0.1, 0.104, 0.2, 0.208])
    assert any(list(line.get_xdata()) == [0, 1] for line in figure.axes[0].lines)


def test_files_are_valid_and_the_same_bytes_twice(row, tmp_path):
    first = {p.name: p.figure for p in pictures([row])}["r-accuracy"]
    second = {p.name: p.figure for p in pictures([row])}["r-accuracy"]
    one = [p.read_bytes() for p in save(first, tmp_path / "one", "x")]
    two = [p.read_bytes() for p in save(second, tmp_path / "two", "x")]
    assert one == two
    assert one[0].startswith(b"\x89PNG")
    assert ElementTree.fromstring(one[1]).tag.endswith("svg")


def test_labels_of_one_method_share_its_colour_and_differ_in_line_and_marker(row):
    styles = styles_of(row)
    one, two = styles["sam-0.1"], styles["sam-0.2"]
    assert one.color == two.color
    assert one.linestyle != two.linestyle
    assert one.marker != two.marker
    assert len({style.color for style in METHOD_STYLES.values()}) == len(METHOD_STYLES)
    assert style_of("my_method") == style_of("my_method")


def test_pictures_need_no_torch():
    code = "import fsam_cli.reports.figures, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
