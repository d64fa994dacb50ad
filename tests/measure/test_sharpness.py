"""Sharpness of the training loss, against hand-computed numbers and float64 written down anew."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from fsam_cli.engine.feed import Feed
from fsam_cli.measure import on_record, sharpness
from fsam_cli.measure.network import network_of, noise
from fsam_cli.measure.on_record import rows_on_record
from fsam_cli.measure.sharpness import (
    Neighbourhood,
    Quantity,
    SharpnessSetting,
    hessian_product,
    rise,
    trace,
    trained_on,
)
from fsam_cli.measure.subjects import recorded
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sam_on import SamOn
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.records.frame import load_runs
from fsam_cli.records.sharpness import TABLE
from tests.support.command import TINY, fsam
from tests.support.float64 import Plain, by_name, inner
from tests.support.threads import one_thread  # noqa: F401 (a fixture)

# torch's own forward derivatives, which are the reference here, use what torch warns of.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
CPU = torch.device("cpu")
NOISY = (*TINY, "train.epochs=3", "data.label_noise=0.3")
SAM_BALL = Neighbourhood("sam", Sam(rho=0.1))
PARTS = ((0, 3), (3, 5))
SETTING = SharpnessSetting(images=150, draws=3, neighbourhoods=(SAM_BALL,), m=50)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharp")
    fsam("train", "-r", "quickstart", *NOISY, "-j", "1", "-q", cwd=folder)
    return folder / "runs"


@pytest.fixture
def subjects(runs, tmp_path):
    return {
        entry.label: dataclasses.replace(entry.subject, tables=f"{tmp_path}/{entry.label}.")
        for entry in recorded(load_runs(runs), None)
    }


@pytest.fixture
def net(subjects, monkeypatch):
    monkeypatch.setattr(sharpness, "GRADIENT_BATCH", 50)  # 120 images are three batches
    return network_of(subjects["sgd"], CPU)


@pytest.fixture
def held(net):
    return trained_on(net).subset(torch.arange(120))


def test_the_images_are_those_trained_on_with_the_labels_as_given(runs, subjects):
    experiment = load_experiment("quickstart", NOISY)
    for subject in subjects.values():
        net = network_of(subject, CPU)
        mine = trained_on(net)
        (one,) = [
            each
            for each in plan(experiment, out=runs, device="cpu")
            if each.label == ("sgd" if subject is subjects["sgd"] else "fsam")
        ]
        feed = Feed(one, subject.data.load(None), CPU)
        theirs = [(batch.images, batch.labels) for batch in feed.epoch(0)]
        images, labels = (torch.cat(each) for each in zip(*theirs, strict=True))
        assert pairs(images, labels) == pairs(net.normalised(mine.images), mine.labels)
        clean = network_of(dataclasses.replace(subject, label_noise=None), CPU)
        assert (trained_on(clean).labels != mine.labels).double().mean() == pytest.approx(
            0.3, abs=0.02
        )


def pairs(images, labels):
    return sorted(zip(images.flatten(1).tolist(), labels.tolist(), strict=True))


def test_methods_of_one_seed_are_measured_on_the_same_images_and_another_seed_on_others(subjects):
    first, second = (trained_on(network_of(subjects[label], CPU)) for label in ("sgd", "fsam"))
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert len(first.labels[:100].unique()) == 10  # digits are not in the order of the file
    every = dataclasses.replace(subjects["sgd"], validation=0.0)  # of either seed all images
    one, other = (
        trained_on(network_of(dataclasses.replace(every, seed=seed), CPU)) for seed in (0, 1)
    )
    assert not torch.equal(one.images[:50], other.images[:50])
    assert torch.equal(one.images.sum(0), other.images.sum(0))


def test_a_product_with_the_hessian_is_that_of_another_way_to_derive_it(net, held):
    plain, vector = Plain(net, held), noise(net, "test", 0)
    expected = plain.hessian_times(by_name(net, vector))
    found = by_name(net, hessian_product(net, held, vector))
    norm = math.sqrt(inner(expected, expected))
    distance = {name: found[name] - expected[name] for name in expected}
    assert math.sqrt(inner(distance, distance)) < 1e-3 * norm


def test_lambda_max_is_that_of_a_power_iteration_in_float64(net, held):
    plain = Plain(net, held)
    vector = by_name(net, noise(net, "test", 1))
    value = 0.0
    for _ in range(60):
        norm = math.sqrt(inner(vector, vector))
        vector = {name: each / norm for name, each in vector.items()}
        product = plain.hessian_times(vector)
        value, vector = inner(vector, product), product
    assert value > 0  # the largest in absolute value is the largest
    found = sharpness._lambda_max(net, held)
    assert found.value == pytest.approx(value, rel=2e-3)
    assert found.error <= sharpness.TOLERANCE * found.value * 1.001


@pytest.mark.parametrize(("error", "settled"), [(0.0099, True), (0.011, False), (math.nan, True)])
def test_lambda_max_is_settled_within_a_thousandth_of_itself(error, settled):
    assert sharpness.settled({"value": -10.0, "error": error}) is settled


def test_the_trace_is_the_mean_over_random_signs_with_its_standard_error(net, held):
    plain, terms = Plain(net, held), []
    for draw in range(3):
        signs = by_name(net, noise(net, "sharpness.trace", draw, law="signs"))
        assert {float(each) for part in signs.values() for each in part.unique()} == {-1.0, 1.0}
        terms.append(inner(signs, plain.hessian_times(signs)))
    found = trace(net, held, 3)
    assert found.value == pytest.approx(np.mean(terms), rel=1e-3)
    assert found.error == pytest.approx(np.std(terms, ddof=1) / math.sqrt(3), rel=1e-2)
    assert trace(net, held, 1) == (pytest.approx(terms[0], rel=1e-3), None)


def sam_step(w, g):
    return {k: 0.1 * g[k] / math.sqrt(inner(g, g)) for k in g}


def asam_step(w, g):
    t = {k: w[k].abs() + 0.01 if "weight" in k else torch.ones_like(w[k]) for k in w}
    norm = math.sqrt(sum(float((t[k] * g[k]).square().sum()) for k in g))
    return {k: 0.5 * t[k] ** 2 * g[k] / norm for k in g}


def fsam_step(w, g):
    inverse = {k: 1 / (1 + 2.0 * g[k] ** 2) for k in g}
    norm = math.sqrt(sum(float((g[k] ** 2 * inverse[k]).sum()) for k in g))
    return {k: 0.2 * inverse[k] * g[k] / norm for k in g}


@pytest.mark.parametrize(
    ("minimiser", "step"),
    [
        (Sam(rho=0.1), sam_step),
        (Asam(rho=0.5, eta=0.01), asam_step),
        (FisherSam(gamma=0.2, eta=2.0), fsam_step),
    ],
)
def test_the_rise_is_the_mean_over_micro_batches_that_each_climb_alone(net, held, minimiser, step):
    plain, rises = Plain(net, held), []
    for at in (slice(0, 40), slice(40, 80), slice(80, 120)):
        eps = step(plain.weights, plain.gradient(at))
        above = {k: w + eps[k] for k, w in plain.weights.items()}
        rises.append(float(plain.loss(above, at) - plain.loss(plain.weights, at)))
    found = rise(net, held, minimiser, 50)  # 120 images are three of at most 50
    assert found.value == pytest.approx(np.mean(rises), rel=2e-3)
    assert found.error == pytest.approx(np.std(rises, ddof=1) / math.sqrt(3), rel=2e-2)


def test_of_unequal_micro_batches_every_image_counts_alike(net, held):
    five = held.subset(torch.arange(5))
    rises = [rise(net, five.subset(torch.arange(*at)), SAM_BALL.minimiser, 3).value for at in PARTS]
    assert abs(rises[0] - rises[1]) > 1e-3
    expected = (3 * rises[0] + 2 * rises[1]) / 5
    assert rise(net, five, SAM_BALL.minimiser, 3).value == pytest.approx(expected, rel=1e-6)


def test_a_small_rise_is_no_difference_of_rounded_losses(net):
    every, errors = trained_on(net), []
    for numbers in torch.arange(960).split(120):
        held = every.subset(numbers)
        plain = Plain(net, held)
        eps = sam_step(plain.weights, plain.gradient())
        above = {k: w + 0.01 * eps[k] for k, w in plain.weights.items()}
        expected = float(plain.loss(above) - plain.loss(plain.weights))
        errors.append(rise(net, held, Sam(rho=0.001), 120).value - expected)
    assert np.sqrt(np.mean(np.square(errors))) < 7e-8  # a float32 of the loss is 1e-7 off


def test_a_method_that_moves_some_weights_only_leaves_the_others_where_they_are(net, held):
    plain = Plain(net, held)
    norms = {n for n, m in net.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    g = {k: v for k, v in plain.gradient().items() if k.rpartition(".")[0] in norms}
    assert 0 < len(g) < len(plain.weights)
    above = {**plain.weights}
    above |= {k: above[k] + 0.1 * g[k] / math.sqrt(inner(g, g)) for k in g}
    expected = float(plain.loss(above) - plain.loss(plain.weights))
    assert rise(net, held, SamOn(rho=0.1), 120).value == pytest.approx(expected, rel=2e-3)


def test_nothing_moves_what_is_measured(subjects):
    subject = subjects["fsam"]
    net = network_of(subject, CPU)
    before = {k: v.clone() for k, v in net.model.state_dict().items()}
    quantities = list(sharpness.quantities(SETTING))
    assert len(list(sharpness._measured(net, SETTING, quantities))) == len(quantities) == 5
    assert all(torch.equal(v, before[k]) for k, v in net.model.state_dict().items())
    assert net.flat.attached()
    assert not net.model.training


def test_what_is_kept_is_measured_as_it_was_asked_for(net):
    asked = dataclasses.replace(SETTING, images=130, draws=2, m=40)
    rows = sharpness._measured(net, asked, list(sharpness.quantities(asked)))
    found = {row["measure"]: (row["value"], row["error"]) for row in rows}
    held = trained_on(net).subset(torch.arange(130))
    assert found["trace"] == trace(net, held, 2)
    assert found["rise.sam"] == rise(net, held, Sam(rho=0.1), 40)
    assert found["rise.sam"] != rise(net, held, Sam(rho=0.1), 50)


def test_a_gpu_convolves_in_whole_float32_meanwhile(net, monkeypatch):
    convolutions = torch.backends.cudnn.conv
    before, seen = convolutions.fp32_precision, []
    assert before != "ieee"

    def loss(*_):
        seen.append(convolutions.fp32_precision)
        return sharpness.Found(0.0)

    monkeypatch.setattr(sharpness, "_loss", loss)
    list(sharpness._measured(net, SETTING, [Quantity("loss", "")]))
    assert seen == ["ieee"]
    assert convolutions.fp32_precision == before


def measured(subject, setting, **more):
    sharpness.measure(subject, setting, sharpness.missing(subject, setting), device=CPU, **more)
    return rows_on_record(subject, TABLE)


def test_it_computes_with_as_many_threads_as_the_training_had(subjects):
    network_of(dataclasses.replace(subjects["sgd"], threads=2), CPU)
    assert torch.get_num_threads() == 2


def test_only_what_is_missing_is_measured_and_an_interrupt_loses_nothing(subjects):
    subject, seen = subjects["sgd"], []

    def stop_after_three(row):
        seen.append(row)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(subject, SETTING, on_quantity=stop_after_three)
    left = sharpness.missing(subject, SETTING)
    assert [quantity.measure for quantity in left] == ["trace", "rise.sam"]
    rows = measured(subject, SETTING)
    assert [row for row in rows if row in seen] == sorted(seen, key=lambda row: row["measure"])
    assert sharpness.missing(subject, SETTING) == []
    assert list(sharpness.on_record(subject, SETTING)) == list(sharpness.quantities(SETTING))


def test_what_was_measured_is_written_while_the_rest_is_measured(subjects, monkeypatch):
    subject, seen = subjects["sgd"], []
    monkeypatch.setattr(on_record, "WRITE_SECONDS", -1.0)
    measured(subject, SETTING, on_quantity=lambda _: seen.append(rows_on_record(subject, TABLE)))
    assert [len(rows) for rows in seen] == [0, 1, 2, 3, 4]


def test_the_same_measurement_is_told_by_all_that_decides_it(subjects):
    subject = subjects["sgd"]
    measured(subject, SETTING)
    other_radius = Neighbourhood("sam", Sam(rho=0.2))
    for change, again in (
        ({"images": 151}, 5),
        ({"images": None}, 5),
        ({"draws": 4}, 1),
        ({"m": 51}, 1),
        ({"neighbourhoods": (other_radius,)}, 1),
        ({"neighbourhoods": (SAM_BALL, other_radius)}, 1),
        ({"hessian": False}, 0),
    ):
        changed = dataclasses.replace(SETTING, **change)
        assert len(sharpness.missing(subject, changed)) == again, change


def test_more_images_than_there_are_is_all_of_them(subjects):
    subject = subjects["sgd"]
    few = SharpnessSetting(images=10**6, draws=1, neighbourhoods=(), m=128, hessian=False)
    rows = measured(subject, few)
    size = len(trained_on(network_of(subject, CPU)))
    assert {(row["images"], row["of"]) for row in rows} == {(size, size)}
    assert sharpness.missing(subject, dataclasses.replace(few, images=None)) == []
    assert sharpness.missing(subject, dataclasses.replace(few, images=size + 1)) == []


def test_a_neighbourhood_is_named_by_what_is_tuned_and_what_is_unusual():
    assert Neighbourhood("sam", Sam(rho=0.1)).name == "sam rho=0.1"
    damped = FisherSam(gamma=0.2, inverse="damped")
    assert Neighbourhood("fsam", damped).name == "fsam gamma=0.2, eta=1.0, inverse=damped"


def test_a_quantity_says_all_that_decides_it():
    quantity = sharpness.rise_within(Neighbourhood("fsam", FisherSam(gamma=0.2), "abc"), 64)
    assert quantity.measure == "rise.fsam"
    for part in ("gamma=0.2", "eta=1.0", "inverse=anti_regularised", "plugin=abc", "m=64"):
        assert part in quantity.setting
    assert isinstance(quantity, Quantity)
