"""What `fsam toy` says of its numbers; tests/measure/test_toy.py runs it."""

from __future__ import annotations

import pandas as pd
import pytest

from fsam_cli.commands.toy import _ending, _note_on_basins, _notes


def ending(method, radius, ends_at, *, published, figure=2):
    starts = dict.fromkeys(("start_mu", "start_sigma", "step1_mu", "step1_sigma"), 1.0)
    numbers = {"radius": radius, "probe": 2 * radius, "ends_at": ends_at}
    return {"figure": figure, "published": published, "method": method, **numbers, **starts}


def test_a_note_tells_what_the_paper_draws_and_which_controls_reach_flat_too():
    endings = [
        ending("sam", 0.5, "sharp", published=True),
        ending("fsam", 0.5, "flat", published=True),
        ending("sam", 10.0, "flat", published=False),
        ending("sgd", 0.0, "sharp", published=False),
        ending("asam", 0.1, "sharp", published=True, figure=3),
    ]
    assert _notes("paper", pd.DataFrame(endings), None) == [
        "Figure 2: sam 0.5 probes 1.00 units at the start and ends at sharp; fsam 0.5 probes 1.00 "
        "units at the start and ends at flat. From there sam 10 reach flat, too.",
        "Figure 3: asam 0.1 probes 0.20 units at the start and ends at sharp.",
    ]
    assert "as printed" in _notes("kl", pd.DataFrame(endings), None)[-1]


@pytest.mark.parametrize(("published", "figure"), [(True, "2"), (False, "2, control")])
def test_a_control_is_named_as_one_and_the_probe_is_the_first_one_s_length(published, figure):
    shown = _ending(ending("sam", 0.5, "flat", published=published))
    assert (shown["figure"], shown["radius"], shown["probe"]) == (figure, "0.5", "1.000")


def test_the_note_on_basins_names_just_those_that_reach_flat_from_more_starts():
    columns = ("method", "radius", "flat_fraction", "saddle")
    rows = [
        ("sgd", 0.0, 0.2, 0),
        ("sam", 10.0, 0.9, 3),
        ("fsam", 0.1, 0.4, 1),
        ("fsam", 0.5, 0.6, 7),
    ]
    note = _note_on_basins(pd.DataFrame(rows, columns=columns))
    assert "fsam's most is 0.600 with 0.5, where 7 starts end at the saddle" in note
    assert "More starts than that reach flat with sam 10 (0.900). sam_matched" in note
    assert "More starts" not in _note_on_basins(pd.DataFrame(rows[2:], columns=columns))
