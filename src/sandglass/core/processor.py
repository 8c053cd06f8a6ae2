"""The processors that an int8 artifact can be made for, as far as integer arithmetic differs between them.

On x86 without VNNI, int8 kernels multiply unsigned activations by signed weights with one instruction (`vpmaddubsw`)
that adds two neighbouring products in 16 bits and saturates: 255 * 127 + 255 * 127 = 64770 becomes 32767. With VNNI,
and with ARM's dot product, four products are added in 32 bits, which cannot overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandglass.core import host
from sandglass.core.errors import InputError


@dataclass(frozen=True)
class Processor:
    """A kind of processor. `saturates`: pairs of products of 8-bit activations and weights are added in 16 bits."""

    name: str
    saturates: bool

    def runs_here(self) -> bool:
        """Whether an artifact that was made for this kind gives exact sums on the processor at hand."""
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
    """The processor of a name in PROCESSORS, or of its last part (`vnni`). Raises InputError for another name."""
    for known, processor in PROCESSORS.items():
        if name in (known, known.rpartition("-")[2]):
            return processor
    raise InputError(f"unknown processor {name!r}", f"known: {', '.join(PROCESSORS)}")
