"""Pictures: drawn from frames alone, whole files, the same bytes twice."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from fsam_cli.parts import catalogue
from fsam_cli.records.summary import Cell, Row
from fsam_cli.reports._style import METHOD_STYLES, file_name, save, style_of, styles_of
from fsam_cli.reports.figures import _side_by_side, against_radius, methods_of, over, pictures


def cell(label, method, statuses=("done", "done"), folder=None, **settings):
    config = {"method": {"name": method, **settings}, "train": {"epochs": 3}}
    runs = pd.DataFrame(
        {
            "seed": range(len(statuses)),
            "status": statuses,
            "label": label,
            "config": [config for _ in statuses],
            "path": [str(folder / f"{label}-{i}") if folder else "" for i in range(len(statuses))],
            "last_test_accuracy": [0.8 + 0.02 * i for i in range(len(statuses))],
            "selected_test_accuracy": [0.85 + 0.02 * i for i in range(len(statuses))],
            "tuned": [[] for _ in statuses],
        }
    )
    return Cell(
        recipe="r",
        label=label,
        hash="0",
        config=config,
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
    """Of the whole picture, in one line."""
    found = figure.findobj(lambda a: hasattr(a, "get_text"))
    return " ".join(text.get_text() for text in found).replace("\n", " ")


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


def test_learning_rates_of_the_methods_own_are_told_in_every_picture(row):
    assert not any("own" in texts(picture.figure) for picture in pictures([row]))
    for runs in (cell.runs for cell in row.cells.values()):
        runs["tuned"] = [["train.lr"]] * len(runs)
    for picture in pictures([row]):
        assert "train.lr: each method's own" in texts(picture.figure)


def test_a_cell_that_is_not_complete_is_named_and_not_drawn(row):
    for picture in pictures([row]):
        shown = texts(picture.figure)
        assert "not drawn: fsam: 1 of 2 diverged" in shown
        assert "sam-0.1 (n=2)" in shown
        assert "fsam (n=" not in shown


def test_lines_are_means_and_bands_reach_from_the_lowest_to_the_highest_seed(row):
    from fsam_cli.records.curves import load_curves

    curves = load_curves(row.cells["sgd"].runs).epochs
    figure = over(curves, {"sgd": METHOD_STYLES["sgd"]}, "epoch", "test_accuracy", scale=100)
    axes = figure.axes[0]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([50, 60, 75])
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((50, 80))


def test_a_seed_without_a_finite_number_is_a_gap_and_not_a_mean_of_the_others():
    curves = pd.DataFrame(
        {
            "label": "sgd",
            "seed": [0, 0, 0, 1, 1, 1],
            "epoch": [1, 2, 3, 1, 2, 3],
            "test_loss": [2.0, math.inf, 1.0, 4.0, 2.0, 3.0],
        }
    )
    figure = over(curves, {"sgd": METHOD_STYLES["sgd"]}, "epoch", "test_loss", scale=1)
    loss = figure.axes[0].lines[0].get_ydata().tolist()
    assert (loss[0], math.isnan(loss[1]), loss[2]) == (3, True, 2)


def test_epochs_that_were_not_evaluated_are_no_gaps():
    curves = pd.DataFrame(
        {"label": "sgd", "seed": 0, "epoch": [1, 2, 3], "test_loss": [math.nan, 2.0, 1.0]}
    )
    figure = over(curves, {"sgd": METHOD_STYLES["sgd"]}, "epoch", "test_loss", scale=1)
    assert figure.axes[0].lines[0].get_xdata().tolist() == [2, 3]


def test_runs_whose_metrics_cannot_be_read_are_named_and_all_other_curves_drawn(row):
    (Path(row.cells["sgd"].runs["path"][1]) / "metrics.csv").unlink()
    told = []
    drawn = {picture.name: picture.figure for picture in pictures([row], warn=told.append)}
    assert len(drawn) == 6
    assert told == [
        "r: no curves of sgd: metrics.csv of seed 1 is unreadable (No such file or directory)"
    ]
    for name, figure in drawn.items():
        assert ("sgd (n=2)" in texts(figure)) == (name == "r-radius"), name  # that needs no curves
        assert ("sgd: metrics.csv of seed 1" in texts(figure)) == (name != "r-radius"), name
        assert "sam-0.1 (n=2)" in texts(figure)


def test_without_any_curve_the_radius_is_still_drawn(row):
    for one in row.cells.values():
        for path in one.runs["path"]:
            (Path(path) / "metrics.csv").write_text("epoch,loss\n1,2\n")
    told = []
    assert [picture.name for picture in pictures([row], warn=told.append)] == ["r-radius"]
    assert [line.split(":")[1] for line in told] == [
        *(" no curves of sgd", " no curves of sam-0.1", " no curves of sam-0.2")
    ]


@pytest.mark.parametrize("epochs", [1, 2, 3, 200])
def test_ticks_of_epochs_are_whole_numbers(epochs):
    curves = pd.DataFrame(
        {"label": "sgd", "seed": 0, "epoch": range(1, epochs + 1), "test_accuracy": 0.5}
    )
    figure = over(curves, {"sgd": METHOD_STYLES["sgd"]}, "epoch", "test_accuracy", scale=100)
    figure.canvas.draw()
    ticks = figure.axes[0].get_xticks()
    assert len(ticks) > 0
    assert all(float(tick).is_integer() for tick in ticks), ticks


def test_accuracy_stands_over_the_radius_and_methods_without_one_are_lines(row):
    figure = against_radius(row, styles_of(methods_of(row)))
    positions = [c.lines[0].get_xdata()[0] for c in figure.axes[0].containers]
    assert positions == pytest.approx([0.1, 0.104, 0.2, 0.208])
    across = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [0, 1]]
    drawn = [(line.get_ydata()[0], line.get_linewidth()) for line in across]
    assert drawn == [(pytest.approx(81), 1.8), (pytest.approx(86), 0.7)]  # last, selected
    [band] = figure.axes[0].patches  # of .8 and .82: 81 with a standard deviation of 1.4142
    low, high = band.get_y(), band.get_y() + band.get_height()
    assert (low, high) == (pytest.approx(81 - 2**0.5), pytest.approx(81 + 2**0.5))


@pytest.mark.parametrize(("radii", "span"), [((0.1,), 4), ((0.1, 100), 1040**1.3)])
def test_the_axis_of_radii_is_wide_enough_to_show_what_stands_together(radii, span):
    cells = {f"sam-{rho}": cell(f"sam-{rho}", "sam", rho=rho) for rho in radii}
    one = Row("r", "", cells)
    axes = against_radius(one, styles_of(methods_of(one))).axes[0]
    low, high = axes.get_xlim()
    positions = [c.lines[0].get_xdata()[0] for c in axes.containers]
    assert positions == pytest.approx([place for rho in radii for place in (rho, 1.04 * rho)])
    assert high / low == pytest.approx(span)


def test_methods_of_one_radius_stand_side_by_side_around_it():
    places = _side_by_side({"sam": 0.1, "fsam": 0.1, "asam": 0.5})
    assert places["sam"] < 0.1 < places["fsam"]
    assert places["sam"] * places["fsam"] == pytest.approx(0.01)
    assert places["asam"] == 0.5


@pytest.mark.parametrize("radius", ["x", None, True, [0.1], -0.1, 0, 10**400])
def test_a_radius_that_is_no_number_is_named_and_not_drawn(radius, tmp_path):
    cells = {
        "sam": cell("sam", "sam", folder=tmp_path, rho=radius),
        "asam": cell("asam", "asam", folder=tmp_path, rho=0.5),
    }
    (drawn,) = pictures([Row("r", "", cells)])
    assert [c.lines[0].get_xdata()[0] for c in drawn.figure.axes[0].containers] == [0.5, 0.52]
    assert "sam (n=" not in texts(drawn.figure).replace("asam (n=", "")
    said = " ".join(texts(drawn.figure).split())
    assert f"not drawn: sam: its radius '{str(radius)[:20]}'" in said


LONG = ", ".join(
    [
        'augment=["crop", "flip", "cutout"], label_noise.rate=0.4, label_noise.flip=different',
        "validation=0.1, model.norm=group, precision=bf16, channels_last=true, threads=2",
        "train.batch_size=256, train.lr=0.2, train.optimizer.name=adamw, train.ema=0.999",
        "train.optimizer.weight_decay=0.01, train.schedule=constant, train.warmup_epochs=2.5",
    ]
)


def overlap(figure, one, other):
    """Whether two artists stand on one another, or one of them beyond the edge."""
    figure.canvas.draw()
    boxes = [artist.get_window_extent() for artist in (one, other)]
    inside = all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
    return boxes[0].overlaps(boxes[1]) or not inside


def test_long_names_leave_the_axes_their_room(row, tmp_path):
    label = "a-label-" + "x" * 80
    cells = {**row.cells, label: replace(row.cells["sgd"], label=label)}
    cells[label].runs["label"] = "sgd"
    for picture in pictures([Row("quickstart", LONG, cells)]):
        figure = picture.figure
        [path, _] = save(figure, tmp_path / "figures", picture.name)  # a warning is an error
        assert len(path.name) <= 100
        axes = figure.axes[0].get_position()
        assert axes.width > 0.5 and axes.height > 0.5
        [legend] = figure.legends
        assert not overlap(figure, legend, figure.texts[0])
        assert figure.texts[0].get_text().endswith("…")
        assert label not in texts(figure)


def test_a_legend_of_many_labels_makes_the_picture_higher(tmp_path):
    cells = {f"sam-{i}": cell(f"sam-{i}", "sam", folder=tmp_path, rho=0.1) for i in range(40)}
    (picture,) = pictures([Row("r", "", cells)])
    save(picture.figure, tmp_path / "figures", picture.name)
    [legend] = picture.figure.legends
    box = legend.get_window_extent()
    assert len(legend.get_texts()) == 40
    assert box.y0 >= 0
    assert box.y1 <= picture.figure.bbox.height


def test_a_picture_of_nothing_says_what_is_missing(tmp_path):
    cells = {"sam": cell("sam", "sam", folder=tmp_path, rho="x")}
    (picture,) = pictures([Row("r", "", cells)])
    save(picture.figure, tmp_path / "figures", picture.name)
    assert "not drawn: sam: its radius 'x'" in texts(picture.figure)


def test_file_names_tell_rows_apart_stay_short_and_in_their_folder(tmp_path):
    names = [
        *("plain-row", "label_noise.rate=0.4, model.norm=group", LONG, LONG + "1", LONG[:-1]),
        *("../../evil", "..__.._evil", "/evil", "evil", "a/b", "a\\b", "a_b", ".hidden", ""),
        *("new\nline", "null\0", "CON:", "é" * 300, "\ud800", "-"),
    ]
    for ending in ("", "-accuracy", "-gradient-train-filter-recalibrated"):
        made = [file_name(name, ending) for name in names]
        assert len(set(made)) == len(names)
        for name in made:
            assert re.fullmatch(r"[A-Za-z0-9_=][A-Za-z0-9._=-]*", name), name
            assert len(f"{name}.png") <= 100
            assert name.endswith(ending)
            assert file_name(name) == name
    assert file_name("label_noise.rate=0.4, model.norm=group", "-cost") == (
        "label_noise.rate=0.4__model.norm=group-cost"
    )


def test_a_name_with_a_way_out_is_saved_in_the_folder(row, tmp_path):
    figure = against_radius(row, styles_of(methods_of(row)))
    written = save(figure, tmp_path / "a" / "b" / "figures", "../../evil")
    assert {path.parent.name for path in written} == {"figures"}
    assert not list(tmp_path.rglob("evil*"))


def test_dollars_in_a_name_are_no_formula(row, tmp_path):
    for picture in pictures([Row("r", "model.name=$\\frac$", row.cells)]):
        save(picture.figure, tmp_path / "figures", picture.name)


def test_files_are_valid_and_the_same_bytes_twice(row, tmp_path):
    first = {p.name: p.figure for p in pictures([row])}["r-accuracy"]
    second = {p.name: p.figure for p in pictures([row])}["r-accuracy"]
    one = [p.read_bytes() for p in save(first, tmp_path / "one", "x")]
    two = [p.read_bytes() for p in save(second, tmp_path / "two", "x")]
    for axes in first.axes:  # what the solver of the layout found, without its last bits
        assert all(bound == round(bound, 6) for bound in axes.get_position(original=True).bounds)
    assert one == two
    assert one[0].startswith(b"\x89PNG")
    assert ElementTree.fromstring(one[1]).tag.endswith("svg")


def test_labels_of_one_method_share_its_colour_and_differ_in_line_and_marker(row):
    styles = styles_of(methods_of(row))
    one, two = styles["sam-0.1"], styles["sam-0.2"]
    assert one.color == two.color
    assert one.linestyle != two.linestyle
    assert one.marker != two.marker
    assert len({style.color for style in METHOD_STYLES.values()}) == len(METHOD_STYLES)
    assert style_of("my_method") == style_of("my_method")


def test_what_stands_first_of_each_method_has_the_same_line_and_so_has_the_second():
    labels = {"sam-0.1": "sam", "sam-0.2": "sam", "fsam-0.1": "fsam", "fsam-0.2": "fsam"}
    styles = styles_of({**labels, "asam": "asam"})
    lines = {label: styles[label].linestyle for label in labels}
    assert lines == {"sam-0.1": "-", "sam-0.2": "--", "fsam-0.1": "-", "fsam-0.2": "--"}
    assert styles["asam"] == METHOD_STYLES["asam"]  # the only one
    assert len({(style.linestyle, style.marker) for style in styles.values()}) == 5  # in grey


def test_pictures_need_no_torch():
    code = "import fsam_cli.reports.figures, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_method_shipped_or_not_has_a_style_of_its_own():
    names = [*catalogue("minimisers"), *(f"mine_{number}" for number in range(9))]
    styles = styles_of({name: name for name in names})
    assert len(set(styles.values())) == len(names)
    assert set(catalogue("minimisers")) == set(METHOD_STYLES)
    assert styles["sam"] == style_of("sam") == METHOD_STYLES["sam"]


def test_bars_are_standard_deviations_of_the_last_and_of_the_selected_epoch():
    one = Row("r", "", {"sam": cell("sam", "sam", rho=0.1)})
    one.cells["sam"].runs["selected_test_accuracy"] = [0.8, 0.9]
    axes = against_radius(one, styles_of(methods_of(one))).axes[0]
    last, selected = (c.lines[2][0].get_segments()[0][:, 1] for c in axes.containers)
    assert last == pytest.approx([81 - 2**0.5, 81 + 2**0.5])
    assert selected == pytest.approx([85 - 50**0.5, 85 + 50**0.5])


def test_few_radii_are_the_ticks_of_the_axis():
    cells = {f"sam-{rho}": cell(f"sam-{rho}", "sam", rho=rho) for rho in (0.1, 0.2)}
    one = Row("r", "", cells)
    axes = against_radius(one, styles_of(methods_of(one))).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "0.2"]
    assert list(axes.get_xticks(minor=True)) == []


def test_a_row_of_methods_without_a_radius_has_no_radius_picture(tmp_path):
    only = Row("r", "", {"sgd": cell("sgd", "sgd", folder=tmp_path)})
    assert "r-radius" not in [picture.name for picture in pictures([only])]


def swept(radii, **more):
    """A method's cells as a row has them."""
    cells = {}
    for rho in radii:
        one = replace(cell("sam", "sam", rho=rho, **more), apart=f"rho={rho}")
        cells[one.name] = one
    return cells


def test_every_configuration_of_a_method_has_a_name_and_a_style_of_its_own(row):
    cells = {
        "sgd": row.cells["sgd"],
        "sam [rho=0.1]": replace(row.cells["sam-0.1"], label="sam", apart="rho=0.1"),
        "sam [rho=0.2]": replace(row.cells["sam-0.2"], label="sam", apart="rho=0.2"),
    }
    for one in (cells["sam [rho=0.1]"], cells["sam [rho=0.2]"]):
        one.runs["label"] = "sam"  # as in their records
    drawn = {picture.name: picture.figure for picture in pictures([Row("r", "", cells)])}
    assert len(drawn) == 6
    for figure in drawn.values():
        shown = [text.get_text() for text in figure.legends[0].get_texts()]
        assert sorted(shown) == ["sam [rho=0.1] (n=2)", "sam [rho=0.2] (n=2)", "sgd (n=2)"]
    styles = styles_of(methods_of(Row("r", "", cells)))
    assert len(set(styles.values())) == 3


def test_long_settings_stand_below_their_label_in_a_legend(tmp_path):
    one = replace(cell("sam-0.05", "sam", rho=0.05), apart="rho=0.05, every=100")
    cells = {one.name: one, **swept([0.1])}
    (picture,) = pictures([Row("r", "", cells)])
    save(picture.figure, tmp_path / "figures", picture.name)
    shown = [text.get_text() for text in picture.figure.legends[0].get_texts()]
    assert shown == ["sam-0.05\n[rho=0.05, every=100] (n=2)", "sam [rho=0.1] (n=2)"]


def test_many_long_settings_make_the_picture_higher(tmp_path):
    cells = {}
    for label in ("sam", "asam"):
        for each in range(10, 22):
            one = replace(cell(label, label, rho=0.05), apart=f"rho=0.05, adaptive=true, m={each}")
            cells[one.name] = one
    (picture,) = pictures([Row("r", "", cells)])
    save(picture.figure, tmp_path / "figures", picture.name)
    box = picture.figure.legends[0].get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= picture.figure.bbox.height


def test_a_setting_is_never_read_as_mathematics(tmp_path):
    odd = replace(cell("sam", "sam", rho=0.05), apart=r"mode=$\foo$")
    (picture,) = pictures([Row("r", "", {odd.name: odd})])
    save(picture.figure, tmp_path / "figures", picture.name)
    (text,) = picture.figure.legends[0].get_texts()
    assert text.get_text() == r"sam [mode=$\foo$] (n=2)"


def test_more_configurations_than_a_picture_holds_are_left_out_with_a_line(row):
    told = []
    many = swept([number / 100 for number in range(1, 14)])
    assert list(pictures([Row("r", "lr=0.1", many)], warn=told.append)) == []
    assert told == [
        "r (lr=0.1): no pictures of the 13 configurations of sam; `fsam sweep --figures` draws a "
        "grid"
    ]
    others = {name: row.cells[name] for name in ("sgd", "sam-0.1")}
    drawn = list(pictures([Row("r", "lr=0.1", {**others, **many})]))
    assert len(drawn) == 6
    for picture in drawn:
        shown = [text.get_text() for text in picture.figure.legends[0].get_texts()]
        assert sorted(shown) == ["sam-0.1 (n=2)", "sgd (n=2)"]
    most = swept([number / 100 for number in range(1, 13)])
    assert len(list(pictures([Row("r", "lr=0.1", most)]))) == 1
