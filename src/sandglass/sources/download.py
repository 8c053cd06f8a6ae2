"""One file over HTTP, within limits of time and size; a download that broke off goes on where it stopped.

Next to the unfinished file lies a note of what it is a part of. Only a download of the same file goes on: one that
changed on the server since (by its ETag, its date or its size) starts from the beginning.
"""

from __future__ import annotations

import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from sandglass.core.errors import CheckpointError
from sandglass.core.files import read_json, write_json

BLOCK = 1 << 18  # bytes
SILENCE_SECONDS = 20.0  # the longest wait for the next byte, and the span over which a rate is measured
LEAST_BYTES_A_SECOND = 1024  # a tenth of what a modem line brought: what is slower would take weeks
START_SECONDS = 60.0  # for the answer's header, redirections included
MOST_BYTES = 8 << 30  # twice the largest checkpoint that OpenMMLab publishes
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Version:
    """What an address served: `size` in bytes, and what tells one version of the file from another; "" if unknown."""

    address: str
    size: int | None = None
    etag: str = ""
    modified: str = ""

    def request(self, address: str, have: int) -> dict[str, str]:
        """Headers that ask `address` for what comes after the first `have` bytes of this version."""
        strong = self.etag if not self.etag.startswith("W/") else ""
        unchanged = (strong or self.modified) if address == self.address else ""
        return {"Range": f"bytes={have}-"} | ({"If-Range": unchanged} if unchanged else {})

    def is_continued_by(self, other: Version) -> bool:
        """Whether `other` may be the same file: a mirror has its own ETag and date, but the size is the same."""
        if self.size is None or self.size != other.size:
            return False
        pairs = ((self.etag, other.etag), (self.modified, other.modified))
        return self.address != other.address or all(a == b for a, b in pairs if a and b)


def download(address: str, file: Path, seconds: float, progress: Progress) -> bool:
    """Fetch `address` into `file` within `seconds`; returns whether the first bytes are of an earlier download.

    Raises OSError, HTTPException or ValueError for an address that is not http or https or does not answer, a file
    larger than MOST_BYTES or than the disk has room for, a connection that breaks off or is too slow. What has arrived
    is then kept.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise ValueError("only http and https are fetched")
    before, end = known_version(file), time.monotonic() + seconds
    have = file.stat().st_size if before and file.is_file() else 0
    for start in (have, 0) if have else (0,):
        headers = before.request(address, start) if before and start else {}
        with _answer(address, headers, end) as answer:
            if answer is None:  # nothing comes after what is there
                if before and before.size == start:
                    return True
                continue
            version, begins = _version(address, answer)
            if begins and not (before and begins == start and before.is_continued_by(version)):
                continue
            _receive(answer, file, version, begins, progress)
            return begins > 0
    raise OSError("the server sends another part than the one that was asked for")


def known_version(file: Path) -> Version | None:
    """What an unfinished file is a part of, as noted next to it; None where that is not known."""
    note = _note(file)
    try:
        return Version(**read_json(note, CheckpointError)) if note.is_file() else None
    except (CheckpointError, TypeError):  # damaged: the download starts from the beginning
        return None


def forget(file: Path) -> None:
    """Remove an unfinished file and the note next to it."""
    file.unlink(missing_ok=True)
    _note(file).unlink(missing_ok=True)


def _note(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _version(address: str, answer: HTTPResponse) -> tuple[Version, int]:
    """The version that an answer is of, and the place in the file of the answer's first byte."""
    begins, size = 0, _number(answer.headers.get("Content-Length", ""))
    if answer.status == 206:
        part, _, whole = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        begins, size = _number(part.partition("-")[0]) or 0, _number(whole)
    return Version(address, size, answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")), begins


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _receive(answer: HTTPResponse, file: Path, version: Version, have: int, progress: Progress) -> None:
    """Append the answer to the first `have` bytes of `file`."""
    if version.size is not None:
        _refuse_large(version.size)
        if version.size - have > (free := shutil.disk_usage(file.parent).free):
            raise OSError(f"{version.size - have} bytes are to come, and the disk has room for {free}")
    with file.open("ab" if have else "wb") as stream:
        write_json(_note(file), asdict(version))
        span, had = time.monotonic(), have
        while block := answer.read1(BLOCK):
            stream.write(block)
            have += len(block)
            _refuse_large(have)
            progress(have, max(version.size or 0, have))
            if (passed := time.monotonic() - span) > SILENCE_SECONDS:
                if have - had < LEAST_BYTES_A_SECOND * passed:
                    raise OSError(f"fewer than {LEAST_BYTES_A_SECOND} bytes a second arrive")
                span, had = time.monotonic(), have
    if version.size is not None and have < version.size:
        raise OSError(f"the connection ended after {have} of {version.size} bytes")


def _refuse_large(size: int) -> None:
    if size > MOST_BYTES:
        raise OSError(f"the file has {size} bytes or more, and at most {MOST_BYTES} are fetched")


@contextmanager
def _answer(address: str, headers: dict[str, str], end: float) -> Iterator[HTTPResponse | None]:
    """The answer to a request; None where the file has nothing after what is there. Both end at the time `end`."""
    watch, request = _Watch(), urllib.request.Request(address, headers=headers)
    try:
        with watch.until(min(end, time.monotonic() + START_SECONDS)):
            answer = watch.opener().open(request, timeout=SILENCE_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not headers:
            raise
        yield None
        return
    with watch.until(end), answer:
        yield answer


class _Watch:
    """Ends connections when their time is over: where a byte arrives now and then, no single read times out."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.over = False

    @contextmanager
    def until(self, end: float) -> Iterator[None]:
        """Raises TimeoutError for whatever goes wrong after the time `end`."""
        if time.monotonic() >= end:
            raise TimeoutError("the time limit is over")
        timer = threading.Timer(max(0.0, end - time.monotonic()), self._close)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (
            OSError,
            HTTPException,
            ValueError,
            AttributeError,
        ) as error:  # what a read raises whose connection ends under it
            if time.monotonic() < end:
                raise
            raise TimeoutError("the time limit is over") from error
        finally:
            timer.cancel()

    def add(self, connected: socket.socket) -> None:
        """Watch a connection; it ends at once where the time is over."""
        self.sockets.append(connected)
        if self.over:
            self._close()

    def _close(self) -> None:
        self.over = True
        for each in self.sockets:
            with suppress(OSError):  # it has ended
                socket.socket.shutdown(each, socket.SHUT_RDWR)  # of the connection itself, below its encryption

    def opener(self) -> urllib.request.OpenerDirector:
        """Opens http and https through the system's proxies, and nothing else, wherever an address redirects to."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirections(),
            _Http(partial(_watched, HTTPConnection, self)),
            _Https(partial(_watched, HTTPSConnection, self)),
        ):
            opener.add_handler(handler)
        return opener


def _watched(kind: Callable[..., HTTPConnection], watch: _Watch, *args: object, **options: object) -> HTTPConnection:
    """A connection that is watched as soon as it is made."""
    connection = kind(*args, **options)
    connect = connection.connect

    def connect_watched() -> None:
        connect()
        watch.add(connection.sock)

    connection.connect = connect_watched  # type: ignore[method-assign]
    return connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, connect: Callable[..., HTTPConnection]) -> None:
        super().__init__()
        self.connect = connect

    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(self.connect, request)  # type: ignore[arg-type]


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, connect: Callable[..., HTTPConnection]) -> None:
        super().__init__()
        self.connect = connect

    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(self.connect, request)  # type: ignore[arg-type]


class _Redirections(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        request: urllib.request.Request,
        answer: IO[bytes],
        code: int,
        reason: str,
        headers: HTTPMessage,
        address: str,
    ) -> urllib.request.Request | None:
        """Follow a redirection, but not from https to http."""
        if request.type == "https" and urlsplit(address).scheme != "https":
            raise urllib.error.URLError(f"{request.full_url} redirects to {address}, which is not https")
        return super().redirect_request(request, answer, code, reason, headers, address)
