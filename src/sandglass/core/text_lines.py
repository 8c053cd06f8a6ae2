"""Lines of the text files that people's tools write.

Only line feeds and carriage returns end a line. `str.splitlines` also splits at form feeds, vertical tabs and Unicode's
own separators, which are part of a text or of a file's name.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from sandglass.core.errors import InputError
from sandglass.core.reading import MOST_BYTES, read_bytes

END = re.compile(r"\r\n|\r|\n")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(path: Path, error: type[InputError], most: int = MOST_BYTES) -> list[tuple[int, str]]:
    """The lines of a file that hold something, stripped, each with its number, from 1.

    The file has at most `most` bytes. It is in UTF-8, with or without a byte-order mark, or in UTF-16 with one. Raises
    `error` where it cannot be read or is in another encoding.
    """
    data = read_bytes(path, error, most=most)
    try:
        text = data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not a text file in UTF-8", "convert it, or give another file") from cause
    return [(number, line.strip()) for number, line in enumerate(END.split(text), 1) if line.strip()]
