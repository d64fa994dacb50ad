"""Small sets in the real format of 102 Flowers and Stanford Cars, and weights to start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from fsam_cli.models.timm_networks import VitB16


def picture(path: Path, seed: int, *, width: int = 40, height: int = 30) -> np.ndarray:
    """Write a random picture.

    Returns:
        (height, width, 3) uint8, what a reader gets if the ending is one without losses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def write_flowers(
    root: Path, *, train: int = 3, validation: int = 3, test: int = 4, classes: int = 5
) -> Path:
    """`root/flowers-102` as torchvision lays it out; image n has label n % classes + 1.

    The parts take turns with the numbers, as those of the published set are mixed, too.
    """
    folder = root / "flowers-102"
    count = train + validation + test
    for number in range(1, count + 1):
        picture(folder / f"jpg/image_{number:05}.jpg", number)
    labels = np.arange(1, count + 1) % classes + 1
    savemat(folder / "imagelabels.mat", {"labels": labels.astype(np.uint8)})
    numbers = np.random.default_rng(0).permutation(np.arange(1, count + 1)).astype(np.uint16)
    parts = np.split(numbers, [train, train + validation])
    savemat(folder / "setid.mat", dict(zip(("trnid", "valid", "tstid"), parts, strict=True)))
    return folder


def write_cars(root: Path, *, train: int = 6, test: int = 4, classes: int = 3) -> Path:
    """`root/stanford_cars` as torchvision lays it out; image n has label n % classes + 1."""
    folder = root / "stanford_cars"
    names = np.array([f"Make {number} 2012" for number in range(classes)], dtype=object)
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": names})
    annotations = {
        "train": (train, folder / "devkit/cars_train_annos.mat"),
        "test": (test, folder / "cars_test_annos_withlabels.mat"),
    }
    for part, (count, path) in annotations.items():
        kind = [(name, object) for name in ("bbox_x1", "class", "fname")]
        table = np.empty(count, dtype=kind)
        for number in range(1, count + 1):
            name = f"{number:05}.jpg"
            picture(folder / f"cars_{part}" / name, number)
            table[number - 1] = (np.uint8(1), np.uint8(number % classes + 1), name)
        savemat(path, {"annotations": table.reshape(1, -1)})
    return folder


def write_vit(root: Path, *, image_size: int = 32) -> Path:
    """`root/vit_b16.pt`: weights of ViT-B/16 for 1,000 classes, as timm gives them."""
    torch.manual_seed(0)
    network = VitB16().build(channels=3, classes=1000, image_size=image_size)
    path = root / "vit_b16.pt"
    torch.save(network.state_dict(), path)
    return path


def write_imagenet(root: Path, *, classes: int = 3, train: int = 2, test: int = 1) -> Path:
    """`root/train` and `root/val`: so many pictures of each class, in the form of ImageNet."""
    for part, count in (("train", train), ("val", test)):
        for label in range(classes):
            for number in range(count):
                picture(root / part / f"n{label:08}" / f"{number}.JPEG", 100 * label + number)
    return root
