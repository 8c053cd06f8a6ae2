"""Download published checkpoints. Several addresses are tried, and a file counts only if its hash is right."""

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

SECONDS = 3600.0  # seconds for all addresses together: a checkpoint of 1 GB at 2.3 Mbit/s
SHORT_DIGITS = 8  # hex digits of SHA-256 that publishers put into file names; they detect accidental changes
SAFE_DIGITS = 32  # hex digits, 128 bits: nobody can construct another file with the same digits


def fetch_card(
    card: Card,
    mirrors: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
    *,
    insecure: bool = False,
    seconds: float = SECONDS,
) -> Path:
    """Download a zoo model's checkpoint to the user's cache, or find it there (see `fetch`).

    `progress` gets the finished and the total number of bytes.
    """
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
    """The verified file in `folder`. If it is not there, it is downloaded within `seconds`.

    The user's `mirrors` (URLs of folders) are tried before the card's own addresses. An interrupted download continues
    where it stopped. `insecure` accepts a card whose hash has too few digits to verify the file. Raises CheckpointError
    for such a card without `insecure`, for a `file` that is not a plain name, and, with the reason for each address, if
    no address gives the right file. Raises BusyError if another run downloads the same file.
    """
    _check(checkpoint, insecure)
    target = folder / checkpoint.file
    if target.is_file() and is_right(target, checkpoint):
        return target
    addresses = [f"{mirror.rstrip('/')}/{checkpoint.file}" for mirror in mirrors] + list(checkpoint.urls)
    with locked_file(target):
        return _fetch_first(addresses, checkpoint, target, time.monotonic() + seconds, progress)


def is_right(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether the SHA-256 of a file starts with the digits of the card."""
    return sha256(path).startswith(checkpoint.sha256.lower())


def _check(checkpoint: Checkpoint, insecure: bool) -> None:
    file, digits = checkpoint.file, checkpoint.sha256.lower()
    if re.fullmatch("[0-9a-f]{0,64}", digits) is None:
        raise CheckpointError(
            f"the card's sha256 of {file} is {digits!r}, expected hex digits", "give at most 64 hex digits"
        )
    # Published names: `resnet18-f37072fd.pth`, `hourglass52_coco_256x256-4ec713ba_20200709.pth`.
    published = re.search(f"[-_]{digits[:SHORT_DIGITS]}[-_.]", file.lower())
    needed = SHORT_DIGITS if published else SAFE_DIGITS
    if len(digits) < needed and not insecure:
        raise CheckpointError(
            f"the card's sha256 of {file} has {len(digits)} hex digits, expected at least {SAFE_DIGITS}, or at least "
            f"{SHORT_DIGITS} if they are in the file's name",
            "complete sha256 in the card, or accept any file with --insecure",
        )


def _fetch_first(
    addresses: Sequence[str], checkpoint: Checkpoint, target: Path, end: float, progress: Progress
) -> Path:
    """Download `target` from the first address that gives the right file, before the time `end`."""
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
    raise CheckpointError(f"{checkpoint.file} could not be downloaded: {'; '.join(reasons) or 'no address'}",
                          "give another address with --mirror, or the file with --checkpoint")  # fmt: skip


def _is_fetched(address: str, checkpoint: Checkpoint, file: Path, end: float, progress: Progress) -> bool:
    """Whether `address` gives the right file.

    A download that continued an earlier one and gave a wrong file is repeated from the beginning.
    """
    continued = download(address, file, end - time.monotonic(), progress)
    if continued and not is_right(file, checkpoint):
        forget(file)
        download(address, file, end - time.monotonic(), progress)
    return is_right(file, checkpoint)
