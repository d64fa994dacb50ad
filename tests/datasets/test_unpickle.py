"""Pickles of CIFAR's form: every protocol that today's numpy writes, and nothing but bytes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from fsam_cli.datasets._unpickle import unpickled
from fsam_cli.datasets.cifar import Cifar10
from fsam_cli.errors import DataError
from tests.support.cifar_archive import write_cifar

ROWS = np.random.default_rng(0).integers(0, 256, (5, 12), dtype=np.uint8)
LAYOUTS = {
    "rows": ROWS,
    "columns": np.asfortranarray(ROWS),
    "every other": ROWS[:, ::2],
    "none": ROWS[:0],
    "one": ROWS[:1],
    "read-only": np.frombuffer(ROWS.tobytes(), np.uint8).reshape(ROWS.shape),
}
PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_array_of_todays_numpy_is_read_in_every_protocol(layout, protocol):
    entry = {"data": LAYOUTS[layout], "labels": [1, 2]}
    found = unpickled(pickle.dumps(entry, protocol=protocol), "there")
    assert found["labels"] == [1, 2]
    assert found["data"].dtype == np.uint8
    assert np.array_equal(found["data"], LAYOUTS[layout])
    found["data"][...] = 0  # bytes of its own


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_archive_of_ones_own_is_loaded_whatever_protocol_wrote_it(tmp_path, protocol):
    written = write_cifar(tmp_path, train=10, test=5)
    for path in written.place.iterdir():
        entry = unpickled(path.read_bytes(), "there")
        path.write_bytes(pickle.dumps(entry, protocol=protocol))
    loaded = Cifar10(checksum="none").load(tmp_path)
    assert np.array_equal(loaded.train_images.flatten(1).numpy(), written.train_rows)
    assert np.array_equal(loaded.test_images.flatten(1).numpy(), written.test_rows)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["f4", "i8", "O", "S3", "V1"])
def test_an_array_of_anything_but_bytes_is_refused_in_every_protocol(dtype, protocol):
    with pytest.raises(DataError, match=r"there is (damaged or )?no CIFAR file"):
        unpickled(pickle.dumps({"data": np.zeros((2, 3), dtype)}, protocol=protocol), "there")


class Called:
    """Pickled as a call of numpy's `_frombuffer`, with whatever is given."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return np.zeros(1).__reduce_ex__(5)[0], self.arguments


BYTE = np.dtype("u1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((b"abcd", BYTE, (2, 3), "C"), "ValueError"),
        ((b"abcd", BYTE, (1 << 60, 1 << 60), "C"), "ValueError"),
        ((b"abcd", BYTE, (4,), "K"), "the order 'K'"),
        ((b"abcd", "u1", (4,), "C"), "not made of bytes"),
        ((4, BYTE, (4,), "C"), "not made of bytes"),
        ((["a"], BYTE, (1,), "C"), "not made of bytes"),
        ((b"abcd", BYTE), "TypeError"),
    ],
)
def test_a_buffer_that_is_no_array_of_bytes_is_refused(arguments, words):
    content = pickle.dumps({"data": Called(*arguments)}, protocol=5)
    with pytest.raises(DataError, match=words):
        unpickled(content, "there")


def test_bytes_kept_outside_the_pickle_are_refused():
    kept = []
    content = pickle.dumps({"data": ROWS}, protocol=5, buffer_callback=kept.append)
    with pytest.raises(DataError, match="no CIFAR file"):
        unpickled(content, "there")
