"""The kinds of processors for int8 artifacts, which differ in their integer arithmetic.

On x86 without VNNI, int8 kernels multiply unsigned activations by signed weights with an instruction (`vpmaddubsw`)
that adds two neighboring products in 16 bits and saturates: 255 * 127 + 255 * 127 = 64770 becomes 32767. VNNI and the
dot product of ARM add four products in 32 bits, which cannot overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandglass.core import host
from sandglass.core.errors import InputError


@dataclass(frozen=True)
class Processor:
    """A kind of processor. If it `saturates`, it adds pairs of products of 8-bit activations and weights in 16 bits."""

    name: str
    saturates: bool

    def runs_here(self) -> bool:
        """Whether an artifact for this kind of processor gives exact sums on this machine."""
        return self.saturates or not host.sums_saturate()


ANY = Processor("any", saturates=True)
PROCESSORS = {
    processor.name: processor
    for processor in (
        ANY,
        Processor("x86-avx2", saturates=True),
        Processor("x86-vnni", saturates=False),
        Processor("arm-dotprod", saturates=False),
    )
}


def find_processor(name: str) -> Processor:
    """The processor with this name in PROCESSORS, or with this last part of the name, such as `vnni`.

    Raises InputError with the known names for another name.
    """
    for known, processor in PROCESSORS.items():
        if name in (known, known.rpartition("-")[2]):
            return processor
    raise InputError(f"unknown processor {name!r}", f"known: {', '.join(PROCESSORS)}")
