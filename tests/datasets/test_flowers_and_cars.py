"""102 Flowers and Stanford Cars in their published form: the parts, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fsam_cli.datasets.cars import Cars
from fsam_cli.datasets.flowers import Flowers
from fsam_cli.errors import DataError
from tests.support.vision import write_cars, write_flowers


def squares(folder, names, size):
    """What Pillow makes of the files."""
    images = [
        Image.open(folder / name).resize((size, size), Image.Resampling.BILINEAR) for name in names
    ]
    return np.stack([np.array(image).transpose(2, 0, 1) for image in images])


def test_flowers_are_trained_on_in_both_published_parts_in_the_order_of_setid(tmp_path):
    from scipy.io import loadmat

    folder = write_flowers(tmp_path, train=3, validation=2, test=4, classes=5)
    loaded = Flowers(size=16).load(tmp_path)
    ids = {key: loadmat(folder / "setid.mat")[key][0] for key in ("trnid", "valid", "tstid")}
    train = [*ids["trnid"], *ids["valid"]]
    assert loaded.train_labels.tolist() == [number % 5 for number in train]
    assert loaded.test_labels.tolist() == [number % 5 for number in ids["tstid"]]
    assert loaded.class_names == ("1", "2", "3", "4", "5")
    expected = squares(folder / "jpg", [f"image_{number:05}.jpg" for number in train], 16)
    assert np.array_equal(loaded.train_images.numpy(), expected)
    assert loaded.mean == pytest.approx(expected.mean(axis=(0, 2, 3)) / 255)
    assert loaded.std == pytest.approx(expected.std(axis=(0, 2, 3), dtype=float, ddof=1) / 255)


def test_cars_are_labelled_as_their_annotations_say(tmp_path):
    folder = write_cars(tmp_path, train=5, test=4, classes=3)
    loaded = Cars(size=16).load(tmp_path)
    assert loaded.class_names == ("Make 0 2012", "Make 1 2012", "Make 2 2012")
    assert loaded.train_labels.tolist() == [1, 2, 0, 1, 2]
    assert loaded.test_labels.tolist() == [1, 2, 0, 1]
    names = [f"{number:05}.jpg" for number in range(1, 5)]
    assert np.array_equal(loaded.test_images.numpy(), squares(folder / "cars_test", names, 16))


@pytest.mark.parametrize(("kind", "write"), [(Flowers, write_flowers), (Cars, write_cars)])
def test_the_set_may_lie_in_the_data_folder_or_be_it_and_is_known_by_its_content(
    tmp_path, kind, write
):
    folder = write(tmp_path)
    outside, itself = kind(size=8).fingerprint(tmp_path), kind(size=8).fingerprint(folder)
    assert (outside.train_size, outside.test_size) == (6, 4)
    assert outside.shape == (3, 8, 8)
    assert outside.verified is None
    assert outside == itself
    picture = next(folder.rglob("*.jpg"))
    picture.write_bytes(
        next(path for path in folder.rglob("*.jpg") if path != picture).read_bytes()
    )
    assert kind(size=8).fingerprint(tmp_path).digest != outside.digest


def test_a_folder_without_the_files_names_the_one_that_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"no file .*imagelabels\.mat"):
        Flowers(size=8).load(tmp_path)
    with pytest.raises(DataError, match=r"no file .*cars_meta\.mat"):
        Cars(size=8).load(tmp_path)
    for kind in (Flowers, Cars):
        with pytest.raises(DataError, match="--data-dir"):
            kind(size=8).load(None)


def test_damaged_labels_are_refused_with_the_name_of_their_file(tmp_path):
    folder = write_flowers(tmp_path)
    labels = folder / "imagelabels.mat"
    for content in (b"", b"no such thing", labels.read_bytes()[:150]):
        labels.write_bytes(content)
        with pytest.raises(DataError, match=r"imagelabels\.mat is damaged"):
            Flowers(size=8).fingerprint(tmp_path)


@pytest.mark.parametrize(
    "labels", [np.arange(4), np.zeros(10, int), np.linspace(0, 1, 10), np.ones((10, 2), int)]
)
def test_labels_that_are_not_one_positive_number_an_image_are_refused(tmp_path, labels):
    folder = write_flowers(tmp_path)
    savemat(folder / "imagelabels.mat", {"labels": labels})
    with pytest.raises(DataError, match="fetch"):
        Flowers(size=8).fingerprint(tmp_path)


def test_test_annotations_without_labels_name_the_file_that_has_them(tmp_path):
    folder = write_cars(tmp_path)
    savemat(
        folder / "cars_test_annos_withlabels.mat",
        {"annotations": np.array([[("00001.jpg",)]], dtype=[("fname", object)])},
    )
    with pytest.raises(DataError, match="_withlabels"):
        Cars(size=8).fingerprint(tmp_path)


@pytest.mark.parametrize("entry", [("../../secret.jpg", 1), ("00001.jpg", 9), ("00001.jpg", 0)])
def test_annotations_lead_nowhere_else(tmp_path, entry):
    folder = write_cars(tmp_path, classes=3)
    table = np.array([[entry]], dtype=[("fname", object), ("class", object)])
    savemat(folder / "devkit/cars_train_annos.mat", {"annotations": table})
    with pytest.raises(DataError, match=r"cars_train_annos\.mat: image"):
        Cars(size=8).fingerprint(tmp_path)


def test_a_picture_that_is_not_there_is_named(tmp_path):
    folder = write_flowers(tmp_path)
    (folder / "jpg/image_00003.jpg").unlink()
    with pytest.raises(DataError, match=r"image_00003\.jpg cannot be read"):
        Flowers(size=8).fingerprint(tmp_path)
