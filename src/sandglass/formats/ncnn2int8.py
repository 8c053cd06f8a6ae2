"""ncnn2int8 without a C++ toolchain: convert an fp32 ncnn model with a calibration `.table` to an int8 model.

    python -m sandglass.formats.ncnn2int8 in.param in.bin out.param out.bin in.table

The arguments are those of ncnn's own tool. Winograd is disabled for layers whose weights would overflow in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sandglass.core.errors import SandglassError
from sandglass.core.files import atomic_file
from sandglass.formats import ncnn_bin, ncnn_int8, ncnn_param, ncnn_table


def ncnn2int8(param: Path, weights: Path, out_param: Path, out_weights: Path, table: Path) -> None:
    """Write the int8 model to `out_param` and `out_weights`. Raises FormatError for files that do not fit together."""
    model = ncnn_param.read_param(param)
    parts = ncnn_bin.read_bin(model, weights)
    ncnn_int8.quantize(model, parts, ncnn_table.read_table(table))
    with atomic_file(out_param) as temporary:
        temporary.write_text(model.text(), encoding="utf-8")
    with atomic_file(out_weights) as temporary:
        ncnn_bin.write_bin(parts, temporary)


def main(arguments: list[str]) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error, which is printed on standard error."""
    if len(arguments) != 5:
        print((__doc__ or "").splitlines()[2].strip(), file=sys.stderr)
        return 2
    try:
        ncnn2int8(*map(Path, arguments))
    except SandglassError as error:
        print(f"ncnn2int8: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
