"""Fetching from a local HTTP server."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sandglass.cli.main import main
from sandglass.core.errors import BusyError, CardError, CheckpointError
from sandglass.core.locks import locked_file
from sandglass.sources import download
from sandglass.sources.card import Card, Checkpoint, zoo
from sandglass.sources.fetch import fetch, fetch_card
from sandglass.sources.load_card import load_card
from sandglass.sources.prepare import find_checkpoint

CONTENT = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT with ranges, and what the first part of an address says instead.

    `none/` has nothing, `cut/` sends half of it, `wrong/` other bytes, `flat/` ignores ranges, `shifted/` sends the
    whole as a range, `huge/` says that the file is too large, `drip/` sends a byte now and then, and `slow/` its header
    so. `versions/` breaks off, and answers the next time with the second of VERSIONS, whose ETag is another one;
    `deaf/` does so too, and takes no notice of If-Range.
    """

    requests: list[tuple[str, str | None]] = []
    VERSIONS = (b"y" * len(CONTENT), CONTENT)

    def do_GET(self) -> None:
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        self.requests.append((self.path, wanted))
        kind = self.path.split("/")[1]
        if kind == "none":
            self.send_error(404)
        elif kind in ("moved", "file"):
            self.send_response(302)
            place = "file:///etc/passwd" if kind == "file" else "/good/model.pth"
            self.send_header("Location", place)
            self.end_headers()
        elif kind == "slow":
            self._drip(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1000)
        elif kind == "drip":
            self._answer(200, CONTENT[:0], {"Content-Length": str(len(CONTENT))})
            self._drip(CONTENT)
        elif kind == "huge":
            self._answer(200, b"1", {"Content-Length": str(10**18)})
        elif kind in ("versions", "deaf"):
            number = min(len(self.requests) - 1, 1)
            etag = f'"{number}"'
            start = _start(wanted) if kind == "deaf" or condition == etag else 0
            self._send(self.VERSIONS[number], start, cut=number == 0, headers={"ETag": etag})
        else:
            content = b"x" * len(CONTENT) if kind == "wrong" else CONTENT
            self._send(content, 0 if kind == "flat" else _start(wanted), cut=kind == "cut", shifted=kind == "shifted")

    def _send(
        self, content: bytes, start: int, cut: bool, shifted: bool = False, headers: dict[str, str] | None = None
    ) -> None:
        begin = 0 if shifted else start
        body = content[begin:]
        sizes = {"Content-Length": str(len(body))}
        if start:
            sizes["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        self._answer(206 if start else 200, body[: len(body) // 2] if cut else body, sizes | (headers or {}))

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, content: bytes) -> None:
        with contextlib.suppress(OSError):  # the client has gone
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


def _start(wanted: str | None) -> int:
    return int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a server on this machine."""
    Handler.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def checkpoint(*urls: str) -> Checkpoint:
    return Checkpoint("model.pth", urls, DIGEST[:32])


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


def test_redirection_leads_to_http_only(server: str, tmp_path: Path) -> None:
    """A server may send the client on, but not to a file of this machine."""
    with pytest.raises(CheckpointError, match="file"):
        fetch(checkpoint(f"{server}/file/model.pth"), tmp_path)
    assert fetch(checkpoint(f"{server}/moved/model.pth"), tmp_path).read_bytes() == CONTENT


NOT_PLAIN = ["", ".", "..", "../up.pth", "/tmp/absolute.pth", "sub/model.pth", "C:model.pth", "a\\b.pth", "a\0b.pth",
             ".hidden", "line\nbreak.pth", "x" * 300]  # fmt: skip


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_file_that_is_not_a_plain_name_is_refused(name: str) -> None:
    """Neither a card nor a call can name a place outside of the cache."""
    with pytest.raises(ValueError, match="plain file name"):
        Checkpoint(name, ("https://localhost/model.pth",), DIGEST)
    data = {**load_card("hourglass52-coco-256x256").to_dict(), "checkpoint": {"file": name, "urls": [], "sha256": ""}}
    with pytest.raises(CardError, match="plain file name"):
        Card.from_dict(data, "card.toml")


@pytest.mark.parametrize(
    ("name", "digits"), [("model.pth", 0), ("model.pth", 1), ("model.pth", 31), (f"model-{DIGEST[:8]}.pth", 7)]
)
def test_short_hash_needs_the_users_own_hand(server: str, tmp_path: Path, name: str, digits: int) -> None:
    """A hash that anybody could meet is refused; `insecure` accepts it and still compares the digits there are."""
    entry = Checkpoint(name, (f"{server}/good/model.pth",), DIGEST[:digits])
    with pytest.raises(CheckpointError, match=f"has {digits} hex digits"):
        fetch(entry, tmp_path)
    assert Handler.requests == []
    assert fetch(entry, tmp_path, insecure=True).read_bytes() == CONTENT
    if digits:
        other = Checkpoint("other.pth", (f"{server}/wrong/model.pth",), DIGEST[:digits])
        with pytest.raises(CheckpointError, match="does not start with"):
            fetch(other, tmp_path, insecure=True)


@pytest.mark.parametrize("digits", ["x" * 64, "0" * 65, DIGEST[:40] + " "])
def test_hash_that_is_not_hexadecimal_is_refused(tmp_path: Path, digits: str) -> None:
    """Also with `insecure`: it is a mistake."""
    with pytest.raises(CheckpointError, match="hex digits"):
        fetch(Checkpoint("model.pth", (), digits), tmp_path, insecure=True)


def test_published_short_names_are_enough(server: str, tmp_path: Path) -> None:
    """Eight digits do where the file's name has them, in any case, and the cards of the zoo have no less."""
    for name in (f"model-{DIGEST[:8]}.pth", f"model_256-{DIGEST[:8].upper()}_20200709.pth"):
        entry = Checkpoint(name, (f"{server}/good/model.pth",), DIGEST[:8].upper())
        assert fetch(entry, tmp_path).read_bytes() == CONTENT
    published = [load_card(name) for name in zoo() if (card := load_card(name)).checkpoint and card.checkpoint.urls]
    for card in published:
        assert card.checkpoint is not None
        assert f"-{card.checkpoint.sha256[:8]}" in card.checkpoint.file


@pytest.mark.parametrize("kind", ["versions", "deaf"])
def test_file_that_changed_is_fetched_from_the_beginning(server: str, tmp_path: Path, kind: str) -> None:
    """A download that broke off does not go on with another version, whether the server heeds If-Range or not."""
    entry = checkpoint(f"{server}/{kind}/model.pth")
    with pytest.raises(CheckpointError, match="the connection ended after"):
        fetch(entry, tmp_path)
    assert fetch(entry, tmp_path).read_bytes() == CONTENT
    asked = [wanted for _, wanted in Handler.requests]
    assert asked[:2] == [None, f"bytes={len(CONTENT) // 2}-"]
    assert asked[2:] == ([None] if kind == "deaf" else [])
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_unchanged_file_goes_on_by_its_etag(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The condition is the ETag of what arrived before."""
    entry = checkpoint(f"{server}/versions/model.pth")
    with pytest.raises(CheckpointError):
        fetch(entry, tmp_path)
    version = download.known_version(tmp_path / "model.pth.part")
    assert version is not None
    assert version.request(version.address, 7) == {"Range": "bytes=7-", "If-Range": '"0"'}
    assert version.request("http://elsewhere/model.pth", 7) == {"Range": "bytes=7-"}
    weak = download.Version("a", 10, 'W/"1"', "Mon, 30 Nov 2026 00:00:00 GMT")
    assert weak.request("a", 1)["If-Range"] == "Mon, 30 Nov 2026 00:00:00 GMT"


@pytest.mark.parametrize("kind", ["good", "shifted"])
def test_beginning_of_another_file_is_thrown_away(server: str, tmp_path: Path, kind: str) -> None:
    """What lies there and is not what its note says does not spoil the download; nor does a range that is none."""
    with pytest.raises(CheckpointError):
        fetch(checkpoint(f"{server}/cut/model.pth"), tmp_path)
    (tmp_path / "model.pth.part").write_bytes(b"z" * 1000)
    assert fetch(checkpoint(f"{server}/{kind}/model.pth"), tmp_path).read_bytes() == CONTENT


def test_what_is_complete_is_not_asked_for_again(server: str, tmp_path: Path) -> None:
    """A run that was killed between the last byte and the name goes on without a byte."""
    with pytest.raises(CheckpointError):
        fetch(checkpoint(f"{server}/cut/model.pth"), tmp_path)
    (tmp_path / "model.pth.part").write_bytes(CONTENT)
    (tmp_path / "model.pth.part.json").write_text("{damaged")
    assert fetch(checkpoint(f"{server}/good/model.pth"), tmp_path).read_bytes() == CONTENT


def test_too_large_a_file_is_refused(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the server says, before a byte arrives, and by what arrives."""
    with pytest.raises(CheckpointError, match="at most"):
        fetch(checkpoint(f"{server}/huge/model.pth"), tmp_path)
    monkeypatch.setattr(download, "MOST_BYTES", 1000)
    with pytest.raises(CheckpointError, match="at most 1000 are allowed"):
        fetch(checkpoint(f"{server}/good/model.pth"), tmp_path)


@pytest.mark.parametrize("kind", ["drip", "slow"])
def test_time_is_limited_as_a_whole(server: str, tmp_path: Path, kind: str) -> None:
    """A server that sends a byte now and then, of the file or of its header, does not hold the client."""
    with pytest.raises(CheckpointError, match="the time limit is over"):
        fetch(checkpoint(f"{server}/{kind}/model.pth"), tmp_path, seconds=0.5)


def test_slow_address_gives_way_to_the_next(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate that would take weeks is an error of that address alone."""
    monkeypatch.setattr(download, "SILENCE_SECONDS", 0.2)
    entry = checkpoint(f"{server}/drip/model.pth", f"{server}/good/model.pth")
    assert fetch(entry, tmp_path).read_bytes() == CONTENT


def test_second_run_is_refused_by_name(server: str, tmp_path: Path) -> None:
    """Two runs do not write into one unfinished file."""
    with locked_file(tmp_path / "model.pth"), pytest.raises(BusyError, match=r"model.pth is in use .* process"):
        fetch(checkpoint(f"{server}/good/model.pth"), tmp_path)


def test_file_of_another_card_is_not_taken_from_the_cache(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that fetched its file under the name of the zoo's does not become the zoo's checkpoint."""
    monkeypatch.setenv("SANDGLASS_CACHE", str(tmp_path))
    card = load_card("hourglass52-coco-256x256")
    assert card.checkpoint is not None
    fetch(Checkpoint(card.checkpoint.file, (f"{server}/good/x",), DIGEST), tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="does not start with 4ec713ba"):
        find_checkpoint(card, None)
    with pytest.raises(CheckpointError, match="has no checkpoint to fetch"):
        fetch_card(load_card("hourglass-tiny-synthetic"))


def test_command_has_the_limits(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--insecure` and `--time-limit` reach the download."""
    monkeypatch.setenv("SANDGLASS_CACHE", str(tmp_path / "cache"))
    text = (zoo()["hourglass52-coco-256x256"]).read_text(encoding="utf-8")
    before = next(line for line in text.splitlines() if line.startswith("urls"))
    card = tmp_path / "card.toml"
    card.write_text(text.replace(before, f'urls = ["{server}/good/x"]').replace('sha256 = "4ec713ba"', 'sha256 = ""'))
    assert main(["fetch", str(card)]) == 2
    assert main(["fetch", str(card), "--insecure", "--time-limit", "1"]) == 0
    card.write_text(card.read_text().replace("/good/", "/drip/"))
    (fetched,) = (tmp_path / "cache/checkpoints").iterdir()
    fetched.unlink()
    assert main(["fetch", str(card), "--insecure", "--time-limit", "0.01"]) == 2
