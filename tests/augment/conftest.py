"""Real images for the augmentations, and Pillow's view of them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images


@cache
def _photographs() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@cache
def _digits() -> list[Image.Image]:
    return [Image.fromarray((digit * 15.9).astype(np.uint8)) for digit in load_digits().images[:50]]


@pytest.fixture(scope="session")
def real_images():
    """`real_images(n, height, width, mode)`: photographs, digits, a flat and a two-tone image."""

    def make(count: int, height: int, width: int, mode: str = "RGB") -> list[Image.Image]:
        random = np.random.default_rng(count)
        flat = Image.new("RGB", (width, height), (7, 200, 9)).convert(mode)
        two_tone = Image.new(mode, (width, height))
        two_tone.putpixel((width // 2, height // 2), 255 if mode == "L" else (255, 3, 128))
        images = [flat, two_tone]
        while len(images) < count:
            if len(images) % 4 == 0:
                source = _digits()[random.integers(50)].resize((width, height))
            else:
                scale = random.integers(1, 6)
                left, top = random.integers(0, 640 - scale * width), random.integers(0, 100)
                box = (left, top, left + scale * width, top + scale * height)
                source = _photographs()[random.integers(2)].crop(box).resize((width, height))
            images.append(source.convert(mode))
        return images

    return make


@pytest.fixture(scope="session")
def to_batch():
    """PIL images as (batch, channels, height, width) uint8."""

    def convert(images: list[Image.Image]) -> torch.Tensor:
        pixels = np.stack([np.array(image) for image in images])
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

    return convert


@pytest.fixture(scope="session")
def rows():
    """The draws of a part for `count` images, as tensors."""

    def draw(part, count: int, height: int = 32, width: int = 32, seed: int = 0):
        drawn = part.draw(np.random.default_rng(seed), count, height, width)
        return {key: torch.from_numpy(value) for key, value in drawn.items()}

    return draw


@pytest.fixture
def given(monkeypatch):
    """`given(transform, image, steps)`: torchvision's transform of a PIL image with these draws: at
    each step what `torch.randint` answers, by the number of outcomes that it is asked for."""

    def transformed(transform, image: Image.Image, steps: list[dict[int, int]]) -> Image.Image:
        remaining = iter(steps)
        answers: dict[int, int] = {}

        def randint(outcomes, size, dtype=None):
            if outcomes == 14:  # the operation, which torchvision draws first
                answers.update(next(remaining))
            return torch.tensor([answers[outcomes]])

        with monkeypatch.context() as patched:
            patched.setattr(torch, "randint", randint)
            result = transform(image)
        assert next(remaining, None) is None
        return result

    return transformed
