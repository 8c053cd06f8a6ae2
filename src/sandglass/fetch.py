"""Downloading published checkpoints: resumable, from several addresses, and worth nothing until the hash is right."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from sandglass.card import Card, Checkpoint
from sandglass.errors import CheckpointError
from sandglass.files import sha256
from sandglass.journal import cache_folder

BLOCK = 1 << 18
TIMEOUT = 20.0
Progress = Callable[[int, int], None]


def fetch_card(card: Card, mirrors: Sequence[str] = (), progress: Progress = lambda done, total: None) -> Path:
    """Fetch a zoo model's checkpoint into the user's cache, or find it there; see `fetch`."""
    if card.checkpoint is None or not card.checkpoint.urls:
        raise CheckpointError(f"{card.name} has no checkpoint to fetch", "see `sandglass models`")
    own = [mirror for mirror in os.environ.get("SANDGLASS_MIRRORS", "").split() if mirror]
    return fetch(card.checkpoint, cache_folder() / "checkpoints", [*mirrors, *own], progress)


def fetch(
    checkpoint: Checkpoint, folder: Path, mirrors: Sequence[str] = (), progress: Progress = lambda done, total: None
) -> Path:
    """The verified file in `folder`, downloaded if it is not there.

    The user's `mirrors` (folders of addresses) are tried before the card's own addresses. A download that broke off
    goes on where it stopped. Raises CheckpointError, with the reason for each address, when none gives the right file.
    """
    target = folder / checkpoint.file
    if target.is_file() and _is_right(target, checkpoint):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{checkpoint.file}.part"
    addresses = [f"{mirror.rstrip('/')}/{checkpoint.file}" for mirror in mirrors] + list(checkpoint.urls)
    reasons = []
    for address in addresses:
        try:
            _download(address, partial, progress)
        except (OSError, HTTPException, ValueError) as error:
            reasons.append(f"{address}: {error}")
            continue
        if _is_right(partial, checkpoint):
            partial.replace(target)
            return target
        reasons.append(f"{address}: the file's SHA-256 does not start with {checkpoint.sha256}")
        partial.unlink()
    raise CheckpointError(f"{checkpoint.file} could not be fetched: {'; '.join(reasons) or 'no address'}",
                          "give a mirror with --mirror, or the file with --checkpoint")  # fmt: skip


def _is_right(path: Path, checkpoint: Checkpoint) -> bool:
    return sha256(path).startswith(checkpoint.sha256.lower())


def _download(address: str, partial: Path, progress: Progress) -> None:
    if urlsplit(address).scheme not in ("http", "https"):
        raise ValueError("only http and https are fetched")
    have = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send: the hash decides
            return
        raise
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        total = have + int(response.headers.get("Content-Length") or 0)
        with partial.open("ab" if resumed else "wb") as stream:
            while block := response.read(BLOCK):
                stream.write(block)
                have += len(block)
                progress(have, max(total, have))
        if have < total:
            raise OSError(f"the connection ended after {have} of {total} bytes")
