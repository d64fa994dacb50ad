"""Downloading CIFAR: whole and checked, or nothing; from a server of the test's own."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading

import pytest
import torchvision

from fsam_cli.datasets.cifar import Cifar10
from fsam_cli.datasets.digits import Digits
from fsam_cli.datasets.image_folder import ImageFolder
from fsam_cli.errors import DataError
from tests.support.cifar_archive import write_cifar

THEIRS = torchvision.datasets.CIFAR10
ARCHIVE = "cifar-10-python.tar.gz"


class Server:
    """Answers every request with the same bytes; counts the requests."""

    def __init__(self, content, *, announced=None, status=200):
        server = self
        self.requests = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.requests += 1
                self.send_response(status)
                self.send_header("Content-Length", str(announced or len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self.http = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}/{ARCHIVE}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """An archive whose sums are the official ones; the place it may be served from is open."""
    written = write_cifar(tmp_path / "published", train=10, test=5, packed=True)
    content = written.place.read_bytes()
    monkeypatch.setattr(THEIRS, "tgz_md5", hashlib.md5(content).hexdigest())
    for name in ("train_list", "test_list"):
        sums = [[file, written.md5[file]] for file, _ in getattr(THEIRS, name)]
        monkeypatch.setattr(THEIRS, name, sums)
    return written, content


def failing(root, *words):
    """Downloading fails with these words and leaves nothing behind."""
    with pytest.raises(DataError) as caught:
        Cifar10().download(root)
    for word in words:
        assert str(word) in str(caught.value), str(caught.value)
    assert not root.is_dir() or list(root.iterdir()) == []


def test_the_archive_arrives_whole_and_is_loaded(tmp_path, monkeypatch, published):
    written, content = published
    root = tmp_path / "new" / "root"
    with Server(content) as server:
        monkeypatch.setattr(THEIRS, "url", server.url)
        Cifar10().download(root)
    assert [path.name for path in root.iterdir()] == [ARCHIVE]
    assert (root / ARCHIVE).read_bytes() == content
    assert Cifar10().load(root).train_labels.tolist() == written.train_labels


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_there_is_not_fetched_again(tmp_path, monkeypatch, published, packed):
    root = tmp_path / "root"
    place = write_cifar(root, train=10, test=5, seed=1, packed=packed).place
    before = place.read_bytes() if packed else None
    with Server(published[1]) as server:
        monkeypatch.setattr(THEIRS, "url", server.url)
        Cifar10().download(root)
    assert server.requests == 0
    assert [path.name for path in root.iterdir()] == [place.name]
    assert before is None or place.read_bytes() == before


def test_another_content_than_the_official_one_is_not_kept(tmp_path, monkeypatch, published):
    with Server(b"something else") as server:
        monkeypatch.setattr(THEIRS, "url", server.url)
        found = hashlib.md5(b"something else").hexdigest()
        failing(tmp_path / "root", server.url, found, THEIRS.tgz_md5, "nothing was kept")


def test_a_connection_cut_half_way_leaves_nothing(tmp_path, monkeypatch, published):
    content = published[1]
    with Server(content[: len(content) // 2], announced=len(content)) as server:
        monkeypatch.setattr(THEIRS, "url", server.url)
        failing(tmp_path / "root", server.url)


def test_a_refusal_of_the_server_is_reported(tmp_path, monkeypatch, published):
    with Server(b"gone", status=404) as server:
        monkeypatch.setattr(THEIRS, "url", server.url)
        failing(tmp_path / "root", "cannot download", server.url, "404", "yourself")


def test_a_dead_port_is_reported(tmp_path, monkeypatch, published):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{ARCHIVE}"
    monkeypatch.setattr(THEIRS, "url", url)
    failing(tmp_path / "root", "cannot download", url, "refused", "yourself")


def test_a_server_that_speaks_no_http_is_reported(tmp_path, monkeypatch, published):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-hello\r\n")

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        monkeypatch.setattr(THEIRS, "url", f"http://127.0.0.1:{server.getsockname()[1]}/x")
        failing(tmp_path / "root", "cannot download")
        thread.join()


def test_a_silent_server_is_given_up(tmp_path, monkeypatch, published):
    monkeypatch.setattr("fsam_cli.datasets.cifar._TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(THEIRS, "url", f"http://127.0.0.1:{server.getsockname()[1]}/x")
        failing(tmp_path / "root", "cannot download", "timed out")


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, published):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with Server(published[1]) as server:
        monkeypatch.setattr(THEIRS, "url", server.url)
        with pytest.raises(KeyboardInterrupt):
            Cifar10().download(tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_root_that_is_a_file_is_reported(tmp_path, monkeypatch, published):
    root = tmp_path / "file"
    root.write_text("mine")
    with Server(published[1]) as server:
        monkeypatch.setattr(THEIRS, "url", server.url)
        failing(root, "cannot download", root)
    assert root.read_text() == "mine"


def test_a_download_needs_a_root():
    with pytest.raises(DataError, match=r"data\.root.*--data-dir.*FSAM_DATA"):
        Cifar10().download(None)


def test_a_set_without_a_source_says_so_and_an_embedded_one_needs_none(tmp_path):
    with pytest.raises(DataError, match="cannot be downloaded"):
        ImageFolder(size=8).download(tmp_path)
    Digits().download(None)
    assert not list(tmp_path.iterdir())
