"""The per-image Fisher information against one backward pass per image."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fsam_cli.engine.fisher import fisher_diagonal
from fsam_cli.errors import UsageError
from fsam_cli.minimisers.fsam import FisherSam
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


def test_batch_normalisation_is_refused_by_the_name_of_the_setting():
    with pytest.raises(UsageError, match=r"model\.norm: group"):
        diagonal(network("batch").train(), "empirical")


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
