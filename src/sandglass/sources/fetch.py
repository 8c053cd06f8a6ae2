"""Downloading published checkpoints: from several addresses, and worth nothing until the hash is right."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from sandglass.core.errors import CheckpointError
from sandglass.core.files import sha256
from sandglass.core.locks import locked_file
from sandglass.core.resume import cache_folder
from sandglass.sources.card import Card, Checkpoint
from sandglass.sources.download import Progress, download, forget

SECONDS = 3600.0  # for all addresses together: a checkpoint of 1 GB at 2.3 Mbit/s
SHORT_DIGITS = 8  # of SHA-256 that publishers put into a file's name: they keep accidents out
SAFE_DIGITS = 32  # 128 bits: no other file with them can be made


def fetch_card(
    card: Card,
    mirrors: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    *,
    insecure: bool = False,
    seconds: float = SECONDS,
) -> Path:
    """Fetch a zoo model's checkpoint into the user's cache, or find it there; see `fetch`."""
    if card.checkpoint is None or not card.checkpoint.urls:
        raise CheckpointError(f"{card.name} has no checkpoint to fetch", "see `sandglass models`")
    own = [mirror for mirror in os.environ.get("SANDGLASS_MIRRORS", "").split() if mirror]
    folder = cache_folder() / "checkpoints"
    return fetch(card.checkpoint, folder, [*mirrors, *own], progress, insecure=insecure, seconds=seconds)


def fetch(
    checkpoint: Checkpoint,
    folder: Path,
    mirrors: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    *,
    insecure: bool = False,
    seconds: float = SECONDS,
) -> Path:
    """The verified file in `folder`, downloaded within `seconds` if it is not there.

    The user's `mirrors` (folders of addresses) are tried before the card's own addresses. A download that broke off
    goes on where it stopped. `insecure` accepts a card whose hash has too few digits to verify the file by. Raises
    CheckpointError for such a card, for one whose `file` is not a plain name, and, with the reason for each address,
    when none gives the right file; BusyError where another run fetches the same file.
    """
    _check(checkpoint, insecure)
    target = folder / checkpoint.file
    if target.is_file() and is_right(target, checkpoint):
        return target
    addresses = [f"{mirror.rstrip('/')}/{checkpoint.file}" for mirror in mirrors] + list(checkpoint.urls)
    with locked_file(target):
        return _fetch_first(addresses, checkpoint, target, time.monotonic() + seconds, progress)


def is_right(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether a file has the hash that a card says, to as many digits as it says."""
    return sha256(path).startswith(checkpoint.sha256.lower())


def _check(checkpoint: Checkpoint, insecure: bool) -> None:
    file, digits = checkpoint.file, checkpoint.sha256.lower()
    if re.fullmatch("[0-9a-f]{0,64}", digits) is None:
        raise CheckpointError(f"the card's sha256 of {file} is {digits!r}", "give hex digits, 64 at most")
    # As published: `resnet18-f37072fd.pth`, `hourglass52_coco_256x256-4ec713ba_20200709.pth`.
    published = re.search(f"[-_]{digits[:SHORT_DIGITS]}[-_.]", file.lower())
    needed = SHORT_DIGITS if published else SAFE_DIGITS
    if len(digits) < needed and not insecure:
        raise CheckpointError(
            f"the card's sha256 of {file} has {len(digits)} hex digits, expected {SHORT_DIGITS} or more where the "
            f"file's name has them, else {SAFE_DIGITS} or more",
            "complete sha256 in the card, or accept whatever arrives with --insecure",
        )


def _fetch_first(
    addresses: Sequence[str], checkpoint: Checkpoint, target: Path, end: float, progress: Progress
) -> Path:
    """`target` from the first address that gives the right file, before the time `end`."""
    file, reasons = target.with_name(f"{target.name}.part"), []
    for address in addresses:
        try:
            right = _is_fetched(address, checkpoint, file, end, progress)
        except (OSError, HTTPException, ValueError) as error:
            reasons.append(f"{address}: {error}")
            continue
        if right:
            file.replace(target)
            forget(file)
            return target
        forget(file)
        reasons.append(f"{address}: the file's SHA-256 does not start with {checkpoint.sha256}")
    raise CheckpointError(f"{checkpoint.file} could not be fetched: {'; '.join(reasons) or 'no address'}",
                          "give a mirror with --mirror, or the file with --checkpoint")  # fmt: skip


def _is_fetched(address: str, checkpoint: Checkpoint, file: Path, end: float, progress: Progress) -> bool:
    """Whether `address` gives the right file; one that went on from another's beginning is fetched as a whole then."""
    went_on = download(address, file, end - time.monotonic(), progress)
    if went_on and not is_right(file, checkpoint):
        forget(file)
        download(address, file, end - time.monotonic(), progress)
    return is_right(file, checkpoint)
