"""Fetching from a local HTTP server."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sandglass.card import Checkpoint
from sandglass.errors import CheckpointError
from sandglass.fetch import fetch

CONTENT = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; `cut/` sends half of it, `wrong/` other bytes, `flat/` ignores ranges."""

    requests: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.requests.append((self.path, wanted))
        kind = self.path.split("/")[1]
        if kind == "none":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and kind != "flat" else 0
        body = (b"x" * len(CONTENT) if kind == "wrong" else CONTENT)[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if kind == "cut" else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server on this machine."""
    Handler.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def checkpoint(*urls: str) -> Checkpoint:
    return Checkpoint("model.pth", urls, DIGEST[:8])


def test_file_arrives_whole_and_is_not_fetched_twice(server: str, tmp_path: Path) -> None:
    """The verified file lands in the folder, and the next call asks no server."""
    for _ in range(2):
        assert fetch(checkpoint(f"{server}/good/model.pth"), tmp_path).read_bytes() == CONTENT
    assert len(Handler.requests) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_broken_download_goes_on_where_it_stopped(server: str, tmp_path: Path) -> None:
    """After a connection that broke off, the next address is asked for the rest only."""
    entry = checkpoint(f"{server}/cut/model.pth", f"{server}/good/model.pth")
    assert fetch(entry, tmp_path).read_bytes() == CONTENT
    assert Handler.requests[1] == ("/good/model.pth", f"bytes={len(CONTENT) // 2}-")


def test_server_without_ranges_starts_over(server: str, tmp_path: Path) -> None:
    """A server that answers a range with the whole file replaces what was there."""
    (tmp_path / "model.pth.part").write_bytes(CONTENT[:1000])
    assert fetch(checkpoint(f"{server}/flat/model.pth"), tmp_path).read_bytes() == CONTENT


def test_mirror_comes_first_and_failure_falls_through(server: str, tmp_path: Path) -> None:
    """The user's mirror is tried before the card's addresses; one without the file is passed over."""
    fetch(checkpoint(f"{server}/good/model.pth"), tmp_path, mirrors=[f"{server}/none"])
    assert [path for path, _ in Handler.requests] == ["/none/model.pth", "/good/model.pth"]


def test_wrong_file_is_thrown_away_and_every_reason_told(server: str, tmp_path: Path) -> None:
    """A file with another hash never gets the name, and the error lists each address with its reason."""
    with pytest.raises(CheckpointError) as caught:
        fetch(checkpoint(f"{server}/wrong/model.pth", f"{server}/none/model.pth"), tmp_path)
    assert "wrong/model.pth: the file's SHA-256 does not start with" in caught.value.message
    assert "none/model.pth: HTTP Error 404" in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_only_http_is_fetched(tmp_path: Path) -> None:
    """An address of another kind is refused."""
    with pytest.raises(CheckpointError, match="only http and https"):
        fetch(checkpoint("file:///etc/passwd"), tmp_path)
