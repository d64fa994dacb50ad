"""The line that says what a table is of."""

from __future__ import annotations

import pytest

from fsam_cli.records.frame import load_runs
from fsam_cli.records.summary import rows_of
from fsam_cli.reports.protocol import methods, protocol
from fsam_cli.reports.table import build_table
from tests.support.recorded import configuration, record_run


def cells(folder):
    return [cell for row in rows_of(load_runs(folder)) for cell in row.cells.values()]


def told(folder) -> str:
    return protocol(cells(folder))


def test_it_names_what_all_runs_share_and_only_that(tmp_path):
    augment = [{"name": "crop", "padding": 4}, {"name": "flip"}]
    noise = {"rate": 0.4, "flip": "different"}
    for label, lr in (("sgd", 0.1), ("sam", 0.2)):
        config = configuration(
            augment=augment, label_noise=noise, validation=0.25, **{"train.lr": lr}
        )
        record_run(tmp_path, label=label, config=config)
    words = told(tmp_path).split(", ")
    assert words[:4] == [
        "digits",
        "40 % label noise",
        "25 % held out for validation",
        "crop + flip",
    ]
    assert not any(word.startswith("lr ") for word in words)
    assert "fp32" in words


def test_learning_rates_of_the_methods_own_are_said_to_be(tmp_path):
    for label, lr in (("sgd", 0.1), ("sam", 0.2)):
        config = configuration(**{"train.lr": lr})
        record_run(tmp_path, label=label, config=config, tuned=("train.lr",))
    assert ", each method's own lr, " in f"{told(tmp_path)}, "


def test_a_single_epoch_is_one(tmp_path):
    record_run(tmp_path, config=configuration(**{"train.epochs": 1}))
    assert ", 1 epoch, batch size" in told(tmp_path)


def test_epochs_that_differ_are_all_named_and_hardware_that_differs_is_not(tmp_path):
    for label, epochs, name in (("sgd", 40, "A"), ("sam", 20, "B")):
        config = configuration(**{"train.epochs": epochs})
        environment = {"torch": "2.14.1", "device_name": f"machine {name}"}
        record_run(tmp_path, label=label, config=config, environment=environment)
    assert "20 or 40 epochs" in told(tmp_path)
    assert "torch 2.14.1" in told(tmp_path)
    assert "machine" not in told(tmp_path)


@pytest.mark.parametrize(
    "odd",
    [
        {"data": {}},
        {"validation": "some"},
        {"label_noise": {"rate": [1]}},
        {"augment": "crop"},
        {"augment": [{"padding": 4}, 3]},
    ],
)
def test_a_record_of_another_form_is_told_as_far_as_it_goes(tmp_path, odd):
    record_run(tmp_path, config={**configuration(), **odd}, environment={"torch": ["2.14.1"]})
    assert "small_resnet, 20 epochs" in told(tmp_path)


def test_it_is_the_first_note_of_a_table_and_missing_where_no_run_can_be_read(tmp_path):
    run = record_run(tmp_path, config=configuration())
    first = build_table(load_runs(tmp_path)).notes[0]
    assert first.startswith("quickstart: digits, ")
    for name in ("config.yaml", "result.json"):
        (run / name).write_text("?")
    assert not build_table(load_runs(tmp_path)).notes[0].startswith("quickstart: ")


def record_methods(folder, **methods):
    for label, (epochs, *method) in methods.items():
        config = configuration(method=dict(method), **{"train.epochs": epochs})
        record_run(folder, label=label, config=config, labels=tuple(methods))


def test_methods_are_told_with_their_settings_and_what_their_labels_share_once(tmp_path):
    sam, fsam = ("name", "sam"), ("name", "fsam")
    record_methods(
        tmp_path,
        sgd=(20, ("name", "sgd")),
        low=(20, sam, ("rho", 0.05)),
        high=(20, sam, ("rho", 0.5)),
        ours=(20, fsam, ("gamma", 0.1), ("eta", 1.0)),
        theirs=(20, fsam, ("gamma", 0.1), ("eta", 0.5), ("m_sharpness", 32)),
    )
    assert methods(cells(tmp_path)) == (
        "sgd; sam: low (rho 0.05), high (rho 0.5); "
        "fsam (gamma 0.1): ours (eta 1.0), theirs (eta 0.5, m_sharpness 32)"
    )
    assert (
        f"quickstart, methods: {methods(cells(tmp_path))}."
        in build_table(load_runs(tmp_path)).notes
    )


def test_methods_with_epochs_of_their_own_say_how_many(tmp_path):
    record_methods(tmp_path, sam=(20, ("name", "sam"), ("rho", 0.1)), sgd=(40, ("name", "sgd")))
    assert methods(cells(tmp_path)) == "sam (rho 0.1, epochs 20); sgd (epochs 40)"
