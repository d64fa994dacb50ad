"""Mixup and CutMix: pixels by hand, labels by the area, draws by the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fsam_cli.augment._pipeline import Pipeline
from fsam_cli.augment.cutmix import CutMix
from fsam_cli.augment.mixup import Mixup

SIZE = 12, 10  # height and width


def rows(part, images=4000, seed=0):
    drawn = part.draw(np.random.default_rng(seed), images, *SIZE)
    return {key: torch.from_numpy(value) for key, value in drawn.items()}


def chosen(draws, numbers):
    return {key: value[numbers] for key, value in draws.items()}


def test_mixup_lays_the_first_image_over_the_last():
    images = torch.tensor([1.0, 10.0, 100.0])[:, None, None, None].expand(3, 2, 4, 4)
    draws = {"share": torch.tensor([0.75, 0.2, 0.5])}
    mixed = Mixup().apply(images, draws)
    assert mixed.shape == images.shape
    # 0.75 x 1 + 0.25 x 100; the one in the middle is its own partner; 0.5 x 100 + 0.5 x 1
    expected = torch.tensor([25.75, 10.0, 50.5])[:, None, None, None].expand(3, 2, 4, 4)
    torch.testing.assert_close(mixed, expected)
    assert Mixup().share(draws, 4, 4).tolist() == pytest.approx([0.75, 0.2, 0.5])


def test_cutmix_pastes_a_box_and_counts_what_is_seen_of_it():
    images = torch.randn(64, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    draws = rows(CutMix(), images=64)
    mixed, share = CutMix().apply(images, draws), CutMix().share(draws, *SIZE)
    for number in range(64):
        expected, pasted = images[number].clone(), 0
        top, bottom, left, right = (
            int(draws[key][number]) for key in ("top", "bottom", "left", "right")
        )
        for row in range(top, bottom):
            for column in range(left, right):
                expected[:, row, column] = images[63 - number, :, row, column]
                pasted += 1
        assert torch.equal(mixed[number], expected)
        assert share[number].item() == pytest.approx(1 - pasted / (SIZE[0] * SIZE[1]), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_are_drawn_from_beta(alpha):
    """Mean 1/2, variance 1 / (4 (2 alpha + 1))."""
    share = rows(Mixup(alpha=alpha))["share"].double()
    assert share.mean().item() == pytest.approx(0.5, abs=0.03)
    assert share.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_a_box_has_the_images_proportions_and_a_centre_anywhere():
    """Of a large image, where rounding to pixels is little."""
    drawn = CutMix(alpha=1.0).draw(np.random.default_rng(0), 4000, 1000, 500)
    height, width = drawn["bottom"] - drawn["top"], drawn["right"] - drawn["left"]
    assert drawn["top"].min() == drawn["left"].min() == 0
    assert (drawn["bottom"].max(), drawn["right"].max()) == (1000, 500)
    inside = (drawn["top"] > 0) & (drawn["bottom"] < 1000)
    inside &= (drawn["left"] > 0) & (drawn["right"] < 500)
    assert np.abs(height[inside] / 1000 - width[inside] / 500).max() < 0.005
    # Boxes that no border cuts have the area 1 - s; of all boxes, s uniform and the centre too:
    # along an axis E[seen | side a] = a - a²/4, so E[area] = E[(a - a²/4)²], a² = 1 - s uniform.
    a = np.sqrt(np.random.default_rng(1).random(10**6))
    area = (height / 1000 * width / 500).mean()
    assert area == pytest.approx(((a - a**2 / 4) ** 2).mean(), abs=0.01)


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_a_share_of_the_images_is_left_alone(kind):
    share = kind(probability=0.3).share(rows(kind(probability=0.3)), *SIZE)
    untouched = (share == 1).double().mean().item()
    always = (kind().share(rows(kind()), *SIZE) == 1).double().mean().item()
    assert untouched == pytest.approx(0.7 + 0.3 * always, abs=0.03)


def pipeline(*parts):
    made = Pipeline(list(parts), mean=(0.0,), std=(1.0,))
    made.draw(
        lambda purpose: np.random.default_rng([5, *purpose.encode()]),
        images=400,
        height=SIZE[0],
        width=SIZE[1],
    )
    return made


@pytest.fixture(scope="module")
def images():
    return torch.randn(400, 1, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "parts", [[("mixup", Mixup())], [("mixup", Mixup()), ("cutmix", CutMix())]]
)
def test_how_much_an_image_keeps_does_not_depend_on_its_batch(images, parts):
    whole = pipeline(*parts).mixed(images, torch.arange(400))
    numbers = torch.tensor([7, 300, 12, 399, 5])
    few = pipeline(*parts).mixed(images[numbers], numbers)
    assert torch.equal(few[1], whole[1][numbers])
    assert not torch.equal(few[0], whole[0][numbers])  # other partners


def test_of_several_each_image_undergoes_one(images):
    numbers = torch.arange(400)
    one = pipeline(("mixup", Mixup())).mixed(images, numbers)
    other = pipeline(("cutmix", CutMix())).mixed(images, numbers)
    both = pipeline(("mixup", Mixup()), ("cutmix", CutMix())).mixed(images, numbers)
    by_mixup = [torch.equal(both[0][n], one[0][n]) and both[1][n] == one[1][n] for n in numbers]
    by_cutmix = [
        torch.equal(both[0][n], other[0][n]) and both[1][n] == other[1][n] for n in numbers
    ]
    assert all(a or b for a, b in zip(by_mixup, by_cutmix, strict=True))
    assert 160 < sum(by_mixup) < 240


def test_without_any_nothing_is_mixed(images):
    assert pipeline().mixed(images, torch.arange(400)) is None


def test_what_blends_batches_comes_last():
    from fsam_cli.augment.crop import Crop
    from fsam_cli.augment.cutout import Cutout

    told = "'cutout' augments normalised images and stands after 'mixup', which augments whole"
    with pytest.raises(ValueError, match=f"{told} batches; put 'mixup' last"):
        pipeline(("crop", Crop()), ("mixup", Mixup()), ("cutout", Cutout()))
