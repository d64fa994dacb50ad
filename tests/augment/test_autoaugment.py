"""AutoAugment is torchvision's on PIL images: policies, distribution, pixels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torchvision import transforms
from torchvision.transforms import AutoAugmentPolicy

from fsam_cli.augment.autoaugment import POLICIES, AutoAugment

TORCHVISION = transforms.AutoAugment(AutoAugmentPolicy.CIFAR10)
DRAWS = 40_000


def outcomes(policy, coin, negative):
    """What each image undergoes: (operation, signed level) or nothing, twice."""
    found = []
    for number, coins, signs in zip(policy.tolist(), coin, negative, strict=True):
        steps = zip(TORCHVISION.policies[number], coins.tolist(), signs.tolist(), strict=True)
        found.append(
            tuple((name, level, minus) if c <= p else None for (name, p, level), c, minus in steps)
        )
    return Counter(found)


def torchvision_draws(count):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [TORCHVISION.get_params(len(TORCHVISION.policies)) for _ in range(count)]
    policy, coin, sign = zip(*drawn, strict=True)
    return torch.tensor(policy), torch.stack(coin), torch.stack(sign) == 0


def test_policies_are_torchvisions():
    theirs = [
        tuple((name, probability, level or 0) for name, probability, level in pair)
        for pair in TORCHVISION.policies
    ]
    assert [tuple(map(tuple, pair)) for pair in POLICIES] == theirs


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(8, 8), (32, 32)], ids=str)
def test_with_equal_draws_it_is_torchvision_on_pil_images(
    size, mode, real_images, to_batch, rows, monkeypatch
):
    images = real_images(500, *size, mode)
    draws = rows(AutoAugment(), len(images), *size)
    drawn = iter(zip(draws["policy"], draws["coin"], (~draws["negative"]).long(), strict=True))
    monkeypatch.setattr(TORCHVISION, "get_params", lambda count: next(drawn))
    expected = to_batch([TORCHVISION(image) for image in images])
    assert torch.equal(AutoAugment().apply(to_batch(images), draws), expected)


def test_every_operation_occurs_about_as_often_as_its_probabilities_say(rows):
    draws = rows(AutoAugment(), DRAWS)
    counts = Counter()
    for pair, times in outcomes(*draws.values()).items():
        for step in pair:
            counts[step[0] if step else "none"] += times
    expected = Counter(none=0.0)
    for pair in TORCHVISION.policies:
        for name, probability, _ in pair:
            expected[name] += DRAWS / 25 * probability
            expected["none"] += DRAWS / 25 * (1 - probability)
    assert set(counts) == set(expected)
    # Both steps of one image are counted: nearly, but not quite, independent.
    assert chisquare([counts[k] for k in expected], list(expected.values())).pvalue > 1e-3


def test_what_images_undergo_is_distributed_as_in_torchvision(rows):
    ours = outcomes(*rows(AutoAugment(), DRAWS).values())
    theirs = outcomes(*torchvision_draws(DRAWS))
    frequent = [pair for pair in ours | theirs if ours[pair] + theirs[pair] >= 20]
    rare = set(ours | theirs) - set(frequent)
    table = [[c[k] for k in frequent] + [sum(c[k] for k in rare)] for c in (ours, theirs)]
    assert len(frequent) > 100
    assert chi2_contingency(table).pvalue > 1e-3


def test_the_numbers_of_an_image_are_uncorrelated_with_each_other_and_its_neighbours(rows):
    draws = rows(AutoAugment(), DRAWS)
    numbers = torch.cat(
        [draws["policy"][:, None], draws["coin"], draws["negative"]], dim=1
    ).double()
    columns = torch.cat([numbers[:-1], numbers[1:]], dim=1)
    correlation = torch.corrcoef(columns.T) - torch.eye(10)
    assert correlation.abs().max() < 5 / DRAWS**0.5


def test_an_image_comes_out_the_same_in_any_batch_and_any_order(real_images, to_batch, rows):
    images = to_batch(real_images(300, 16, 16))
    draws = rows(AutoAugment(), len(images))
    whole = AutoAugment().apply(images, draws)
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(images)))
    for size in (1, 7, 150):
        for numbers in order.split(size)[:40]:
            part = AutoAugment().apply(images[numbers], {k: v[numbers] for k, v in draws.items()})
            assert torch.equal(part, whole[numbers])


def test_the_images_given_are_not_changed(real_images, to_batch, rows):
    images = to_batch(real_images(100, 8, 8))
    before = images.clone()
    AutoAugment().apply(images, rows(AutoAugment(), 100))
    assert torch.equal(images, before)


def test_images_that_are_neither_grey_nor_colour_are_refused(rows):
    images = torch.zeros((4, 2, 8, 8), dtype=torch.uint8)
    with pytest.raises(ValueError, match="2 channels"):
        AutoAugment().apply(images, rows(AutoAugment(), 4))


def test_a_coin_of_just_the_probability_is_up_to_it_as_in_torchvision():
    assert POLICIES[14][1] == ("Invert", 0.0, 0)
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    draws = {
        "policy": torch.tensor([14]),
        "coin": torch.tensor([[1.0, 0.0]]),
        "negative": torch.tensor([[False, False]]),
    }
    assert torch.equal(AutoAugment().apply(images, draws), 255 - images)


def test_draws_never_change_between_versions():
    drawn = AutoAugment().draw(np.random.default_rng(0), 4, 32, 32)
    assert drawn["policy"].tolist() == [21, 15, 12, 6]
    assert drawn["negative"].astype(int).tolist() == [[1, 0], [0, 0], [1, 1], [1, 0]]
