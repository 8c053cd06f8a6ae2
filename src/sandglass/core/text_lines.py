"""Lines of text files from other tools.

Only line feeds and carriage returns end a line. `str.splitlines` also splits at form feeds, vertical tabs and Unicode
separators, which may be part of a text or of a file name.
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
    """The lines of a file that are not empty: (number from 1, text without surrounding blanks).

    The file has at most `most` bytes. It is in UTF-8, with or without a byte-order mark, or in UTF-16 with one. Raises
    `error` if the file cannot be read or is in another encoding.
    """
    data = read_bytes(path, error, most=most)
    try:
        text = data.decode("utf-16" if data.startswith(UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not a text file in UTF-8", "convert it to UTF-8, or give another file") from cause
    return [(number, line.strip()) for number, line in enumerate(END.split(text), 1) if line.strip()]
