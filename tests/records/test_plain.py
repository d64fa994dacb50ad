"""What JSON can hold, and the text of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from fsam_cli.records.plain import document_text, plain


def test_numbers_of_numpy_become_pythons_inside_whatever_holds_them():
    found = plain({"n": np.int64(3), "x": [np.float32(0.5), (np.bool_(True),)]})
    assert found == {"n": 3, "x": [0.5, [True]]}
    assert type(found["n"]) is int
    assert json.loads(document_text({"n": np.int64(3)})) == {"n": 3}


def test_what_is_not_finite_is_null():
    there = (1.0, [math.inf, -math.inf], {"x": math.nan, "y": np.float64("nan")})
    assert plain(there) == [1.0, [None, None], {"x": None, "y": None}]


def test_a_document_is_indented_and_ends_its_line():
    assert document_text({"a": Path("runs/a")}) == '{\n "a": "runs/a"\n}\n'
