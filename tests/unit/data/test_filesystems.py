"""A place that cannot be read is an error that names it."""

from __future__ import annotations

import hashlib
import os
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest

from lcia.data.filesystems import digest_of, matching, open_buffered
from lcia.data.images import ImageFolder
from lcia.data.records import RowError
from lcia.data.sources import fingerprint
from lcia.digests import file_digest
from lcia.types import FileSource, InputError


@pytest.fixture
def closed_port() -> int:
    """One where nothing listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port


def test_a_device_is_not_data() -> None:
    with pytest.raises(InputError, match="/dev/zero is a device or a pipe"):
        fingerprint(FileSource("/dev/zero", "llava"))


def test_a_pipe_is_not_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.json")
    with pytest.raises(InputError, match=r"rows\.json is a device or a pipe"):
        matching(str(tmp_path / "rows.json"), (".json",))


def test_a_pipe_in_a_folder_is_passed_by(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[]")
    assert matching(str(tmp_path), (".json",)) == [str(tmp_path / "b.json")]


def test_a_server_that_is_not_there_is_named(closed_port: int) -> None:
    place = f"http://127.0.0.1:{closed_port}/rows.json"
    with pytest.raises(InputError, match=rf"cannot read {place}.*check the address"):
        fingerprint(FileSource(place, "llava"))


def test_a_bucket_that_is_not_there_is_named_without_its_password(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    place = f"s3://key:secret@bucket/rows.json?scheme=http&endpoint_override=127.0.0.1:{closed_port}&region=x"
    with pytest.raises(InputError, match=r"cannot read s3://bucket.*check the address") as caught:
        fingerprint(FileSource(place, "llava"))
    assert "secret" not in str(caught.value)


def test_images_on_a_server_that_is_not_there_are_no_bad_rows(closed_port: int) -> None:
    folder = ImageFolder(f"http://127.0.0.1:{closed_port}/images", 1000)
    with pytest.raises(
        InputError, match=rf"cannot read http://127.0.0.1:{closed_port}/images/a.png.*check the address"
    ):
        folder.read("a.png")
    with pytest.raises(InputError, match=rf"cannot read http://127.0.0.1:{closed_port}/images.*check the address"):
        folder.identities(["a.png"])


class _Answers(BaseHTTPRequestHandler):
    """Answers with the status that the file's name is."""

    def do_GET(self) -> None:
        self.send_error(int(self.path.rpartition("/")[2].partition(".")[0]))

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_web_server_may_lack_an_image_but_not_refuse_it() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        folder = ImageFolder(f"http://127.0.0.1:{server.server_port}/images", 1000)
        with pytest.raises(RowError, match="does not exist"):
            folder.read("404.png")
        with pytest.raises(InputError, match=r"403\.png"):
            folder.read("403.png")
        with pytest.raises(InputError, match=r"500\.png"):
            folder.read("500.png")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_an_image_that_a_remote_folder_lacks_is_a_bad_row() -> None:
    fsspec.filesystem("memory").pipe("/lacking/a.png", b"x")
    with pytest.raises(RowError, match="does not exist"):
        ImageFolder("memory://lacking", 1000).read("b.png")


def test_a_folder_is_not_opened_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        open_buffered(str(tmp_path))


def test_a_file_has_one_digest_wherever_it_lies(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/digests/a", b"abc")
    (tmp_path / "a").write_bytes(b"abc")
    expected = hashlib.blake2b(b"abc", digest_size=16).hexdigest()
    assert digest_of("memory://digests/a") == digest_of(str(tmp_path / "a")) == file_digest(tmp_path / "a") == expected
