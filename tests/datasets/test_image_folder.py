"""image_folder: which files count, how they are decoded, and what is refused."""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fsam_cli.datasets import _files
from fsam_cli.datasets.image_folder import ENDINGS, ImageFolder
from fsam_cli.errors import DataError


def picture(path, pixels, **options):
    """Write an array as a picture, in the format of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)
    return path


def noise(seed, height=6, width=6):
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


@pytest.fixture
def tree(tmp_path):
    """Two classes; five training and two test pictures of 6x6."""
    places = ("train/cat/1", "train/cat/2", "train/dog/3", "train/dog/deep/er/4", "train/dog/5")
    for seed, place in enumerate((*places, "test/cat/6", "test/dog/7"), start=1):
        picture(tmp_path / f"{place}.png", noise(seed))
    return tmp_path


def refused(root, *words, size=6):
    """Loading fails, with one sentence in which all the words stand."""
    with pytest.raises(DataError) as caught:
        ImageFolder(size=size).load(root)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def test_pictures_of_the_right_size_keep_their_pixels(tree):
    loaded = ImageFolder(size=6).load(tree)
    assert loaded.train_images.shape == (5, 3, 6, 6)
    assert loaded.test_images.shape == (2, 3, 6, 6)
    assert loaded.train_images.dtype == torch.uint8
    assert np.array_equal(loaded.train_images[0].permute(1, 2, 0).numpy(), noise(1))
    assert np.array_equal(loaded.test_images[1].permute(1, 2, 0).numpy(), noise(7))


def test_classes_and_pictures_are_in_the_order_of_their_names(tree):
    loaded = ImageFolder(size=6).load(tree)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert loaded.test_labels.tolist() == [0, 1]
    assert loaded.train_labels.dtype == torch.int64
    order = [picture.permute(1, 2, 0).numpy() for picture in loaded.train_images]
    for found, seed in zip(order, (1, 2, 3, 5, 4), strict=True):  # dog/5 before dog/deep/er/4
        assert np.array_equal(found, noise(seed))


def test_mean_and_deviation_are_those_of_the_training_pictures(tree):
    loaded = ImageFolder(size=6).load(tree)
    pixels = np.stack([noise(seed) for seed in range(1, 6)]) / 255
    assert loaded.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)).tolist(), rel=1e-9)
    assert loaded.std == pytest.approx(pixels.std(axis=(0, 1, 2)).tolist(), rel=5e-3)


def test_a_channel_without_spread_can_still_be_divided_by_its_deviation(tree):
    for path in tree.rglob("*.png"):
        picture(path, np.full((6, 6, 3), (255, 0, 10)))
    loaded = ImageFolder(size=6).load(tree)
    assert loaded.mean == pytest.approx((1.0, 0.0, 10 / 255))
    assert min(loaded.std) > 0


def test_grey_is_the_usual_weighting_of_the_colours(tree):
    loaded = ImageFolder(size=6, channels=1).load(tree)
    assert loaded.train_images.shape == (5, 1, 6, 6)
    assert len(loaded.mean) == len(loaded.std) == 1
    grey = noise(1) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(loaded.train_images[0, 0].numpy() - grey).max() <= 1


def test_a_grey_picture_becomes_three_equal_channels(tree):
    grey = noise(3)[..., 0]
    picture(tree / "train" / "cat" / "1.png", grey)
    first = ImageFolder(size=6).load(tree).train_images[0]
    assert all(np.array_equal(channel.numpy(), grey) for channel in first)


def test_shrinking_averages_over_all_pixels(tree):
    # Stripes of a pixel's width: taking single pixels would give 0 or 255, averaging 127 or so.
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    picture(tree / "train" / "cat" / "1.png", np.stack([stripes] * 3, axis=-1))
    first = ImageFolder(size=4).load(tree).train_images[0]
    assert first.min() > 110
    assert first.max() < 145


def test_a_picture_that_is_not_square_is_squeezed_not_cropped(tree):
    wide = np.zeros((4, 8, 3), dtype=np.uint8)
    wide[:, 4:] = 255
    picture(tree / "train" / "cat" / "1.png", wide)
    first = ImageFolder(size=4).load(tree).train_images[0, 0]
    assert first[:, 0].max() == 0
    assert first[:, 3].min() == 255


def test_a_picture_taken_sideways_is_turned_upright(tree):
    upright = noise(9)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    picture(tree / "train" / "cat" / "1.png", np.rot90(upright, 1), exif=exif)
    first = ImageFolder(size=6).load(tree).train_images[0]
    assert np.array_equal(first.permute(1, 2, 0).numpy(), upright)


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_every_known_ending_is_read_in_either_case(tree, ending):
    shape = (6, 6) if ending == ".pgm" else (6, 6, 3)
    for case in (ending, ending.upper()):
        picture(tree / "train" / "cat" / f"extra{case}", np.full(shape, 200))
    loaded = ImageFolder(size=6).load(tree)
    assert len(loaded.train_images) == 7
    assert (loaded.train_images[2:4].float() - 200).abs().max() <= 3  # jpeg and webp lose a little


def test_a_palette_with_transparency_gives_its_colours_and_no_warning(tree):
    colours = Image.fromarray(noise(1)).quantize(4)
    path = tree / "train" / "cat" / "1.png"
    colours.save(path, transparency=bytes([0, 255, 128, 255]))
    first = ImageFolder(size=6).load(tree).train_images[0]
    assert np.array_equal(first.permute(1, 2, 0).numpy(), np.asarray(colours.convert("RGB")))


def test_of_an_animation_the_first_picture_counts(tree):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
    frames[0].save(tree / "train" / "cat" / "0.gif", save_all=True, append_images=frames[1:])
    first = ImageFolder(size=6).load(tree).train_images[0]
    assert first[:, 0, 0].tolist() == [255, 0, 0]


def test_other_files_are_passed_over(tree):
    before = ImageFolder(size=6).fingerprint(tree)
    (tree / "train" / "cat" / "notes.txt").write_text("a cat")
    (tree / "train" / "labels.csv").write_text("1.png,cat")
    (tree / "train" / "cat" / "folder.png").mkdir()
    assert ImageFolder(size=6).fingerprint(tree) == before


def test_the_fingerprint_says_what_will_be_loaded(tree):
    found = ImageFolder(size=5, channels=1).fingerprint(tree)
    assert (found.train_size, found.test_size, found.classes) == (5, 2, 2)
    assert found.shape == (1, 5, 5)
    assert found.verified is None  # nobody published a checksum of these


def test_the_digest_follows_content_names_and_settings_but_not_the_place(tree, tmp_path_factory):
    def digest(root=tree, **settings):
        return ImageFolder(**{"size": 6, **settings}).fingerprint(root).digest

    first = digest()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(tree, elsewhere)
    assert digest(elsewhere) == first
    assert len({first, digest(size=7), digest(channels=1)}) == 3
    (elsewhere / "train/cat/1.png").rename(elsewhere / "train/cat/0.png")
    renamed = digest(elsewhere)
    (elsewhere / "train/cat/0.png").rename(elsewhere / "train/dog/0.png")
    moved = digest(elsewhere)
    picture(elsewhere / "test/cat/6.png", noise(60))
    assert len({first, renamed, moved, digest(elsewhere)}) == 4


def test_a_file_name_need_not_be_utf8(tree):
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(tree / "train/cat/1.png", tree / "train/cat" / name)
    assert ImageFolder(size=6).fingerprint(tree).train_size == 6
    assert len(ImageFolder(size=6).load(tree).train_images) == 6


def test_a_file_is_hashed_once_until_it_changes(tree, monkeypatch):
    read = []
    reading = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or reading(path))
    first = [ImageFolder(size=size).fingerprint(tree).digest for size in (6, 7, 6)]
    assert first[0] == first[2] != first[1]
    assert len(read) == 7
    path, other = tree / "train/cat/1.png", tree / "train/cat/2.png"
    before = path.stat()
    time.sleep(0.02)  # a file system's clock may tick every 10 ms
    path.write_bytes(bytes(len(reading(path))))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy can have it
    changed = ImageFolder(size=6).fingerprint(tree).digest
    path.unlink()
    other.rename(path)
    assert len({first[0], changed, ImageFolder(size=6).fingerprint(tree).digest}) == 3


# --- many at once


def test_images_are_decoded_on_threads_each_into_its_place(tree, monkeypatch):
    monkeypatch.setattr(_files, "TASK", 1)
    together = threading.Barrier(2, timeout=20)
    first_two = iter((True, True))
    decoding = _files.decoded

    def waiting(path, *settings):
        if next(first_two, False):
            together.wait()  # for a second thread
        return decoding(path, *settings)

    monkeypatch.setattr(_files, "decoded", waiting)
    loaded = ImageFolder(size=6).load(tree)
    for found, seed in zip(loaded.train_images, (1, 2, 3, 5, 4), strict=True):
        assert np.array_equal(found.permute(1, 2, 0).numpy(), noise(seed))


def test_more_images_than_a_task_are_all_there_and_none_is_held_twice(tree, monkeypatch):
    alive, most = [], 0
    decoding = _files.decoded

    def counted(path, *settings):
        nonlocal most
        image = np.array(decoding(path, *settings))
        alive.append(weakref.ref(image))
        most = max(most, sum(reference() is not None for reference in alive))
        return image

    for number in range(200):
        picture(tree / "train" / "emu" / f"{number:03}.png", np.full((6, 6, 3), number))
    monkeypatch.setattr(_files, "decoded", counted)
    loaded = ImageFolder(size=6).load(tree)
    assert loaded.train_images[5:, 1, 2, 3].tolist() == list(range(200))
    assert most < 100  # at most one for each thread


def test_of_many_pictures_that_cannot_be_decoded_the_first_is_named(tree, monkeypatch):
    monkeypatch.setattr(_files, "TASK", 1)
    for name in ("dog/3", "cat/2", "dog/5"):
        (tree / "train" / f"{name}.png").write_bytes(b"none")
    refused(tree, tree / "train/cat/2.png", "cannot be decoded")


def test_all_formats_are_known_before_a_thread_opens_a_file(tree, monkeypatch):
    calls = []
    for name in ("preinit", "init", "open"):
        original = getattr(Image, name)
        monkeypatch.setattr(
            Image,
            name,
            lambda *given, name=name, original=original: calls.append(name) or original(*given),
        )
    with _files.opened_image(tree / "train/cat/1.png", 3):
        assert calls[:3] == ["preinit", "init", "open"]


# --- what is refused


def test_without_a_root_the_message_names_the_ways_to_give_one():
    refused(None, "data.root", "--data-dir", "FSAM_DATA")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_part_is_named_with_the_form_expected(tree, part):
    shutil.rmtree(tree / part)
    refused(tree, tree / part, "<class>")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_without_classes_or_pictures_is_named(tree, part):
    shutil.rmtree(tree / part)
    (tree / part).mkdir()
    refused(tree, "no images", tree / part)
    (tree / part / "cat").mkdir()
    refused(tree, "no images", tree / part)


@pytest.mark.parametrize(
    ("files", "seen"),
    [
        ((), "holds no files"),
        (("1.heic", "deep/2.HEIC", "notes"), "the endings (none), .HEIC, .heic;"),
        (tuple(f"{n}.a{n}" for n in range(7)), "the endings .a0, .a1, .a2, .a3, .a4, …;"),
    ],
    ids=["empty", "heic", "many"],
)
def test_a_training_class_without_pictures_is_named_with_what_lies_there(tree, files, seen):
    (tree / "train" / "emu" / "deep").mkdir(parents=True)
    for name in files:
        (tree / "train" / "emu" / name).write_bytes(b"")
    refused(tree, f"no images in the class folder {tree}/train/emu: ", seen, ".jpg, .pgm, .png")


@pytest.mark.parametrize("part", ["train", "test"])
def test_pictures_outside_the_class_folders_are_named_not_passed_over(tree, part):
    picture(tree / part / "b.png", noise(1))
    refused(tree, f"{tree / part}/b.png: outside the class folders", "move")
    for number in range(1200):
        (tree / part / f"a{number:04}.JPG").touch()
    refused(tree, f"{tree / part}/a0000.JPG and 1,200 more: outside the class folders")


def test_a_folder_too_many_above_the_classes_is_no_class(tree):
    for part in ("train", "test"):
        (tree / part).rename(tree / "photos")
        (tree / part).mkdir()
        (tree / "photos").rename(tree / part / "photos")
    refused(tree, f"{tree}/train has the one class folder 'photos', whose folders are cat, dog: ")


def test_a_single_class_is_refused(tree):
    for part in ("train", "test"):
        shutil.rmtree(tree / part / "cat")
    refused(tree, f"{tree}/train has the one class folder 'dog'; give at least two classes")


def test_what_is_hidden_is_neither_a_class_nor_a_picture_nor_a_hindrance(tree):
    before = ImageFolder(size=6).fingerprint(tree)
    for part in ("train", "test"):
        for place in (".ipynb_checkpoints", "cat/.ipynb_checkpoints", "dog/.thumbnails/deep"):
            picture(tree / part / place / "1.png", noise(1))
        (tree / part / "cat" / "._6.png").write_bytes(b"what a desktop left")
        (tree / part / ".#cat").symlink_to(tree / "gone")  # as an editor's lock is
    assert ImageFolder(size=6).fingerprint(tree) == before
    assert ImageFolder(size=6).load(tree).class_names == ("cat", "dog")


def test_a_test_class_that_is_not_trained_on_is_named(tree):
    picture(tree / "test" / "emu" / "1.png", noise(1))
    refused(tree, "'emu'", tree, "train")


def test_a_class_without_test_pictures_is_no_error(tree):
    shutil.rmtree(tree / "test" / "cat")
    assert ImageFolder(size=6).load(tree).class_names == ("cat", "dog")


@pytest.mark.parametrize("damage", ["empty", "text", "half", "header"])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".gif", ".tif"])
def test_a_picture_that_cannot_be_decoded_is_named(tree, ending, damage):
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 64, 64)).save(buffer, Image.registered_extensions()[ending])
    content = buffer.getvalue()
    path = tree / "test" / "dog" / f"bad{ending}"
    path.write_bytes(
        {"empty": b"", "text": b"hello", "half": content[: len(content) // 2]}.get(
            damage, content[:12]
        )
    )
    refused(tree, path, "cannot be decoded", "fix or remove it")


def test_a_picture_too_large_to_be_one_is_named(tree, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    refused(tree, tree / "train/cat/1.png", "DecompressionBombError")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_a_picture_of_more_than_8_bits_is_refused_not_cut_off(tree, dtype):
    path = tree / "train" / "cat" / "deep.tif"
    Image.fromarray(np.full((6, 6), 1000, dtype=dtype)).save(path)
    refused(tree, path, "more than 8 bits", "convert it")


def test_a_file_that_may_not_be_read_is_named(tree, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(DataError, match=r"train/cat/1\.png cannot be read \(Permission denied\)"):
        ImageFolder(size=6).fingerprint(tree)


@pytest.mark.parametrize("place", ["train", "train/dog", "train/dog/deep"])
def test_a_folder_that_may_not_be_listed_is_named_not_passed_over(tree, monkeypatch, place):
    listed = os.scandir, os.listdir

    def unless_forbidden(listing):
        def listing_or_error(path="."):
            if Path(path) == tree / place:
                raise PermissionError(13, "Permission denied", str(path))
            return listing(path)

        return listing_or_error

    for listing in listed:
        monkeypatch.setattr(os, listing.__name__, unless_forbidden(listing))
    refused(tree, f"{tree / place} cannot be listed (Permission denied)", "may hold images")


def test_a_root_that_may_not_be_entered_is_named(tree, monkeypatch):
    def forbidden(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", forbidden)
    refused(tree, f"{tree} cannot be entered (Permission denied)")


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("a" * 300, "cannot be entered (File name too long)"),
        ("a\0b", "is not the name of a folder"),
    ],
    ids=["long", "null"],
)
def test_a_root_that_can_be_no_folder_is_refused(root, words):
    refused(Path(root), words)


@pytest.mark.parametrize("place", ["train/emu", "train/cat/9.png", "test/dog/deep"])
def test_a_link_that_leads_nowhere_is_named_not_passed_over(tree, place):
    (tree / place).symlink_to(tree / "gone")
    refused(tree, f"{tree / place} is a link that leads nowhere", "fix or remove it")


def test_linked_pictures_and_linked_classes_count(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    picture(elsewhere / "1.png", noise(8))
    (tree / "train" / "cat" / "0.png").symlink_to(elsewhere / "1.png")
    (tree / "train" / "emu").symlink_to(elsewhere)
    assert ImageFolder(size=6).load(tree).train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_a_linked_folder_inside_a_class_is_refused_not_passed_over(tree):
    (tree / "train" / "cat" / "all").symlink_to(tree / "train")  # following it would never end
    refused(tree, f"{tree}/train/cat/all is a link to a folder", "or links to them")


@pytest.mark.parametrize("settings", [{}, {"size": 0}, {"size": 8, "channels": 2}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"size|channels"):
        ImageFolder(**settings)


def test_a_test_image_that_is_trained_on_is_worth_a_word(tree):
    data = ImageFolder(size=6)
    assert data.doubts(tree) == ""
    copy = shutil.copy(tree / "train/dog/5.png", tree / "test/cat/again.png")
    told = data.doubts(tree)
    assert told.startswith("warning: 1 of 3 test images are trained on")
    assert str(copy) in told
    assert str(tree / "train/dog/5.png") in told


def test_pictures_are_in_the_order_of_their_paths_folder_by_folder(tree):
    for place in ("a b/1", "a/2", "a.c/3", "a-d/4", "a/b/5", "a"):
        picture(tree / f"train/cat/{place}.png", noise(len(place)))
    found = [path for path, _ in ImageFolder(size=6).listing(tree).train]
    assert found == sorted(found)
