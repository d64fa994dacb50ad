"""Differences of the area between methods, from frames alone."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from fsam_cli.errors import UsageError
from fsam_cli.records.perturbation import PerturbationSetting
from fsam_cli.records.plain import document_text
from fsam_cli.reports import robustness
from tests.support.perturbed import frame, left_out, points


def paired(*more):
    """Areas: sgd .5, .4, .35; fsam .7, .6, .65, so .2, .2 and .3 more."""
    return frame(
        points("sgd", 0, (0.9, 0.5, 0.1), planned=(0, 1, 2)),
        points("sgd", 1, (0.7, 0.4, 0.1), planned=(0, 1, 2)),
        points("sgd", 2, (0.6, 0.35, 0.1), planned=(0, 1, 2)),
        points("fsam", 0, (0.9, 0.7, 0.5), planned=(0, 1, 2)),
        points("fsam", 1, (0.8, 0.6, 0.4), planned=(0, 1, 2)),
        points("fsam", 2, (0.9, 0.65, 0.4), planned=(0, 1, 2)),
        *more,
    )


def test_areas_are_compared_seed_by_seed():
    [fsam] = robustness.differences(paired(), "sgd").to_dict("records")
    assert (fsam["method"], fsam["versus"], fsam["test"], fsam["n"]) == ("fsam", "sgd", "paired", 3)
    assert fsam["difference"] == pytest.approx((0.2 + 0.2 + 0.3) / 3)
    assert fsam["standard_error"] == pytest.approx(0.1 / 3)  # std of .2, .2, .3 is .1 / sqrt(3)
    assert fsam["p"] == fsam["p_holm"] == pytest.approx(0.0198, abs=1e-4)  # t = 7, 2 degrees
    [table] = robustness.difference_tables(robustness.differences(paired(), "sgd"))
    assert table.title == "r: area, minus sgd"
    assert table.rows[0]["diff."] == "+23.33"


def test_what_cannot_be_compared_says_why():
    more = (left_out("asam", 0), points("gsam", 0, (0.9, 0.8, 0.7)))
    frame = robustness.differences(paired(*more), "sgd").set_index("method")
    assert frame.loc["asam", "status"] == "0 of 1 measured"
    assert frame.loc["gsam", "status"] == "one seed only"
    assert frame.loc["gsam", "difference"] == pytest.approx(0.8 - 0.5 + 0.25 / 3)
    flat = points("sgd", 0, (0.9,), alphas=(0.0,)) + points("sam", 0, (0.9,), alphas=(0.0,))
    [line] = robustness.differences(pd.DataFrame(flat), "sgd").to_dict("records")
    assert line["status"] == "a single strength"


def test_methods_under_another_protocol_are_not_compared():
    noisy = points("asam", 0, (0.9, 0.1, 0.1), settings="noise=0.4", protocol="noise=0.4")
    assert list(robustness.differences(paired(noisy), "sgd")["method"]) == ["fsam"]


def test_a_configuration_is_named_as_the_table_names_it():
    two = frame(
        points("sam", 0, (0.9, 0.5, 0.1), cell="a", settings="rho=0.1"),
        points("sam", 0, (0.9, 0.8, 0.1), cell="b", settings="rho=0.2"),
    )
    [line] = robustness.differences(two, "sam [rho=0.1]").to_dict("records")
    assert line["method"] == "sam [rho=0.2]"
    with pytest.raises(UsageError, match=r"no method 'sma'; did you mean 'sam'.* sam \[rho=0.1\]"):
        robustness.differences(two, "sma")


def test_a_label_of_several_configurations_is_each_of_them_in_turn():
    def cell(area, radius):
        settings = f"rho={radius}"
        return [
            each
            for seed in (0, 1, 2)
            for each in points(
                "sam", seed, (0.9, area + 0.01 * seed, 0.1), cell=settings, settings=settings
            )
        ]

    frame = paired(cell(0.5, 0.1), cell(0.8, 0.2))
    found = robustness.differences(frame, "sam")
    assert list(zip(found["method"], found["versus"], strict=True)) == [
        (method, f"sam [rho={radius}]")
        for radius, other in ((0.1, 0.2), (0.2, 0.1))
        for method in ("sgd", "fsam", f"sam [rho={other}]")
    ]
    for versus, family in found.groupby("versus"):
        alone = robustness.differences(frame, versus)
        pd.testing.assert_frame_equal(family.reset_index(drop=True), alone)
    titles = [table.title for table in robustness.difference_tables(found)]
    assert titles == ["r: area, minus sam [rho=0.1]", "r: area, minus sam [rho=0.2]"]


def test_differences_are_documented_and_in_the_json(tmp_path):
    against = robustness.differences(paired(), "sgd")
    content = json.loads(
        document_text(robustness.as_json(paired(), PerturbationSetting(), against))
    )
    page = (Path(__file__).resolve().parents[2] / "docs" / "report-schema.md").read_text()
    section = page.partition("`fsam perturb --format json`")[2].partition("\n## ")[0]
    assert "`differences`" in section
    for key in ("recipe", "method", "versus", "difference"):
        assert f"`{key}`" in section
        assert key in content["differences"][0]
    assert any(
        "where paired, over the seeds" in note
        for note in robustness.notes(paired(), PerturbationSetting(), against)
    )
