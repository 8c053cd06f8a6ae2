"""Download one file over HTTP, with limits of time and size. An interrupted download continues where it stopped.

A note next to the unfinished file names its address and version. Only a download of the same version continues. If the
file has changed on the server (another ETag, date or size), the download starts from the beginning.
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
SILENCE_SECONDS = 20.0  # longest wait for the next byte, and the time over which the rate is measured
LEAST_BYTES_A_SECOND = 1024  # a slower download would take weeks
START_SECONDS = 60.0  # limit for the header of the answer, redirections included
MOST_BYTES = 8 << 30  # twice the size of the largest checkpoint that OpenMMLab publishes
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Version:
    """A version of a file at an address: its size in bytes, ETag and date; None or "" if unknown."""

    address: str
    size: int | None = None
    etag: str = ""
    modified: str = ""

    def request(self, address: str, have: int) -> dict[str, str]:
        """Headers that request the bytes after the first `have` bytes of this version from `address`."""
        strong = self.etag if not self.etag.startswith("W/") else ""
        unchanged = (strong or self.modified) if address == self.address else ""
        return {"Range": f"bytes={have}-"} | ({"If-Range": unchanged} if unchanged else {})

    def is_continued_by(self, other: Version) -> bool:
        """Whether `other` may be the same file. A mirror has another ETag and date, but the same size."""
        if self.size is None or self.size != other.size:
            return False
        pairs = ((self.etag, other.etag), (self.modified, other.modified))
        return self.address != other.address or all(a == b for a, b in pairs if a and b)


def download(address: str, file: Path, seconds: float, progress: Progress) -> bool:
    """Download `address` to `file` within `seconds`. Returns whether it continued an earlier download.

    Raises OSError, HTTPException or ValueError for an address that is not http or https or does not answer, a file that
    is larger than MOST_BYTES or does not fit on the disk, and a connection that breaks or is too slow. The bytes so far
    then stay in `file`.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise ValueError("only http and https are fetched")
    before, end = known_version(file), time.monotonic() + seconds
    have = file.stat().st_size if before and file.is_file() else 0
    for start in (have, 0) if have else (0,):
        headers = before.request(address, start) if before and start else {}
        with _answer(address, headers, end) as answer:
            if answer is None:  # the server has no bytes after those in the file
                if before and before.size == start:
                    return True
                continue
            version, begins = _version(address, answer)
            if begins and not (before and begins == start and before.is_continued_by(version)):
                continue
            _receive(answer, file, version, begins, progress)
            return begins > 0
    raise OSError("the server sends another part of the file than the requested one")


def known_version(file: Path) -> Version | None:
    """The version in the note next to an unfinished file; None if there is no valid note."""
    note = _note(file)
    try:
        return Version(**read_json(note, CheckpointError)) if note.is_file() else None
    except (CheckpointError, TypeError):  # the note is damaged: the download starts from the beginning
        return None


def forget(file: Path) -> None:
    """Remove an unfinished file and the note next to it."""
    file.unlink(missing_ok=True)
    _note(file).unlink(missing_ok=True)


def _note(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _version(address: str, answer: HTTPResponse) -> tuple[Version, int]:
    """The version of the file in an answer, and the offset of the answer's first byte in the file."""
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
            raise OSError(f"the disk has {free} free bytes, but the download needs {version.size - have}")
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
                    raise OSError(f"the connection is too slow: less than {LEAST_BYTES_A_SECOND} bytes per second")
                span, had = time.monotonic(), have
    if version.size is not None and have < version.size:
        raise OSError(f"the connection ended after {have} of {version.size} bytes")


def _refuse_large(size: int) -> None:
    if size > MOST_BYTES:
        raise OSError(f"the file has {size} bytes or more, but at most {MOST_BYTES} are allowed")


@contextmanager
def _answer(address: str, headers: dict[str, str], end: float) -> Iterator[HTTPResponse | None]:
    """The answer to a request; None if the file has no bytes in the requested range. It ends at the time `end`."""
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
    """Ends connections at a time limit. Timeouts of reads do not: a byte now and then keeps each read alive."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.over = False

    @contextmanager
    def until(self, end: float) -> Iterator[None]:
        """End connections at the time `end`. Raises TimeoutError for errors after this time."""
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
        ) as error:  # the errors of a read whose connection is closed
            if time.monotonic() < end:
                raise
            raise TimeoutError("the time limit is over") from error
        finally:
            timer.cancel()

    def add(self, connected: socket.socket) -> None:
        """Watch a connection. It is ended at once if the time is over."""
        self.sockets.append(connected)
        if self.over:
            self._close()

    def _close(self) -> None:
        self.over = True
        for each in self.sockets:
            with suppress(OSError):  # the connection has ended already
                socket.socket.shutdown(each, socket.SHUT_RDWR)  # the connection itself, below its encryption

    def opener(self) -> urllib.request.OpenerDirector:
        """An opener for http and https only, through the system's proxies, also after redirections."""
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
    """A connection that is watched as soon as it is open."""
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
