"""cifar10 and cifar100: the published format, read safely, checked, and refused in one sentence."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from fsam_cli.datasets._unpickle import ALLOWED
from fsam_cli.datasets.cifar import Cifar10, Cifar100
from fsam_cli.errors import DataError
from tests.support.cifar_archive import PIXELS, pack, write_cifar

KINDS = {10: Cifar10, 100: Cifar100}
TORCHVISIONS = {10: torchvision.datasets.CIFAR10, 100: torchvision.datasets.CIFAR100}


def unverified(classes=10):
    return KINDS[classes](checksum="none")


def publish(monkeypatch, written, classes):
    """Make what was written the official content."""
    kind = TORCHVISIONS[classes]
    for name in ("train_list", "test_list"):
        sums = [[file, written.md5[file]] for file, _ in getattr(kind, name)]
        monkeypatch.setattr(kind, name, sums)


def refused(data, root, *words):
    """Loading fails, with one sentence in which all the words stand."""
    with pytest.raises(DataError) as caught:
        data.load(root)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("classes", [10, 100])
def test_pixels_and_labels_are_those_written(tmp_path, classes, packed):
    written = write_cifar(tmp_path, classes=classes, train=23, test=7, packed=packed)
    loaded = unverified(classes).load(tmp_path)
    assert np.array_equal(loaded.train_images.flatten(1).numpy(), written.train_rows)
    assert np.array_equal(loaded.test_images.flatten(1).numpy(), written.test_rows)
    assert loaded.train_labels.tolist() == written.train_labels
    assert loaded.test_labels.tolist() == written.test_labels
    assert loaded.train_images.shape[1:] == (3, 32, 32)
    assert loaded.train_images.dtype == torch.uint8
    assert loaded.train_labels.dtype == torch.int64
    assert loaded.classes == classes


@pytest.mark.parametrize("classes", [10, 100])
def test_images_are_the_same_as_torchvision_reads(tmp_path, monkeypatch, classes):
    write_cifar(tmp_path, classes=classes, train=30, test=10)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    loaded = unverified(classes).load(tmp_path)
    parts = (
        (True, loaded.train_images, loaded.train_labels),
        (False, loaded.test_images, loaded.test_labels),
    )
    for train, images, labels in parts:
        theirs = TORCHVISIONS[classes](tmp_path, train=train)
        assert len(theirs) == len(images)
        assert theirs.targets == labels.tolist()
        for index in range(len(images)):
            picture = np.asarray(theirs[index][0])  # (height, width, channels), by Pillow
            assert np.array_equal(picture, images[index].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("classes", "mean", "std"),
    [
        (10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        (100, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    ],
)
def test_the_normalisation_is_the_papers(tmp_path, classes, mean, std):
    write_cifar(tmp_path, classes=classes, train=10, test=5)
    loaded = unverified(classes).load(tmp_path)
    assert (loaded.mean, loaded.std) == (mean, std)


@pytest.mark.parametrize("classes", [10, 100])
def test_the_official_fingerprint_is_known_without_files(classes):
    found = KINDS[classes]().fingerprint(None)
    assert (found.train_size, found.test_size, found.classes) == (50_000, 10_000, classes)
    assert found.shape == (3, 32, 32)
    assert found.verified is True


@pytest.mark.parametrize("classes", [10, 100])
def test_names_and_the_official_digest_are_torchvisions(classes):
    ours, theirs = KINDS[classes], TORCHVISIONS[classes]
    assert ours.archive == theirs.filename
    assert ours.folder == theirs.base_folder
    assert list(ours.train_files) == [name for name, _ in theirs.train_list]
    assert list(ours.test_files) == [name for name, _ in theirs.test_list]
    sums = "".join(md5 for _, md5 in (*theirs.train_list, *theirs.test_list))
    assert hashlib.sha256(sums.encode()).hexdigest()[:16] == ours.official_digest


@pytest.mark.parametrize("classes", [10, 100])
def test_an_unofficial_fingerprint_follows_the_content_and_not_its_packing(tmp_path, classes):
    write_cifar(tmp_path / "folder", classes=classes, train=23, test=7)
    write_cifar(tmp_path / "archive", classes=classes, train=23, test=7, packed=True)
    write_cifar(tmp_path / "other", classes=classes, train=23, test=7, seed=1)
    data = unverified(classes)
    found = data.fingerprint(tmp_path / "folder")
    assert (found.train_size, found.test_size, found.classes) == (23, 7, classes)
    assert found.verified is False
    assert data.fingerprint(tmp_path / "archive") == found
    assert data.fingerprint(tmp_path / "other").digest != found.digest
    assert KINDS[classes]().fingerprint(None).digest != found.digest


def test_the_order_of_an_archives_members_does_not_matter(tmp_path):
    """The published ones are not in the order of their names."""
    written = write_cifar(tmp_path / "folder", train=23, test=7)
    files = sorted(written.place.iterdir(), reverse=True)
    members = {f"cifar-10-batches-py/{path.name}": path.read_bytes() for path in files}
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "packed" / "cifar-10-python.tar.gz", members)
    data = unverified()
    assert data.fingerprint(tmp_path / "packed") == data.fingerprint(written.root)
    assert data.load(tmp_path / "packed").train_labels.tolist() == written.train_labels


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("classes", [10, 100])
def test_files_with_the_official_sums_are_loaded(tmp_path, monkeypatch, classes, packed):
    written = write_cifar(tmp_path, classes=classes, train=10, test=5, packed=packed)
    publish(monkeypatch, written, classes)
    assert KINDS[classes]().load(tmp_path).train_labels.tolist() == written.train_labels


@pytest.mark.parametrize("packed", [False, True])
def test_another_md5_is_refused_with_both_and_the_way_out(tmp_path, packed):
    written = write_cifar(tmp_path, train=10, test=5, packed=packed)
    official = dict(TORCHVISIONS[10].train_list)["data_batch_1"]
    way_out = "data.checksum: none"
    refused(Cifar10(), tmp_path, "data_batch_1", written.md5["data_batch_1"], official, way_out)
    # A download leaves what is there, so what was read is named as what to remove.
    place = written.place if packed else tmp_path / "cifar-10-batches-py"
    refused(Cifar10(), tmp_path, f"remove {place} and fetch it again")


def test_every_file_is_checked_not_only_the_first(tmp_path, monkeypatch):
    written = write_cifar(tmp_path, train=10, test=5)
    publish(monkeypatch, written, 10)
    path = written.place / "test_batch"
    path.write_bytes(path.read_bytes() + b"more")
    refused(Cifar10(), tmp_path, "test_batch", "MD5")


def test_archive_members_may_be_named_from_the_dot(tmp_path):
    written = write_cifar(tmp_path / "folder", train=10, test=5)
    files = {path.name: path.read_bytes() for path in written.place.iterdir()}
    pack(
        tmp_path / "cifar-10-python.tar.gz",
        {f"./cifar-10-batches-py/{name}": content for name, content in files.items()},
    )
    assert unverified().load(tmp_path).test_labels.tolist() == written.test_labels


def test_reading_an_archive_writes_nothing(tmp_path):
    write_cifar(tmp_path, train=10, test=5, packed=True)
    unverified().load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


# --- pickles


def test_the_published_form_written_by_python_2_is_read_without_a_warning(tmp_path):
    # Opcode by opcode as Python 2 and its numpy wrote it: byte strings, integers for the flags.
    rows = np.arange(2 * PIXELS).reshape(2, PIXELS).astype(np.uint8)
    raw = rows.tobytes()
    batch = (
        b"\x80\x02}(U\x0bbatch_labelU\x17training batch 1 of 5\r\n"
        b"U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<i", len(raw)) + raw + b"tbU\x06labels](K\x06K\x09eu."
    )
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*Cifar10.train_files, *Cifar10.test_files):
        (folder / name).write_bytes(batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = unverified().load(tmp_path)
    assert np.array_equal(loaded.test_images.flatten(1).numpy(), rows)
    assert loaded.test_labels.tolist() == [6, 9]
    assert len(loaded.train_images) == 10


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_of_old_and_new_numpy_are_read(tmp_path, core):
    written = write_cifar(tmp_path, train=10, test=5)
    path = written.place / "test_batch"
    content = path.read_bytes()
    here = b"c" + np.empty(0).__reduce__()[0].__module__.encode() + b"\n"
    assert content.count(here) == 1
    path.write_bytes(content.replace(here, f"c{core}.multiarray\n".encode()))
    assert np.array_equal(
        unverified().load(tmp_path).test_images.flatten(1).numpy(), written.test_rows
    )


class Calls:
    """Pickles as a call of a function, which a plain unpickler would make."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state) if state else (function, arguments)

    def __reduce__(self):
        return self.reduced


def in_test_batch(tmp_path, entry, protocol=2):
    written = write_cifar(tmp_path, train=10, test=5)
    (written.place / "test_batch").write_bytes(pickle.dumps(entry, protocol=protocol))


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("packed", [False, True])
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(tmp_path, protocol, packed):
    mark = tmp_path / "mark"
    in_test_batch(tmp_path / "set", {"data": Calls(os.mkdir, str(mark)), "labels": []}, protocol)
    root = tmp_path / "set"
    if packed:
        files = {f"cifar-10-batches-py/{p.name}": p.read_bytes() for p in root.glob("*/*")}
        root = tmp_path
        pack(root / "cifar-10-python.tar.gz", files)
    refused(unverified(), root, "test_batch", f"{os.mkdir.__module__}.mkdir", "do not trust it")
    with pytest.raises(DataError):
        unverified().fingerprint(root)
    assert not mark.exists()


@pytest.mark.parametrize(
    "call", [Calls(eval, "1"), Calls(np.fromfile, "x"), Calls(np.save, "x", 1)]
)
def test_other_functions_of_python_and_numpy_are_refused_too(tmp_path, call):
    in_test_batch(tmp_path, {"data": call, "labels": []})
    refused(unverified(), tmp_path, "asks for")


def test_the_layout_of_a_dtype_cannot_be_bent_into_pointers(tmp_path):
    # With numpy's own types this makes an object array of four wild pointers.
    bent = (3, "|", None, None, None, -1, -1, 0)
    pointers = struct.pack("4Q", *[0x4141414141414141] * 4)
    for spec in ("O8", "u1"):
        dtype = Calls(np.dtype, spec, False, True, state=bent)
        make = np.empty(0).__reduce__()[0]
        array = Calls(make, np.ndarray, (0,), b"b", state=(1, (4,), dtype, False, pointers))
        root = tmp_path / spec
        in_test_batch(root, {"data": array, "labels": [1]})
        refused(unverified(), root, "test_batch")


@pytest.mark.parametrize("name", sorted(".".join(name) for name in ALLOWED))
def test_a_pickle_cannot_leave_anything_behind_in_what_it_may_name(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    written = write_cifar(tmp_path, train=10, test=5)
    # The name, then a state of (no dictionary, {"mark": 1}), which means: set its attributes.
    state = f"c{module}\n{attribute}\n(N}}U\x04markK\x01stb.".encode()
    (written.place / "test_batch").write_bytes(b"\x80\x02" + state)
    refused(unverified(), tmp_path, "test_batch")
    assert not hasattr(ALLOWED[module, attribute], "mark")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"\x80\x02}q", b"no pickle at all", b"(" * 50, pickle.dumps([1, 2]), b"I01\n."],
)
def test_what_is_no_pickled_dictionary_is_refused(tmp_path, content):
    written = write_cifar(tmp_path, train=10, test=5)
    (written.place / "data_batch_3").write_bytes(content)
    refused(unverified(), tmp_path, "data_batch_3", "CIFAR file", "fetch")


ROWS = np.zeros((3, PIXELS), dtype=np.uint8)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"data": ROWS, "labels": [0, 1]}, ["(3, 3072)", "2 labels"]),
        ({"data": ROWS[:, :-1], "labels": [0, 1, 2]}, ["(3, 3071)"]),
        ({"data": ROWS.reshape(3, 3, 32, 32), "labels": [0, 1, 2]}, ["(3, 3, 32, 32)"]),
        ({"data": ROWS.astype(np.float32), "labels": [0, 1, 2]}, ["'f4'", "uint8"]),
        ({"data": "abc", "labels": [0, 1, 2]}, ["str", "3 labels"]),
        ({"data": ROWS, "labels": [0, 1, 10]}, ["outside 0..9"]),
        ({"data": ROWS, "labels": [0, -1, 2]}, ["outside 0..9"]),
        ({"data": ROWS, "labels": [0, 1.5, 2]}, ["'labels'", "whole numbers"]),
        ({"data": ROWS, "labels": [0, [1], 2]}, ["'labels'", "whole numbers"]),
        ({"data": ROWS, "labels": 3}, ["'labels'", "list"]),
        ({"data": ROWS, "fine_labels": [0, 1, 2]}, ["has no 'labels'"]),
        ({"labels": [0, 1, 2]}, ["has no 'data'"]),
        ({"data": ROWS[:0], "labels": []}, ["no images"]),
    ],
)
def test_wrong_content_is_refused(tmp_path, entry, words):
    in_test_batch(tmp_path, entry)
    refused(unverified(), tmp_path, "test_batch", tmp_path, *words)
    with pytest.raises(DataError):
        unverified().fingerprint(tmp_path)


def test_a_training_file_without_images_is_no_error_as_long_as_another_has_some(tmp_path):
    written = write_cifar(tmp_path, train=3, test=2)  # the last two of five files are empty
    assert unverified().load(tmp_path).train_labels.tolist() == written.train_labels


def test_labels_of_cifar100_end_at_99(tmp_path):
    written = write_cifar(tmp_path, classes=100, train=10, test=5)
    entry = {"data": ROWS, "fine_labels": [0, 99, 100]}
    (written.place / "test").write_bytes(pickle.dumps(entry, protocol=2))
    refused(unverified(100), tmp_path, "outside 0..99")


# --- missing and broken files


def test_without_a_root_the_message_names_the_ways_to_give_one():
    for data in (Cifar10(), unverified()):
        refused(data, None, "data.root", "--data-dir", "FSAM_DATA", "--download")


@pytest.mark.parametrize("inside", ["", "nowhere"])
def test_a_root_with_neither_folder_nor_archive_names_both(tmp_path, inside):
    words = ("cifar-100-python.tar.gz", "cifar-100-python/", tmp_path / inside, "--download")
    refused(unverified(100), tmp_path / inside, *words)


def test_missing_files_of_the_folder_are_named(tmp_path):
    written = write_cifar(tmp_path, train=10, test=5)
    (written.place / "data_batch_2").unlink()
    (written.place / "test_batch").unlink()
    refused(unverified(), tmp_path, written.place, "data_batch_2, test_batch")


def test_missing_members_of_the_archive_are_named(tmp_path):
    archive = tmp_path / "cifar-100-python.tar.gz"
    pack(archive, {"cifar-100-python/train": b"x", "elsewhere/test": b"x"})
    refused(unverified(100), tmp_path, archive, "lacks test")


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write_cifar(tmp_path, train=10, test=5)

    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    refused(unverified(), tmp_path, "data_batch_1", "Permission denied")


def test_an_archive_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    written = write_cifar(tmp_path, train=10, test=5, packed=True)

    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("gzip.open", forbidden)
    refused(unverified(), tmp_path, f"{written.place} cannot be read (Permission denied)")


def test_a_root_that_may_not_be_entered_is_named(tmp_path, monkeypatch):
    def forbidden(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", forbidden)
    refused(unverified(), tmp_path, f"{tmp_path} cannot be entered (Permission denied)")
    with pytest.raises(DataError, match="cannot be entered"):
        unverified().download(tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_truncated_archive_is_refused(tmp_path, kept):
    written = write_cifar(tmp_path, train=10, test=5, packed=True)
    content = written.place.read_bytes()
    kept = int(len(content) * kept) if isinstance(kept, float) else kept
    written.place.write_bytes(content[:kept])
    refused(unverified(), tmp_path, written.place, "damaged or cut short", "remove it and fetch")


def test_a_flipped_byte_of_an_archive_is_found_by_its_own_checksum(tmp_path):
    written = write_cifar(tmp_path, train=10, test=5, packed=True)
    content = bytearray(written.place.read_bytes())
    content[len(content) // 2] ^= 0xFF
    written.place.write_bytes(content)
    refused(unverified(), tmp_path, written.place, "damaged or cut short")


def test_an_archive_that_is_none_is_refused(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"<html>Not found</html>")
    refused(unverified(), tmp_path, "cifar-10-python.tar.gz", "damaged")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_a_link_or_a_folder_is_not_followed(tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_bytes(b"not to be read")
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("train", "test"):
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.type, member.linkname = kind, str(secret)
            tar.addfile(member)
    refused(unverified(100), tmp_path, "lacks train, test")


def test_members_that_lead_outside_are_neither_read_nor_written(tmp_path):
    root = tmp_path / "root"
    written = write_cifar(root, classes=100, train=10, test=5)
    files = {f"cifar-100-python/{p.name}": p.read_bytes() for p in written.place.iterdir()}
    packed = tmp_path / "packed"
    packed.mkdir()
    outside = {"../outside": b"x", "/tmp/outside-too": b"x", "cifar-100-python/../train": b"x"}
    pack(packed / "cifar-100-python.tar.gz", {**outside, **files})
    assert unverified(100).load(packed).train_labels.tolist() == written.train_labels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "root"]


def test_checksum_has_two_values():
    with pytest.raises(ValueError, match="official"):
        Cifar10(checksum="some")


def test_a_gigantic_array_that_is_not_there_is_refused(tmp_path):
    # Only the shape is large: nothing may be allocated for it.
    stream = io.BytesIO(pickle.dumps({"data": ROWS, "labels": [0, 1, 2]}, protocol=2))
    content = stream.getvalue().replace(b"K\x03M\x00\x0c\x86", b"J\xff\xff\xff\x7fM\x00\x0c\x86")
    written = write_cifar(tmp_path, train=10, test=5)
    (written.place / "test_batch").write_bytes(content)
    assert len(content) > stream.getbuffer().nbytes
    refused(unverified(), tmp_path, "test_batch", "damaged")
