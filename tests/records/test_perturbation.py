"""perturbation.csv: what is written comes back, and nothing else is taken for it."""

from __future__ import annotations

import pytest

from fsam_cli.errors import RecordError
from fsam_cli.records.perturbation import TABLE, PerturbationSetting
from fsam_cli.records.side_table import subject_of


def row(alpha, *, setting=None, draw=0, **more):
    return {
        "subject": "ab" * 6,
        **(setting or PerturbationSetting()).columns(),
        "draw": draw,
        "alpha": alpha,
        "test_accuracy": 0.1 + 0.2,
        "test_loss": 1e-17,
        "eps_norm": alpha,
        "gradient_norm": 0.1,
        "weight_norm": 3.0,
        "classes": 10,
        "seconds": 0.25,
        "torch": "2.11.0",
        "device_name": "a CPU, of 2 GHz",
        **more,
    }


def test_rows_come_back_bit_by_bit_in_the_order_of_what_they_are(tmp_path):
    noise = PerturbationSetting(direction="gaussian", recalibrated=True)
    rows = [
        row(0.5, setting=noise, draw=1, gradient_norm=None),
        row(0.5, setting=noise, draw=0, gradient_norm=None),
        row(10.0),
        row(2.0, test_loss=float("inf")),
    ]
    TABLE.write(tmp_path / "p.csv", rows)
    assert TABLE.read(tmp_path / "p.csv") == [rows[1], rows[0], rows[3], rows[2]]
    before = (tmp_path / "p.csv").read_bytes()
    TABLE.write(tmp_path / "p.csv", reversed(rows))
    assert (tmp_path / "p.csv").read_bytes() == before


def test_a_place_that_cannot_be_written_is_one_message_that_names_no_option(tmp_path):
    path = tmp_path / "gone" / "perturbation.csv"
    with pytest.raises(RecordError) as raised:
        TABLE.write(path, [])
    assert f"cannot write {path}: No such file" in str(raised.value)
    assert "make the folder writable, or measure a copy of it" in str(raised.value)
    assert "--" not in str(raised.value)


def test_no_file_is_no_rows(tmp_path):
    assert TABLE.read(tmp_path / "p.csv") == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("alpha,", "strength,"),
        ("device_name\n", "device_name,further\n"),  # a later version's, which would be lost
        ("false", "perhaps"),
        (",0.25", ",soon"),
        (",0.25", ""),
        (',2.11.0,"a CPU, of 2 GHz"', ""),  # cut short where any text would do
        (",0.25", ",0.25,1"),
        ("ab", "\udcff"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_remedy(tmp_path, old, new):
    path = tmp_path / "p.csv"
    TABLE.write(path, [row(0.5)])
    path.write_bytes(path.read_text().replace(old, new).encode(errors="surrogateescape"))
    with pytest.raises(RecordError, match=r"p\.csv is unreadable .*remove it"):
        TABLE.read(path)


def test_a_file_that_is_no_table_at_all_is_refused_too(tmp_path):
    path = tmp_path / "p.csv"
    for text in ("", "\n", "x" * 200_000):  # the last is more than Python's csv takes for a field
        path.write_text(text)
        with pytest.raises(RecordError, match=r"p\.csv is unreadable .*remove it"):
            TABLE.read(path)


def test_what_the_system_does_not_let_read_is_refused_with_its_words(tmp_path):
    with pytest.raises(RecordError, match=r"is unreadable .*Is a directory"):
        TABLE.read(tmp_path)


def test_a_setting_describes_its_own_rows_only():
    settings = [
        PerturbationSetting(),
        PerturbationSetting(gradient_split="test"),
        PerturbationSetting(relative="filter"),
        PerturbationSetting(recalibrated=True),
        PerturbationSetting(direction="gaussian"),
    ]
    for one in settings:
        assert [other.describes(row(1.0, setting=one)) for other in settings].count(True) == 1
    # Noise has no gradient, so its split makes no difference.
    assert PerturbationSetting("gaussian", "test").describes(
        row(1.0, setting=PerturbationSetting("gaussian", "train"))
    )


def test_a_subject_is_its_weights_and_what_they_are_measured_on():
    config = {"data": {"digest": "1"}, "model": "m"}
    assert subject_of(b"w", config) == "d3276cf5526a"  # else no table of before is taken over
    assert subject_of(b"w", config) == subject_of(b"w", dict(reversed(config.items())))
    assert subject_of(b"w", config) != subject_of(b"v", config)
    assert subject_of(b"w", config) != subject_of(b"w", {**config, "model": "n"})
