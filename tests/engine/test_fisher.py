"""The per-image Fisher information against one backward pass per image."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fsam_cli import FisherSAM, SharpnessAware
from fsam_cli.engine.fisher import fisher_diagonal, refuse_batch_statistics
from fsam_cli.errors import UsageError
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.recipe.schema import Optimizer
from tests.support.networks import at_step, batch, network, stepper

BATCH = batch(40)  # more than one chunk of images


def one_by_one(model, weighted_labels):
    """sum over (labels, shares) and images of share (∇ log p(y|x))², over the images' number."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for labels, shares in weighted_labels:
        for i in range(len(labels)):
            model.zero_grad()
            (-F.cross_entropy(model(BATCH.images[i : i + 1]), labels[i : i + 1])).backward()
            for name, p in model.named_parameters():
                total[name] += float(shares[i]) * p.grad**2
    return {name: f / len(BATCH.labels) for name, f in total.items()}


def diagonal(model, source, draws=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return fisher_diagonal(
        model, BATCH.images, BATCH.labels, source=source, draws=draws, generator=generator
    )


def test_empirical_fisher_is_the_mean_of_squared_single_gradients():
    model = network("group").train()
    expected = one_by_one(model, [(BATCH.labels, torch.ones(40))])
    for name, f in diagonal(model, "empirical").items():
        torch.testing.assert_close(f, expected[name], rtol=1e-4, atol=1e-7)


def test_model_fisher_summed_over_classes_is_exact():
    model = network("group").train()
    with torch.no_grad():
        p = model(BATCH.images).softmax(1)
    expected = one_by_one(model, [(torch.full_like(BATCH.labels, c), p[:, c]) for c in range(3)])
    for name, f in diagonal(model, "model", "all").items():
        torch.testing.assert_close(f, expected[name], rtol=1e-4, atol=1e-7)


def test_drawn_labels_approach_the_exact_sum():
    model = network("group").train()
    exact = torch.cat([f.flatten() for f in diagonal(model, "model", "all").values()])
    drawn = torch.cat([f.flatten() for f in diagonal(model, "model", 200).values()])
    assert (drawn - exact).norm() < 0.1 * exact.norm()
    one = torch.cat([f.flatten() for f in diagonal(model, "model", 1).values()])
    again = torch.cat([f.flatten() for f in diagonal(model, "model", 1).values()])
    assert torch.equal(one, again)


def test_dropout_draws_a_mask_for_each_image():
    """Of one image in one mask, half of the features would have no gradient at all."""
    model = network("group", dropout=0.5).train()
    images = BATCH.images[:1].expand(20, -1, -1, -1)
    labels = BATCH.labels[:1].expand(20)
    f = fisher_diagonal(
        model, images, labels, source="empirical", draws=1, generator=torch.Generator()
    )
    unseen = (f["5.weight"] == 0).all(dim=0)  # features of the last layer
    assert unseen.double().mean() < 0.1


def test_batch_normalisation_is_refused_by_the_name_of_the_setting():
    with pytest.raises(UsageError, match=r"model\.norm: group"):
        diagonal(network("batch").train(), "empirical")


def test_labels_may_be_of_any_whole_number_type():
    model = network("group").train()
    wide, narrow = (
        fisher_diagonal(
            model,
            BATCH.images,
            BATCH.labels.to(dtype),
            source="empirical",
            draws=1,
            generator=torch.Generator(),
        )
        for dtype in (torch.int64, torch.int32)
    )
    assert all(torch.equal(wide[name], narrow[name]) for name in wide)


def test_soft_labels_are_refused():
    model = network("group").train()
    with pytest.raises(UsageError, match="class labels"):
        fisher_diagonal(
            model,
            BATCH.images,
            torch.ones(40, 3) / 3,
            source="empirical",
            draws=1,
            generator=torch.Generator(),
        )


def test_label_smoothing_does_not_reach_the_fisher_information():
    flats = []
    for smoothing in (0.0, 0.3):
        s = stepper(
            network("group"),
            FisherSam(fisher="empirical", eta=1.0),
            label_smoothing=smoothing,
        )
        s.gradient(BATCH, 0)
        s.climb(BATCH, at_step())
        flats.append(s.fisher.clone())
    assert torch.equal(flats[0], flats[1])


@pytest.mark.parametrize("source", ["empirical", "model"])
def test_a_step_with_per_image_fisher_stands_on_its_ellipsoid(source):
    s = stepper(network("group"), FisherSam(gamma=0.3, eta=2.0, fisher=source))
    s.gradient(BATCH, 0)
    s.climb(BATCH, at_step())
    eps, fisher = s.perturbation(), 1 + 2.0 * s.fisher
    assert (eps * fisher * eps).sum().sqrt().item() == pytest.approx(0.3, rel=1e-4)
    assert not torch.equal(s.fisher, s.flat.gradient**2)


def test_a_plain_step_with_a_natural_gradient_uses_its_own_fisher_information():
    """Not that of an earlier step, and not the gradient's square in its place."""

    class Sometimes(FisherSam):
        def active_in(self, epoch, epochs):
            return epoch == 0

    method = Sometimes(fisher="empirical", eta=50.0, natural_gradient=True)
    s = stepper(network("group"), method, optimizer=Optimizer(name="sgd"))
    s.step(BATCH, at_step(0, 0.0, epoch=0, epochs=2))
    other = batch(seed=9)
    s.gradient(other, 1)
    g, before = s.flat.gradient.clone(), s.flat.weights.clone()
    f = torch.zeros_like(g)
    s.flat.fill(
        f,
        fisher_diagonal(
            s.model,
            other.images,
            other.labels,
            source="empirical",
            draws=1,
            generator=torch.Generator(),
        ),
    )
    s.step(other, at_step(1, 0.1, epoch=1, epochs=2))
    torch.testing.assert_close(s.flat.weights, before - 0.1 * g / (1 + 50.0 * f))


class Mixes(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, images):
        return self.norm(images)


def test_instance_normalisation_mixes_no_images_and_is_refused_only_for_its_statistics():
    refuse_batch_statistics(Mixes(nn.InstanceNorm2d(3)).train())
    with pytest.raises(UsageError, match=r"'norm' \(InstanceNorm2d\) keeps running statistics"):
        refuse_batch_statistics(Mixes(nn.InstanceNorm2d(3, track_running_stats=True)).train())
    with pytest.raises(UsageError, match="mixes the images of a batch"):
        refuse_batch_statistics(Mixes(nn.BatchNorm2d(3)).train())


class Weighed(Minimiser):
    """A method of one's own that asks for the Fisher information of single images."""

    @property
    def radius(self) -> float:
        return 0.1

    @property
    def fisher_source(self):
        return "empirical"

    def direction(self, at):
        assert at.f.shape == at.g.shape
        return at.g / (1 + at.f)


@pytest.mark.parametrize("labels", [1, 3, "all"])
@pytest.mark.parametrize("source", ["empirical", "model"])
def test_a_batch_whose_loss_is_not_finite_is_skipped_and_counted(source, labels):
    """There is no label to draw from such a prediction, which is no reason to stop."""
    poisoned = batch(seed=2)
    poisoned.images[3, 0, 0, 0] = float("nan")
    settings = {"fisher": source, "labels": labels}
    s = stepper(network("group"), FisherSam(**settings))
    before = s.flat.weights.clone()
    assert s.step(poisoned, at_step()).loss.isnan()
    assert s.optimizer.nonfinite.item() == 1
    assert torch.equal(s.flat.weights, before)
    model = network("group").train()
    optimizer = FisherSAM(model, torch.optim.SGD(model.parameters(), lr=0.1), **settings)

    def closure():
        loss = F.cross_entropy(model(poisoned.images), poisoned.labels)
        loss.backward()
        return loss

    optimizer.step(closure, batch=(poisoned.images, poisoned.labels))
    assert optimizer.skipped_steps == 1
    assert all(map(torch.equal, model.parameters(), network("group").parameters()))


def spectral():
    layer = torch.nn.utils.parametrizations.spectral_norm(nn.Linear(72, 3))
    with torch.no_grad():  # far from its singular vectors, so that a pass moves them
        layer.parametrizations.weight.original.mul_(torch.arange(1.0, 4).reshape(3, 1))
    return layer


class Counts(nn.Module):
    """Counts its passes, in place or not."""

    def __init__(self, *, in_place):
        super().__init__()
        self.in_place, self.layer = in_place, nn.Linear(72, 3)
        self.register_buffer("n", torch.zeros(()))

    def forward(self, images):
        if self.in_place:
            self.n += 1
        else:
            self.n = self.n + 1
        return self.layer(images) / self.n


@pytest.mark.parametrize("labels", [1, "all"])
@pytest.mark.parametrize("source", ["empirical", "model"])
@pytest.mark.parametrize(
    "layer",
    [spectral, lambda: Counts(in_place=True), lambda: Counts(in_place=False)],
    ids=["spectral norm", "in place", "another tensor"],
)
def test_buffers_move_in_the_first_pass_and_not_in_those_of_the_fisher_information(
    layer, source, labels
):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), layer())
    once, whole = (
        copy.deepcopy(model).train(),
        stepper(model, FisherSam(fisher=source, labels=labels)),
    )
    once(BATCH.images)
    whole.step(BATCH, at_step(0, 0.0))
    assert whole.fisher.norm() > 0
    assert all(map(torch.equal, model.buffers(), once.buffers()))


def test_any_method_may_ask_for_the_fisher_information():
    model = network("group").train()
    stepper(model, Weighed()).step(BATCH, at_step())
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = SharpnessAware(model, torch.optim.SGD(model.parameters(), lr=0.1), Weighed())

    def closure():
        loss = F.cross_entropy(model(BATCH.images), BATCH.labels)
        loss.backward()
        return loss

    optimizer.step(closure, batch=(BATCH.images, BATCH.labels))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
