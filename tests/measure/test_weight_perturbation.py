"""Accuracy at moved weights, against an independent computation in float64 and by hand."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fsam_cli.errors import DataError
from fsam_cli.measure import weight_perturbation as wp
from fsam_cli.measure.network import Network, check_data, mean_gradient, noise
from fsam_cli.measure.on_record import rows_on_record
from fsam_cli.measure.subjects import MEASURABLE, Subject, Unmeasurable, recorded
from fsam_cli.models._contract import Model
from fsam_cli.records.frame import load_runs
from fsam_cli.records.perturbation import TABLE, PerturbationSetting
from tests.support.command import TINY, fsam
from tests.support.one_pixel import subject_of
from tests.support.recorded import configuration, record_run
from tests.support.threads import one_thread  # noqa: F401 (a fixture)

CPU = torch.device("cpu")
GRADIENT = PerturbationSetting()
FILTER = PerturbationSetting(relative="filter")
NOISE = PerturbationSetting(direction="gaussian")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perturbed")
    fsam("train", "-r", "quickstart", *TINY, "train.epochs=4", "-j", "1", "-q", cwd=folder)
    return folder / "runs"


@pytest.fixture
def subjects(runs, tmp_path):
    """The two trained runs by label, their tables apart from the shared folder."""
    entries = list(recorded(load_runs(runs), None))
    assert [(entry.label, entry.status) for entry in entries] == [
        ("sgd", MEASURABLE),
        ("fsam", MEASURABLE),
    ]
    return {
        entry.label: dataclasses.replace(entry.subject, tables=f"{tmp_path}/{entry.label}.")
        for entry in entries
    }


def network(subject):
    return Network(subject, subject.data.load(None), CPU)


def direction(net, draw):
    return noise(net, "weight_perturbation", draw)


def measured(subject, setting, alphas, draws=1):
    points = wp.missing(subject, setting, alphas=alphas, draws=draws)
    wp.measure(subject, setting, points, device=CPU)
    return [row for row in rows_on_record(subject, TABLE) if setting.describes(row)]


class Plain:
    """The same measurement written down once more: float64, a loop over parameters."""

    def __init__(self, subject):
        data = subject.data.load(None)
        self.model = subject.model.build(channels=1, classes=10, image_size=8)
        self.model.load_state_dict(torch.load(subject.weights, weights_only=True)["weights"])
        self.model.double().eval()
        self.train = self._normalised(data.train_images, data), data.train_labels
        self.test = self._normalised(data.test_images, data), data.test_labels

    @staticmethod
    def _normalised(images, data):
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (data.mean[0], data.std[0]))
        return (images.double() / 255 - mean) / std

    def gradients(self, images, labels):
        loss = F.cross_entropy(self.model(images), labels)
        names = [name for name, _ in self.model.named_parameters()]
        grads = torch.autograd.grad(loss, list(self.model.parameters()))
        return dict(zip(names, grads, strict=True))

    def at(self, steps, *, recalibrated=False):
        moved = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter += steps[name]
            if recalibrated:
                for module in moved.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.reset_running_stats()
                        module.momentum = None
                for half in self.train[0].tensor_split(2):
                    moved.train()(half)
                moved.eval()
            logits = moved(self.test[0])
        right = (logits.argmax(1) == self.test[1]).double().mean().item()
        return right, F.cross_entropy(logits, self.test[1]).item()


def test_the_gradient_is_that_of_the_mean_loss_over_the_whole_clean_training_set(subjects):
    net, plain = network(subjects["fsam"]), Plain(subjects["fsam"])
    for held, (images, labels) in ((net.train, plain.train), (net.test, plain.test)):
        gradient = mean_gradient(net, held)
        expected = plain.gradients(images, labels)
        for segment in net.flat.segments:
            mine = net.flat.view(gradient, segment)
            # By the norm: in float32 an activation near 0 may lie on the other side of the ReLU.
            distance = (mine - expected[segment.name]).norm()
            assert distance < 2e-3 * expected[segment.name].norm(), segment.name


@pytest.mark.parametrize("split", ["train", "test"])
def test_accuracy_and_loss_follow_an_independent_computation_in_float64(subjects, split):
    subject = subjects["sgd"]
    plain = Plain(subject)
    gradients = plain.gradients(*getattr(plain, split))
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    for row in measured(subject, PerturbationSetting(gradient_split=split), (0.0, 0.3, 1.0)):
        accuracy, loss = plain.at({k: row["alpha"] * g / norm for k, g in gradients.items()})
        assert row["test_accuracy"] == pytest.approx(accuracy, abs=1.01 / 355)  # a tie at most
        assert row["test_loss"] == pytest.approx(loss, rel=1e-4)
        assert row["gradient_norm"] == pytest.approx(norm, rel=1e-5)
        assert row["eps_norm"] == pytest.approx(row["alpha"], rel=1e-12)


def test_recalibrated_statistics_are_those_at_the_moved_weights(subjects):
    subject = subjects["sgd"]
    plain = Plain(subject)
    gradients = plain.gradients(*plain.train)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    steps = {name: 0.5 * g / norm for name, g in gradients.items()}
    accuracy, loss = plain.at(steps, recalibrated=True)
    (row,) = measured(subject, PerturbationSetting(recalibrated=True), (0.5,))
    assert row["test_accuracy"] == pytest.approx(accuracy, abs=1.01 / 355)
    assert row["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert loss != pytest.approx(plain.at(steps)[1], rel=0.05)  # it matters


def test_a_strength_relative_to_filters_follows_the_same_loop_filter_by_filter(subjects):
    subject = subjects["sgd"]
    plain = Plain(subject)
    steps = {}
    for name, g in plain.gradients(*plain.train).items():
        w, steps[name] = plain.model.get_parameter(name), torch.zeros_like(g)
        if g.dim() < 2:
            continue
        for f in range(len(g)):
            if g[f].norm() > 0:
                steps[name][f] = 0.05 * w[f].detach().norm() * g[f] / g[f].norm()
    accuracy, loss = plain.at(steps)
    _, row = measured(subject, FILTER, (0.0, 0.05))
    assert row["test_accuracy"] == pytest.approx(accuracy, abs=1.01 / 355)
    assert row["test_loss"] == pytest.approx(loss, rel=1e-4)


def test_the_control_is_the_recorded_last_test_result_exactly(runs, subjects):
    for path in runs.rglob("result.json"):
        record = json.loads(path.read_text())
        row = measured(subjects[record["run"]["label"]], GRADIENT, (0.0,))[0]
        assert row["test_accuracy"] == record["last"]["test_accuracy"]
        assert row["test_loss"] == record["last"]["test_loss"]


def test_every_filter_moves_by_alpha_times_its_norm_and_vectors_stay(subjects):
    net = network(subjects["fsam"])
    step = 0.3 * wp.unit_step(net, direction(net, 0), "filter")
    for segment in net.flat.segments:
        eps, w = (net.flat.view(buffer, segment) for buffer in (step, net.flat.weights))
        if len(segment.shape) < 2:
            assert not eps.any(), segment.name
            continue
        for f in range(len(eps)):
            assert float(eps[f].norm()) == pytest.approx(0.3 * float(w[f].norm()), rel=1e-6)


def test_a_filter_without_a_gradient_stays_where_it_is(subjects):
    net = network(subjects["fsam"])
    step = wp.unit_step(net, torch.zeros_like(net.flat.weights, dtype=torch.float64), "filter")
    assert not step.any()


def test_noise_has_norm_alpha_comes_again_and_differs_between_draws(subjects):
    net = network(subjects["sgd"])
    first, second = (wp.unit_step(net, direction(net, draw), "none") for draw in (0, 1))
    assert float(first.norm()) == pytest.approx(1, rel=1e-12)
    assert torch.equal(first, wp.unit_step(net, direction(net, 0), "none"))
    assert abs(float(first @ second)) < 0.05  # of some 78,000 dimensions
    # Methods of a seed are moved in the same direction; another seed goes elsewhere.
    assert torch.equal(direction(net, 0), direction(network(subjects["fsam"]), 0))
    other = network(dataclasses.replace(subjects["sgd"], seed=1))
    assert not torch.equal(direction(net, 0), direction(other, 0))


def test_noise_rows_give_no_gradient_and_one_row_per_draw(subjects):
    rows = measured(subjects["sgd"], NOISE, (0.0, 0.5), draws=3)
    assert [(row["draw"], row["alpha"]) for row in rows] == [
        (draw, alpha) for draw in range(3) for alpha in (0.0, 0.5)
    ]
    assert {row["gradient_split"] for row in rows} == {""}
    assert {row["gradient_norm"] for row in rows} == {None}
    assert len({row["test_loss"] for row in rows if row["alpha"] == 0}) == 1
    assert len({row["test_loss"] for row in rows if row["alpha"] > 0}) == 3


def test_the_gradient_raises_the_loss_more_than_any_noise_of_the_same_norm(subjects):
    for subject in subjects.values():
        along = measured(subject, GRADIENT, (0.0, 0.5))
        noisy = measured(subject, NOISE, (0.5,), draws=8)
        control = along[0]["test_loss"]
        assert along[1]["test_loss"] > control + 0.2
        # On average noise costs next to nothing: in so many dimensions it meets no slope.
        assert np.mean([row["test_loss"] - control for row in noisy]) < 0.1
        assert max(row["test_loss"] for row in noisy) < along[1]["test_loss"]


def test_weights_in_memory_and_on_disk_are_what_they_were(subjects):
    subject = subjects["fsam"]
    content = subject.weights.read_bytes()
    net = network(subject)
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    points = [(0, 0.0), (0, 0.7), (0, 5.0)]
    for setting in (GRADIENT, NOISE, FILTER, PerturbationSetting(recalibrated=True)):
        list(wp._curve(net, setting, points))
        for name, tensor in net.model.state_dict().items():
            assert torch.equal(tensor, before[name]), name
    assert subject.weights.read_bytes() == content


def test_recalibration_measures_the_training_set_and_undoes_itself(subjects):
    net = network(subjects["sgd"])
    norms = [m for m in net.model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(n.momentum, n.training, n.num_batches_tracked.clone()) for n in norms]
    before_mean = norms[0].running_mean.clone()
    convolution = next(m for m in net.model.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        seen = convolution(net.normalised(net.train.images))  # feeds the first norm
    with wp.batch_statistics_at(net):
        torch.testing.assert_close(
            norms[0].running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(norms[0].running_var, seen.var((0, 2, 3)), rtol=2e-2, atol=1e-4)
        assert not any(norm.training for norm in norms)
    assert torch.equal(norms[0].running_mean, before_mean)
    for norm, (momentum, training, batches) in zip(norms, before, strict=True):
        assert (norm.momentum, norm.training) == (momentum, training)
        assert torch.equal(norm.num_batches_tracked, batches)


def test_an_error_at_the_moved_weights_leaves_the_statistics_unharmed(subjects):
    net = network(subjects["sgd"])
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), wp.batch_statistics_at(net):
        raise ZeroDivisionError
    assert all(torch.equal(t, before[n]) for n, t in net.model.state_dict().items())


def test_an_error_while_statistics_are_measured_leaves_the_network_unharmed(subjects, monkeypatch):
    def fails(_network):
        raise ZeroDivisionError

    net = network(subjects["sgd"])
    momenta = [getattr(module, "momentum", None) for module in net.model.modules()]
    before = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    monkeypatch.setattr(wp, "_see_training_images", fails)
    with pytest.raises(ZeroDivisionError), wp.batch_statistics_at(net):
        pytest.fail("the block was entered")
    assert all(torch.equal(t, before[n]) for n, t in net.model.state_dict().items())
    assert [getattr(module, "momentum", None) for module in net.model.modules()] == momenta
    assert not any(module.training for module in net.model.modules())


def without_seconds(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_half_of_the_rows_deleted_come_back_to_the_same_bits(subjects):
    subject, alphas = subjects["fsam"], (0.0, 0.3, 0.6, 0.9)
    measured(subject, GRADIENT, alphas)
    measured(subject, NOISE, alphas, draws=2)
    whole = TABLE.read(subject.beside(TABLE.name))
    TABLE.write(subject.beside(TABLE.name), whole[::2])
    assert len(wp.missing(subject, GRADIENT, alphas=alphas, draws=1)) == 2
    measured(subject, GRADIENT, alphas)
    measured(subject, NOISE, alphas, draws=2)
    again = TABLE.read(subject.beside(TABLE.name))
    assert without_seconds(again) == without_seconds(whole)
    kept = [row for row in again if row in whole]
    assert len(kept) >= len(whole) // 2  # seconds too: they were not measured again


def test_an_interrupted_curve_keeps_what_it_had(subjects):
    subject = subjects["sgd"]
    seen = []

    def stop_after_two(row):
        seen.append(row)
        if len(seen) == 2:
            raise KeyboardInterrupt

    points = [(0, 0.0), (0, 0.1), (0, 0.2)]
    with pytest.raises(KeyboardInterrupt):
        wp.measure(subject, GRADIENT, points, device=CPU, on_point=stop_after_two)
    assert rows_on_record(subject, TABLE) == seen
    assert wp.missing(subject, GRADIENT, alphas=(0.0, 0.1, 0.2), draws=1) == [(0, 0.2)]


def test_rows_measured_on_other_weights_are_not_taken_for_these(subjects, tmp_path):
    subject = subjects["sgd"]
    measured(subject, GRADIENT, (0.0,))
    others = dataclasses.replace(subjects["fsam"], tables=subject.tables)
    assert wp.missing(others, GRADIENT, alphas=(0.0,), draws=1) == [(0, 0.0)]
    measured(others, GRADIENT, (0.0,))
    assert [row["subject"] for row in TABLE.read(subject.beside(TABLE.name))] == [others.identity]


def test_other_data_than_those_of_the_training_are_refused(subjects):
    check_data(subjects["sgd"])
    with pytest.raises(DataError, match=r"digest 00000000, and the data have .*--data-dir"):
        check_data(dataclasses.replace(subjects["sgd"], digest="00000000"))


def test_a_damaged_weight_file_is_named(subjects, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(subjects["sgd"].weights.read_bytes()[:1000])
    with pytest.raises(Unmeasurable, match=r"weights\.pt is damaged or no weight file"):
        network(dataclasses.replace(subjects["sgd"], weights=path))
    torch.save({"weights": {"some": torch.zeros(1)}}, path)
    with pytest.raises(Unmeasurable, match=r"does not fit the model: .*Missing key"):
        network(dataclasses.replace(subjects["sgd"], weights=path))


# Logistic regression on one pixel, small enough for pencil and paper.


class Logistic(Model):
    """Logits W x + b."""

    def build(self, *, channels, classes, image_size):
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, 2))


def logistic(tmp_path, weight, bias) -> Subject:
    state = {"1.weight": torch.tensor(weight), "1.bias": torch.tensor(bias)}
    torch.save(state, tmp_path / "logistic.pt")  # a bare state_dict will do
    return subject_of(tmp_path / "logistic.pt", Logistic())


def test_logistic_regression_loses_what_pencil_and_paper_say(tmp_path):
    subject = logistic(tmp_path, [[-0.5], [0.5]], [0.0, 0.0])
    # At x = 0 the classes are even, at x = 1 the right one has sigmoid(1). The mean gradient by
    # the logits, then by W (x times it) and b:
    wrong = 1 - 1 / (1 + math.exp(-1))
    g_w = [wrong / 2, -wrong / 2]
    g_b = [(-0.5 + wrong) / 2, (0.5 - wrong) / 2]
    norm = math.sqrt(2 * g_w[0] ** 2 + 2 * g_b[0] ** 2)
    since = time.perf_counter()
    rows = measured(subject, GRADIENT, (0.0, 1.0, 2.0))
    assert 0 < sum(row["seconds"] for row in rows) < time.perf_counter() - since
    for row in rows:
        step = row["alpha"] / norm
        w = [-0.5 + step * g_w[0], 0.5 + step * g_w[1]]
        b = [step * g_b[0], step * g_b[1]]
        margin_at_1 = (w[1] + b[1]) - (w[0] + b[0])
        margin_at_0 = b[1] - b[0]
        losses = [
            math.log1p(math.exp(-margin)) for margin in (margin_at_1, margin_at_1, margin_at_0)
        ]
        assert row["test_loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
        right = [margin > 0 for margin in (margin_at_1, margin_at_1, margin_at_0)]
        assert row["test_accuracy"] == pytest.approx(sum(right) / 3)
        assert row["gradient_norm"] == pytest.approx(norm, rel=1e-6)
        assert row["weight_norm"] == pytest.approx(math.sqrt(0.5))
        assert row["classes"] == 2
    assert rows[0]["test_accuracy"] == pytest.approx(2 / 3)  # at a tie the first class is named


def test_where_there_is_no_gradient_the_curve_is_flat_and_finite(tmp_path):
    # So sure, and right, that every gradient is exactly zero in float32.
    subject = logistic(tmp_path, [[-400.0], [400.0]], [200.0, -200.0])
    control, moved = measured(subject, GRADIENT, (0.0, 1.0))
    assert moved["gradient_norm"] == moved["eps_norm"] == 0
    assert moved["test_loss"] == control["test_loss"]


def test_weights_that_are_not_finite_are_named_and_leave_no_table(tmp_path):
    subject = logistic(tmp_path, [[float("nan")], [0.5]], [0.0, 0.0])
    with pytest.raises(Unmeasurable, match="its gradient is not finite"):
        measured(subject, GRADIENT, (0.0, 1.0))
    assert not subject.beside(TABLE.name).exists()


def test_trials_of_a_tuning_are_left_out_as_in_reports(tmp_path):
    record_run(tmp_path, seed=0, seeds=(0,), trial=True)
    record_run(tmp_path, seed=7, seeds=(7,))
    assert [entry.seed for entry in recorded(load_runs(tmp_path), None)] == [7]


def test_points_of_a_sweep_come_in_the_order_of_their_settings_and_with_them(tmp_path):
    for rho in (0.5, 0.05):
        record_run(tmp_path, config=configuration(**{"method.rho": rho}))
    record_run(tmp_path, config=configuration(**{"method.rho": 0.5, "train.lr": 0.2}))
    assert [entry.settings for entry in recorded(load_runs(tmp_path), None)] == [
        "train.lr=0.1, rho=0.05",
        "train.lr=0.1, rho=0.5",
        "train.lr=0.2",
    ]


def test_a_network_is_built_for_the_images_as_it_sees_them(tmp_path):
    subject = logistic(tmp_path, [[-0.5] * 4, [0.5] * 4], [0.0, 0.0])
    seen = network(dataclasses.replace(subject, resize=2))
    assert (seen.model[1].in_features, seen.pixels) == (4, 4)
    white = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
    assert seen.model(seen.normalised(white)).tolist() == [[-2.0, 2.0]]
