"""Random erasing: torchvision's boxes, filled with 0 or with noise that belongs to the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chi2_contingency, chisquare, kstest, norm
from torchvision import transforms
from torchvision.transforms import functional

from fsam_cli.augment.random_erasing import RandomErasing

DRAWS = 20_000
BOX = ("top", "left", "height", "width")


def batch(count, height=12, width=10):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, height, width, generator=generator) + 10  # nowhere 0


def boxes(draws):
    return list(zip(*(draws[key].tolist() for key in BOX), strict=True))


def test_a_box_is_erased_as_torchvision_erases_it_and_nothing_else(rows):
    part, images = RandomErasing(probability=0.8), batch(300)
    draws = rows(part, 300, 12, 10)
    erased = part.apply(images, draws)
    for image, result, box in zip(images, erased, boxes(draws), strict=True):
        assert torch.equal(result, functional.erase(image, *box, torch.zeros(3, 1, 1)))
    assert 0.7 < erased.eq(0).flatten(1).any(1).double().mean() < 0.9


def test_boxes_are_distributed_as_torchvisions(rows):
    draws = rows(RandomErasing(probability=1), DRAWS, 12, 10)
    ours = list(zip(draws["height"].tolist(), draws["width"].tolist(), strict=True))
    theirs, image = transforms.RandomErasing(), torch.zeros(1, 12, 10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [
            theirs.get_params(image, theirs.scale, theirs.ratio, [0.0])[2:4] for _ in range(DRAWS)
        ]
    kinds = sorted({*ours, *drawn})
    frequent = [kind for kind in kinds if ours.count(kind) + drawn.count(kind) >= 20]
    table = [[each.count(kind) for kind in frequent] for each in (ours, drawn)]
    rest = [DRAWS - sum(counts) for counts in table]
    assert len(frequent) > 20
    assert chi2_contingency([[*c, r + 1] for c, r in zip(table, rest, strict=True)]).pvalue > 1e-3


def test_boxes_have_the_shares_and_shapes_asked_for(rows):
    draws = rows(RandomErasing(probability=1, scale=(0.1, 0.2), ratio=(2.0, 3.0)), DRAWS, 400, 500)
    share = draws["height"] * draws["width"] / (400 * 500)
    shape = (draws["height"] / draws["width"]).double().log()
    assert kstest(share, "uniform", (0.1, 0.1)).pvalue > 1e-3
    assert kstest(shape, "uniform", (np.log(2), np.log(1.5))).pvalue > 1e-3


def test_a_box_lies_anywhere_in_the_image_the_border_included(rows):
    draws = rows(RandomErasing(probability=1), DRAWS, 12, 10)
    four_by_three = (draws["height"] == 4) & (draws["width"] == 3)
    place = draws["top"][four_by_three] * 8 + draws["left"][four_by_three]
    counts = torch.bincount(place, minlength=9 * 8)
    assert len(counts) == 9 * 8
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_images_are_erased_as_often_as_asked(probability, rows):
    draws = rows(RandomErasing(probability=probability, scale=(0.1, 0.2)), DRAWS)
    share = (draws["height"] * draws["width"] > 0).double().mean()
    deviation = (probability * (1 - probability) / DRAWS) ** 0.5
    assert share == pytest.approx(probability, abs=4 * deviation)


@pytest.mark.parametrize("noise", [False, True])
def test_an_image_that_no_box_fits_in_stays(noise, rows):
    part = RandomErasing(probability=1, scale=(1.0, 1.0), noise=noise)
    images = batch(20)
    assert torch.equal(part.apply(images, rows(part, 20, 12, 10)), images)


@pytest.mark.parametrize("noise", [False, True])
def test_what_is_not_a_number_is_erased_too(noise):
    draws = {key: torch.tensor([value]) for key, value in zip(BOX, (1, 0, 3, 4), strict=True)}
    draws["seed"] = torch.tensor([5])
    images = torch.full((1, 2, 4, 5), torch.nan)
    erased = RandomErasing(noise=noise).apply(images, draws)
    assert erased[:, :, 1:, :4].isfinite().all()
    assert erased.isnan().sum() == 2 * (20 - 12)


@pytest.mark.parametrize("noise", [False, True])
def test_the_images_given_are_not_changed_and_an_empty_batch_is_none(noise, rows):
    part, images = RandomErasing(probability=1, noise=noise), batch(20)
    before = images.clone()
    part.apply(images, rows(part, 20, 12, 10))
    assert torch.equal(images, before)
    assert part.apply(images[:0], rows(part, 0, 12, 10)).shape == (0, 3, 12, 10)


def split_mix(seed, count):
    """SplitMix64 of Java's SplittableRandom, one number at a time."""
    numbers, state, whole = [], seed, 2**64 - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & whole
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & whole
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & whole
        numbers.append(z ^ (z >> 31))
    return np.array(numbers, dtype=np.uint64)


def test_noise_is_the_hash_of_the_images_seed_and_the_position(rows):
    assert split_mix(0, 1) == 0xE220A8397B1DCDAF  # as published
    part, images = RandomErasing(probability=1, noise=True), batch(30)
    draws = rows(part, 30, 12, 10)
    erased = part.apply(images, draws)
    assert len(set((draws["seed"] < 0).tolist())) == 2  # either half of the 64 bits' range
    for i, (top, left, height, width) in enumerate(boxes(draws)):
        numbers = split_mix(int(draws["seed"][i]) % 2**64, 360) >> np.uint64(41)
        noise = norm.ppf((numbers + 0.5) / 2**23).reshape(3, 12, 10)
        expected = images[i].clone()
        inside = np.s_[:, top : top + height, left : left + width]
        expected[inside] = torch.from_numpy(noise).float()[inside]
        torch.testing.assert_close(erased[i], expected, rtol=1e-4, atol=1e-5)


def test_the_least_of_the_noise_is_finite():
    draws = {key: torch.tensor([value]) for key, value in zip(BOX, (0, 0, 1, 1), strict=True)}
    draws["seed"] = torch.tensor([2**64 - 0x9E3779B97F4A7C15])  # the first pixel's hash is 0
    noise = RandomErasing(noise=True).apply(torch.zeros(1, 1, 2, 2), draws)[0, 0, 0, 0]
    assert noise.item() == pytest.approx(norm.ppf(2.0**-24), rel=1e-4)


def test_noise_is_standard_normal_and_of_each_pixel_channel_and_image_its_own(rows):
    part = RandomErasing(probability=1, noise=True)
    draws = rows(part, 2000, 12, 12)
    whole = {"top": 0, "left": 0, "height": 12, "width": 12}
    draws |= {key: torch.full((2000,), value) for key, value in whole.items()}
    noise = part.apply(torch.zeros(2000, 3, 12, 12), draws)
    assert kstest(noise.flatten()[::7], "norm").pvalue > 1e-3
    assert noise.double().std() == pytest.approx(1, abs=4 * (2 * noise.numel()) ** -0.5)
    for along in range(4):  # images, channels, rows, columns
        one, next_to_it = noise.double().unfold(along, 2, 1).unbind(-1)
        assert abs((one * next_to_it).mean()) < 4 * one.numel() ** -0.5


def test_with_noise_the_boxes_are_those_without(rows):
    plain, noisy = (rows(RandomErasing(noise=noise), 50) for noise in (False, True))
    assert all(torch.equal(plain[key], noisy[key]) for key in BOX)
    assert (set(plain), set(noisy)) == ({*BOX}, {*BOX, "seed"})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("noise", [False, True])
def test_the_gpu_erases_the_same(noise, rows):
    part, images = RandomErasing(noise=noise), batch(2000)
    draws = rows(part, 2000, 12, 10)
    erased = part.apply(images.cuda(), draws).cpu()
    torch.testing.assert_close(erased, part.apply(images, draws), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"probability": 1.1}, "less than or equal to 1"),
        ({"scale": (0.3, 0.1)}, "not a range of shares"),
        ({"ratio": (0.0, 1.0)}, "not a range of aspect ratios"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, words):
    with pytest.raises(ValidationError, match=words):
        RandomErasing(**settings)


def test_draws_never_change_between_versions():
    drawn = RandomErasing(probability=1, noise=True).draw(np.random.default_rng(0), 2, 32, 32)
    assert {key: rows.tolist() for key, rows in drawn.items()} == {
        "top": [15, 9],
        "left": [10, 25],
        "height": [7, 6],
        "width": [5, 4],
        "seed": [-5033054044544779613, 2272401731194454716],
    }
