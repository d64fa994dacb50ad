"""Pictures of the toy problem: valid, readable facts inside, the same bytes each time."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from fsam_cli.errors import UsageError
from fsam_cli.reports import toy_figures
from fsam_cli.reports._style import METHOD_STYLES, save
from fsam_cli.reports._toy_plane import Landscape
from fsam_cli.reports.toy_basins_figure import basins


@pytest.fixture(scope="module")
def landscape():
    mu, sigma = np.linspace(-45, 45, 46), np.linspace(2, 62, 31)
    x, y = np.meshgrid(mu, sigma)
    loss = 0.5 + ((x - 20) ** 2 + (y - 30) ** 2) / 4000
    points = pd.DataFrame(
        {
            "name": ["flat", "sharp", "saddle"],
            "mu": [19.85, -15.94, -1.63],
            "sigma": [29.95, 13.46, 21.62],
            "loss": [0.51, 0.49, 0.56],
            "hessian_trace": [0.001, 0.006, 0.0004],
        }
    )
    return Landscape(mu, sigma, loss, points, "paper")


def steps():
    frames = []
    for case, (method, radius, reach) in enumerate((("sam", 0.5, 0.5), ("fsam", 0.5, 14.0))):
        t = np.linspace(0, 1, 40)
        frames.append(
            pd.DataFrame(
                {
                    "case": case,
                    "figure": 2,
                    "published": True,
                    "method": method,
                    "radius": radius,
                    "step": np.arange(40),
                    "mu": -30 + 50 * t,
                    "sigma": 29 + np.sin(6 * t),
                    "probe_mu": -30 + 50 * t - reach,
                    "probe_sigma": 29 + np.sin(6 * t),
                    "half_mu": reach,
                    "half_sigma": reach / 1.4,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def basin_data():
    mu, sigma = np.meshgrid(np.arange(-4.0, 5, 2), np.arange(4.0, 9, 2))
    rows, summary = [], []
    for method, radius in (
        ("sgd", 0.0),
        *(("sam", r) for r in (0.5, 1.0, 5.0, 10.0)),
        *(("fsam", r) for r in (0.1, 0.5)),
    ):
        ends = np.where(mu.ravel() > 0, "flat", "sharp").astype(object)
        ends[0] = "saddle"
        rows.append(
            pd.DataFrame(
                {
                    "method": method,
                    "radius": radius,
                    "start_mu": mu.ravel(),
                    "start_sigma": sigma.ravel(),
                    "ends_at": ends,
                }
            )
        )
        fraction = float((ends == "flat").mean())
        summary.append((method, radius, 10 * radius, fraction))
    return (
        pd.concat(rows, ignore_index=True),
        pd.DataFrame(summary, columns=["method", "radius", "probe", "flat_fraction"]),
    )


def draw(landscape, folder):
    line = pd.DataFrame({"distance": np.linspace(-10, 50, 50)})
    line["loss"] = 0.5 + (line["distance"] / 100) ** 2
    written = save(toy_figures.contours(landscape, line), folder, "one")
    written += save(toy_figures.paths(landscape, steps(), "SAM and FSAM"), folder, "two")
    return written + save(basins(*basin_data(), landscape), folder, "basins")


def test_pictures_are_valid_and_the_same_byte_for_byte(landscape, tmp_path):
    first, second = draw(landscape, tmp_path / "a"), draw(landscape, tmp_path / "b")
    assert len(first) == 6
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        if one.suffix == ".png":
            assert one.read_bytes().startswith(b"\x89PNG\r\n")
        else:
            assert ElementTree.parse(one).getroot().tag.endswith("svg")


def test_paths_have_a_panel_per_case_with_neighbourhood_path_and_an_inset_where_small(landscape):
    from matplotlib.colors import to_hex
    from matplotlib.patches import Ellipse

    figure = toy_figures.paths(landscape, steps(), "SAM and FSAM")
    sam, fsam = figure.axes
    for axes, method in ((sam, "sam"), (fsam, "fsam")):
        assert axes.get_xlabel() == "mean μ"
        assert sum(isinstance(patch, Ellipse) for patch in axes.patches) >= 2
        colors = {to_hex(line.get_color()).upper() for line in axes.lines}
        assert METHOD_STYLES[method].color in colors
    assert len(sam.child_axes) == 1  # half a unit cannot be seen among ninety
    assert not fsam.child_axes
    assert "ends at the flat minimum" in fsam.get_title()


def test_a_basin_panel_s_title_is_its_fraction(landscape):
    ends, fractions = basin_data()
    figure = basins(ends, fractions, landscape)
    titles = [axes.get_title() for axes in figure.axes]
    assert "SAM, ρ = 10: 0.400" in titles
    assert "SGD: 0.400" in titles
    assert "FSAM, γ = 0.5: 0.400" in titles
    assert "n = 15 starts" in figure.get_supxlabel()


def test_a_path_that_ends_at_the_saddle_is_not_said_to_end_at_a_minimum(landscape):
    stuck = steps()
    last = stuck["step"] == stuck["step"].max()
    stuck.loc[last, ["mu", "sigma"]] = -1.63, 21.62
    titles = [axes.get_title() for axes in toy_figures.paths(landscape, stuck, "").axes]
    assert all(title.endswith("ends at the saddle") for title in titles)


def test_without_matplotlib_a_picture_says_how_to_install_it(landscape, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'fsam-cli\[figures\]'"):
        toy_figures.paths(landscape, steps(), "")


def test_drawing_needs_no_torch():
    drawing = "fsam_cli.reports.toy_figures, fsam_cli.reports.toy_basins_figure"
    code = f"import sys, {drawing}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
