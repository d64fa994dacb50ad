"""`fsam models`."""

from __future__ import annotations

import json

import pytest

from tests.support.command import fsam

# Published or derived counts (docs of each family): parameters for 10 and 100 classes.
COUNTS = {
    "densenet121": (6_964_106, 7_056_356),
    "resnet20": (272_474, 278_324),
    "resnet32": (466_906, 472_756),
    "resnet56": (855_770, 861_620),
    "resnet34": (21_282_122, 21_328_292),
    "vgg19_bn": (139_622_218, 139_990_948),
    "vgg19_bn_small": (20_040_522, 20_086_692),
    "resnext29_32x4d": (4_775_754, 4_868_004),
    "wrn28_2": (1_467_610, 1_479_220),
    "wrn28_10": (36_479_194, 36_536_884),
    "pyramidnet272": (26_210_842, 26_288_692),
}


@pytest.mark.parametrize(("classes", "position"), [(10, 0), (100, 1)])
def test_counts_are_the_published_ones(tmp_path, classes, position):
    shown = fsam("models", "--classes", str(classes), "-f", "json", cwd=tmp_path).stdout
    found = {row["model"]: row["parameters"] for row in json.loads(shown)}
    assert {name: found[name] for name in COUNTS} == {
        name: counts[position] for name, counts in COUNTS.items()
    }


def test_a_network_that_wants_larger_images_says_so_and_hides_no_other(tmp_path):
    shown = fsam("models", "--image-size", "8", "-f", "json", cwd=tmp_path).stdout
    rows = {row["model"]: row for row in json.loads(shown)}
    assert rows["resnet20"]["parameters"] == COUNTS["resnet20"][0]
    assert rows["vgg19_bn"]["parameters"] is None
    assert "32" in rows["vgg19_bn"]["note"]


@pytest.mark.parametrize("option", ["--classes", "--image-size", "--channels"])
@pytest.mark.parametrize("size", [100_001, 10**9, 10**20])
def test_a_size_that_no_data_have_is_refused_in_a_line(tmp_path, option, size):
    shown = fsam("models", option, str(size), cwd=tmp_path, check=2)
    assert shown.stderr == f"error: {option} {size}: at most 100,000\n"


def test_the_largest_sizes_are_counted(tmp_path):
    sizes = [
        word for name in ("classes", "image-size", "channels") for word in (f"--{name}", "100000")
    ]
    shown = fsam("models", *sizes, "-f", "json", cwd=tmp_path).stdout
    rows = {row["model"]: row for row in json.loads(shown)}
    assert rows.pop("timm")["note"] == "has no default for architecture"
    assert all(row["multiply-adds"] > 10**15 for row in rows.values())
