"""Messages between two processes. Arrays go through memory that both see: a pipe holds a small part of an image."""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
import tempfile
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

Packed = tuple[bytes, list[memoryview]]  # a message without its arrays, and their bytes
Taken = tuple[bytes, list[int]]  # a message without its arrays, and their sizes in bytes
Descriptors = tuple[int, int, int]


class Channel:
    """One end: a pipe, and a file in memory for each direction, as large as the largest message has been.

    Messages of one direction come one at a time: the next one overwrites the arrays of the one before, of which the
    receiver has copies.
    """

    def __init__(self, pipe: Connection, outgoing: int, incoming: int) -> None:
        self.pipe, self._outgoing, self._incoming = pipe, _Shared(outgoing), _Shared(incoming)

    @staticmethod
    def new() -> tuple[Channel, Connection]:
        """This process's end, and the pipe of the other one, to be closed here when that process has it."""
        here, there = Pipe()
        return Channel(here, _memory_file(), _memory_file()), there

    @staticmethod
    def inherited(descriptors: Descriptors) -> Channel:
        """The end that `descriptors`, which this process has inherited, are of."""
        pipe, outgoing, incoming = descriptors
        return Channel(Connection(pipe), outgoing, incoming)

    def other(self, pipe: Connection) -> Descriptors:
        """What the other end is opened by."""
        return pipe.fileno(), self._incoming.descriptor, self._outgoing.descriptor

    def limit(self, seconds: float) -> None:
        """Sending into a full pipe, or receiving the rest of a message, ends with BlockingIOError after so long."""
        time = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        with socket.socket(fileno=os.dup(self.pipe.fileno())) as handle:
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                handle.setsockopt(socket.SOL_SOCKET, option, time)

    def send(self, message: object) -> None:
        """Raises ConnectionError where the other end is closed."""
        self.put(pack(message))

    def receive(self) -> Any:  # a pickle has no type
        """Raises EOFError or ConnectionError where the other end is closed."""
        return self.unpack(self.take())

    def put(self, packed: Packed) -> None:
        """Send what `pack` returns."""
        text, arrays = packed
        sizes = [array.nbytes for array in arrays]
        for memory, array in zip(self._outgoing.pieces(sizes), arrays, strict=True):
            memory[:] = array
        self.pipe.send_bytes(pickle.dumps((text, sizes)))

    def take(self) -> Taken:
        """Wait for a message."""
        taken: Taken = pickle.loads(self.pipe.recv_bytes())
        return taken

    def unpack(self, taken: Taken) -> Any:
        """The message that was taken, with its arrays, which can be written to."""
        text, sizes = taken
        return pickle.loads(text, buffers=[bytearray(memory) for memory in self._incoming.pieces(sizes)])


def pack(message: object) -> Packed:
    """A message in its parts. Raises what pickling it raises."""
    arrays: list[pickle.PickleBuffer] = []
    text = pickle.dumps(message, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
    return text, [array.raw() for array in arrays]


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sandglass")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class _Shared:
    """The file of one direction, mapped when it is used for the first time and when it has grown."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory: mmap.mmap | None = None

    def pieces(self, sizes: Sequence[int]) -> list[memoryview]:
        """Its parts of these sizes in bytes, one after the other."""
        total = sum(sizes)
        if total and (self._memory is None or len(self._memory) < total):
            if os.fstat(self.descriptor).st_size < total:
                os.ftruncate(self.descriptor, total)
            self._memory = mmap.mmap(self.descriptor, total)
        view, ends = memoryview(self._memory or b""), [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [view[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    def __del__(self) -> None:
        os.close(self.descriptor)
