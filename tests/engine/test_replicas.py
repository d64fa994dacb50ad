"""Replicas together do what one process does alone with the whole batch."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fsam_cli.engine.batches import batch_bounds
from fsam_cli.engine.environment import environment
from fsam_cli.engine.evaluate import evaluate
from fsam_cli.engine.feed import Feed
from fsam_cli.engine.replicas import ALONE, part_of, refuse_apart, share_buffers
from fsam_cli.engine.run import loaded
from fsam_cli.engine.state import State
from fsam_cli.engine.train import Hooks, Training
from fsam_cli.errors import DataError, Interrupted, UsageError
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.friendly_sam import FriendlySam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.gsam import Gsam
from fsam_cli.minimisers.look_sam import LookSam
from fsam_cli.minimisers.msam import MomentumSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.records.store import RunDirectory
from tests.support.networks import at_step, batch, network, stepper
from tests.support.replicas import Threads, together

METHODS = {
    "sgd": (Sgd(), {}),
    "sam": (Sam(rho=0.5), {}),
    "sam, accumulated": (Sam(rho=0.5), {"micro_batch_size": 2}),
    "sam, clipped": (Sam(rho=0.5), {"clip_norm": 0.1}),
    "asam": (Asam(rho=1.0, eta=0.1), {}),
    "fsam": (FisherSam(gamma=0.5, eta=20.0), {}),
    "fsam, per image": (FisherSam(gamma=0.5, eta=100.0, fisher="empirical"), {}),
    "fsam, per class": (FisherSam(gamma=0.5, eta=100.0, fisher="model", labels="all"), {}),
    "natural gradient": (Sam(rho=0.5, natural_gradient={"eta": 20.0}), {}),
    "gsam": (Gsam(rho=0.5, alpha=0.7), {}),
    "friendly_sam": (FriendlySam(rho=0.5), {}),
    "look_sam": (LookSam(rho=0.5, k=2), {}),
    "msam": (MomentumSam(rho=0.5), {}),
    "m-sharpness": (Sam(rho=0.5, m_sharpness=4), {}),
}
BATCHES = [replace(batch(seed=seed), corrupted=torch.arange(12) % 3 == 0) for seed in range(3)]
NETWORK = network("group")  # made once: threads would draw from the same numbers
EQUAL = 2e-6  # rounding, of weights around 0.1 that move by some 0.1


def part(whole, replicas):
    """This replica's images of a batch."""
    size = len(whole.labels)
    first, last = part_of(0, size, replicas)
    return replace(whole.part(first, last), whole=size if replicas.size > 1 else None)


def stepped(method, settings, replicas):
    """Three steps; the stepper, and what the first passes saw."""
    one = stepper(copy.deepcopy(NETWORK), method, replicas=replicas, **settings)
    passes = [
        one.step(part(whole, replicas), at_step(number)) for number, whole in enumerate(BATCHES)
    ]
    return one, passes


@pytest.mark.parametrize("name", METHODS)
def test_replicas_step_as_one_process_does_with_the_whole_batch(name):
    method, settings = METHODS[name]
    alone, seen = stepped(method, settings, ALONE)
    several = together(3, lambda replicas: stepped(method, settings, replicas))
    first, _ = several[0]
    assert (first.flat.weights - alone.flat.weights).abs().max() < EQUAL
    for other, _ in several[1:]:
        assert torch.equal(other.flat.weights, first.flat.weights)
    for number, whole in enumerate(seen):
        parts = [passes[number] for _, passes in several]
        assert sum(each.loss for each in parts).item() == pytest.approx(whole.loss.item(), abs=1e-6)
        assert torch.equal(torch.cat([each.predictions for each in parts]), whole.predictions)


@pytest.mark.parametrize(
    ("name", "other"),
    [("sam", Sgd()), ("sam", Sam(rho=0.5, m_sharpness=4)), ("fsam", Sam(rho=0.5))],
)
def test_other_methods_are_told_apart_by_far(name, other):
    alone, _ = stepped(*METHODS[name], ALONE)
    different, _ = stepped(other, {}, ALONE)
    assert (different.flat.weights - alone.flat.weights).abs().max() > 1000 * EQUAL


def test_a_part_that_is_one_hill_is_a_replica_that_climbs_its_own():
    """m-sharpness, of hills as large as the parts or larger: nothing but the step is shared."""
    one, _ = together(2, lambda replicas: stepped(Sam(rho=0.5, m_sharpness=6), {}, replicas))[0]
    more, _ = together(2, lambda replicas: stepped(Sam(rho=0.5, m_sharpness=99), {}, replicas))[0]
    alone, _ = stepped(Sam(rho=0.5, m_sharpness=6), {}, ALONE)
    assert (one.flat.weights - alone.flat.weights).abs().max() < EQUAL
    assert torch.equal(one.flat.weights, more.flat.weights)


class Silent(Threads):
    """One of three who hears nothing of the others."""

    def __init__(self, rank):
        super().__init__(rank, 3, threading.Barrier(3), [])

    def sum_(self, tensor): ...


def test_every_part_has_dropout_masks_of_its_own():
    """Those of a process that accumulates over micro-batches of the same images."""
    model = network("group", dropout=0.5)
    alone = stepper(copy.deepcopy(model), Sgd(), micro_batch_size=4)
    alone.gradient(BATCHES[0], number=3)
    total = torch.zeros_like(alone.flat.gradient)
    for rank in range(3):
        one = stepper(copy.deepcopy(model), Sgd(), replicas=Silent(rank))
        one.gradient(part(BATCHES[0], one.replicas), number=3)
        total += one.flat.gradient
    assert (total - alone.flat.gradient).abs().max() < EQUAL


def test_every_part_draws_fisher_labels_of_its_own():
    """Of the same images at another place of the batch."""
    method = FisherSam(gamma=0.5, eta=100.0, fisher="model")
    one = stepper(copy.deepcopy(NETWORK), method)
    drawn = []
    for offset in (0, 4, 4):
        one.gradient(BATCHES[0], number=3)
        with one.climbed(replace(BATCHES[0], offset=offset), at_step(3)):
            drawn.append(one.fisher)
    assert torch.equal(drawn[1], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_a_hill_of_a_part_knows_its_place_in_the_batch():
    hill = replace(BATCHES[0].part(4, 8), whole=12).part(1, 3)
    assert (hill.offset, hill.total) == (5, 2)


def test_a_gradient_that_is_not_finite_somewhere_stops_all():
    def life(replicas):
        one = stepper(copy.deepcopy(NETWORK), Sam(rho=0.5), replicas=replicas)
        mine = part(BATCHES[0], replicas)
        if replicas.rank == 1:
            mine = replace(mine, images=mine.images * float("nan"))
        one.step(mine, at_step(0))
        return one

    before = stepper(copy.deepcopy(NETWORK), Sgd()).flat.weights
    for one in together(2, life):
        assert one.optimizer.nonfinite.item() == 1
        assert torch.equal(one.flat.weights, before)


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (12, [(5, 9), (9, 13), (13, 17)]),
        (13, [(5, 9), (9, 13), (13, 18)]),
        (2, [(5, 5), (5, 6), (6, 7)]),
    ],
)
def test_parts_follow_each_other_and_differ_by_an_image_at_most(size, parts):
    assert [part_of(5, 5 + size, Silent(rank)) for rank in range(3)] == parts


@pytest.mark.parametrize(
    ("images", "bounds"),
    [(23, [(0, 8), (8, 16), (16, 23)]), (22, [(0, 8), (8, 16), (16, 22)]), (21, [(0, 8), (8, 21)])],
)
def test_a_trailing_batch_without_two_images_for_each_joins_the_one_before(images, bounds):
    assert batch_bounds(images, 8, replicas=3) == bounds


def planned_run(tmp_path, *settings):
    experiment = load_experiment("quickstart", ["methods={sgd: {}}", "seeds=[3]", *settings])
    (one,) = plan(experiment, out=tmp_path, device="cpu")
    return one


@pytest.mark.parametrize("first", [0, 3])
def test_parts_of_the_batches_are_cut_from_those_of_one_process(tmp_path, first):
    run = planned_run(tmp_path, "data.augment=[crop, flip, cutout]")
    data, device = loaded(run), torch.device("cpu")
    whole = list(Feed(run, data, device).epoch(1, first))
    cut = [list(Feed(run, data, device, Silent(rank)).epoch(1, first)) for rank in range(3)]
    for batches in zip(whole, *cut, strict=True):
        all_of_it, *parts = batches
        for name in ("images", "labels", "corrupted"):
            together_ = torch.cat([getattr(each, name) for each in parts])
            assert torch.equal(together_, getattr(all_of_it, name))
        assert [each.total for each in parts] == [len(all_of_it.labels)] * 3
        ends = [len(each.labels) for each in parts]
        assert [each.offset for each in parts] == [0, ends[0], ends[0] + ends[1]]
        assert all_of_it.whole is None


def test_a_last_batch_of_too_few_images_for_all_is_none_of_its_own(tmp_path):
    run = planned_run(tmp_path, "train.batch_size=259")
    alone, shared = (
        Feed(run, loaded(run), torch.device("cpu"), replicas) for replicas in (ALONE, Silent(0))
    )
    assert alone.bounds[-2:] == [(1036, 1295), (1295, 1298)]
    assert shared.bounds[-1] == (1036, 1298)


def test_the_first_one_saves_for_all(tmp_path):
    run = planned_run(tmp_path)
    here = environment(torch.device("cpu"))
    states = [State(run, loaded(run), here) for _ in range(3)]  # threads share a generator

    def life(replicas):
        state = states[replicas.rank]
        state.replicas = replicas
        state.sums += replicas.rank
        state.save(tmp_path / f"{replicas.rank}.pt")
        replicas.gathered("it is written")
        state.sums.zero_()
        state.restore(tmp_path / "0.pt")
        return state.sums.tolist()

    assert together(3, life) == [[0.0] * 4, [1.0] * 4, [2.0] * 4]
    assert [file.name for file in tmp_path.glob("*.pt")] == ["0.pt"]


def test_nobody_saves_where_an_image_cannot_be_read(tmp_path):
    """The others are in the middle of a step."""
    run = planned_run(tmp_path)
    directory = RunDirectory(run.folder)
    here = environment(torch.device("cpu"))
    training = Training(run, loaded(run), directory, Hooks(), here, Silent(0))

    def unreadable(_epoch, _first):
        raise DataError("photo.jpg cannot be read")

    training.feed.epoch = unreadable
    with pytest.raises(DataError, match=r"photo\.jpg"):
        training.run()
    assert not directory.checkpoint.exists()


def test_a_loss_that_is_not_finite_somewhere_ends_all():
    def life(replicas):
        state = SimpleNamespace(diverged=lambda: replicas.rank == 1)
        return Training._diverged(SimpleNamespace(replicas=replicas, state=state))

    assert together(3, life) == [True, True, True]


@pytest.fixture
def training(tmp_path):
    """Makes a replica's training of two steps an epoch; each has a folder of its own here."""
    run, building = (
        planned_run(tmp_path, "train.epochs=2", "train.batch_size=650"),
        threading.Lock(),
    )
    here = environment(torch.device("cpu"))

    def made(replicas, hooks=None):
        directory = RunDirectory(tmp_path / str(replicas.rank))
        directory.path.mkdir()
        with building:  # threads share a generator, and a step seeds it
            one = Training(run, loaded(run), directory, hooks or Hooks(), here, replicas)
        replicas.gathered("built")
        return one

    return made


def test_the_first_one_is_asked_to_stop_and_all_do_at_the_end_of_an_epoch(training):
    def life(replicas):
        one = training(
            replicas, Hooks(should_stop=lambda: replicas.rank == 0 and one.state.step == 2)
        )
        with pytest.raises(Interrupted):
            one.run()
        written = sorted(file.name for file in one.directory.path.iterdir())
        return one.state.step, written

    assert together(2, life) == [(2, ["checkpoint.pt", "metrics.csv"]), (2, [])]


def test_a_training_whose_weights_come_apart_is_not_continued(training):
    def life(replicas):
        one = training(replicas)
        one.state.flat.weights[0] += replicas.rank
        one.run()

    with pytest.raises(UsageError, match="no longer hold the same weights"):
        together(2, life)


class Held:
    """Held-out images, and who normalises them: nobody needs to."""

    pixels = 36

    def __init__(self, size):
        whole = batch(size, seed=7)
        self.images, self.labels = whole.images, whole.labels

    def __len__(self):
        return len(self.labels)

    def normalised(self, images):
        return images


@pytest.mark.parametrize("size", [50, 3, 2])  # of two images one replica has none
def test_an_evaluation_is_shared_out_and_everybody_has_the_whole(size):
    held, model = Held(size), network("batch")
    whole = evaluate(model, held, held, bf16=False)
    each = together(
        3,
        lambda replicas: evaluate(copy.deepcopy(model), held, held, bf16=False, replicas=replicas),
    )
    for one in each:
        assert torch.equal(one.predictions, whole.predictions)
        assert torch.equal(one.ranks, whole.ranks)
        assert torch.allclose(one.losses, whole.losses, atol=1e-6)
        assert one.accuracy == whole.accuracy
        assert one.loss == pytest.approx(whole.loss)


def test_buffers_are_the_first_replicas():
    model = network("batch")

    def life(replicas):
        one = stepper(copy.deepcopy(model), Sam(rho=0.5), replicas=replicas)
        one.step(part(BATCHES[0], replicas), at_step(0))
        own = [buffer.clone() for buffer in one.model.buffers()]
        share_buffers(one.model, replicas)
        return own, list(one.model.buffers())

    (own, first), (others, second) = together(2, life)
    assert any(not torch.equal(a, b) for a, b in zip(own, others, strict=True))
    for mine, one, other in zip(own, first, second, strict=True):
        assert torch.equal(mine, one)
        assert torch.equal(mine, other)


def test_weights_that_come_apart_are_an_error():
    def life(replicas, apart):
        weights = torch.linspace(-1, 1, 1000)
        weights[500] += apart * replicas.rank * 2**-20
        refuse_apart(weights, replicas)

    together(2, lambda replicas: life(replicas, 0.0))
    with pytest.raises(UsageError, match="no longer hold the same weights"):
        together(2, lambda replicas: life(replicas, 1.0))
