"""Differences of the area between methods, without measuring."""

from __future__ import annotations

import pandas as pd
import pytest

from fsam_cli.reports.render import difference_tables
from fsam_cli.reports.table import differences
from tests.support.perturbed import left_out, measured, points

THREE = {"planned": (0, 1, 2)}


def paired(root, *more):
    """Areas: sgd .5, .4, .35; fsam .7, .6, .65, so .2, .2 and .3 more."""
    return measured(
        root,
        points("sgd", 0, (0.9, 0.5, 0.1), **THREE),
        points("sgd", 1, (0.7, 0.4, 0.1), **THREE),
        points("sgd", 2, (0.6, 0.35, 0.1), **THREE),
        points("fsam", 0, (0.9, 0.7, 0.5), **THREE),
        points("fsam", 1, (0.8, 0.6, 0.4), **THREE),
        points("fsam", 2, (0.9, 0.65, 0.4), **THREE),
        *more,
    ).table()


def test_areas_alone_are_compared_seed_by_seed(tmp_path):
    table = paired(tmp_path)
    [fsam] = differences(table, "sgd").to_dict("records")
    assert (fsam["method"], fsam["versus"], fsam["test"], fsam["n"]) == ("fsam", "sgd", "paired", 3)
    assert fsam["metric"] == "area"
    assert fsam["difference"] == pytest.approx((0.2 + 0.2 + 0.3) / 3)
    assert fsam["standard_error"] == pytest.approx(0.1 / 3)  # std of .2, .2, .3 is .1 / sqrt(3)
    assert fsam["p"] == fsam["p_holm"] == pytest.approx(0.0198, abs=1e-4)  # t = 7, 2 degrees
    [shown] = difference_tables(table, differences(table, "sgd"))
    assert shown.title == "r: area (%), minus sgd"
    assert shown.rows[0]["diff."] == "+23.33"


def test_what_cannot_be_compared_says_why(tmp_path):
    more = (left_out("asam", 0), points("gsam", 0, (0.9, 0.8, 0.7)))
    frame = differences(paired(tmp_path / "some", *more), "sgd").set_index("method")
    assert frame.loc["asam", "status"] == "1 of 1 diverged"
    assert frame.loc["gsam", "status"] == "one seed only"
    assert frame.loc["gsam", "difference"] == pytest.approx(0.8 - 0.5 + 0.25 / 3)
    flat = [points(label, 0, (0.9,), alphas=(0.0,)) for label in ("sgd", "sam")]
    [line] = differences(measured(tmp_path / "flat", *flat).table(), "sgd").to_dict("records")
    assert line["status"] == "a single strength"


def test_methods_under_another_protocol_are_not_compared(tmp_path):
    noiseless = points("asam", 0, (0.9, 0.1, 0.1), changes={"label_noise.rate": 0.0})
    assert list(differences(paired(tmp_path, noiseless), "sgd")["method"]) == ["fsam"]


def test_a_label_of_several_configurations_is_each_of_them_in_turn(tmp_path):
    def cell(area, radius):
        return [
            points("sam", seed, (0.9, area + 0.01 * seed, 0.1), settings={"rho": radius}, **THREE)
            for seed in (0, 1, 2)
        ]

    table = paired(tmp_path, *cell(0.5, 0.1), *cell(0.8, 0.2))
    found = differences(table, "sam")
    names = found["method"] + found["settings"]
    assert list(zip(names, found["versus_settings"], strict=True)) == [
        (name, f"rho={radius}")
        for radius, other in ((0.1, 0.2), (0.2, 0.1))
        for name in ("sgd", "fsam", f"samrho={other}")
    ]
    for radius, family in found.groupby("versus_settings"):
        alone = differences(table, f"sam [{radius}]")
        pd.testing.assert_frame_equal(family.reset_index(drop=True), alone)
    titles = [each.title for each in difference_tables(table, found)]
    assert titles == [f"r: area (%), minus sam [rho={radius}]" for radius in (0.1, 0.2)]
