"""Messages between two processes. Arrays go through shared memory, because the buffer of a pipe is small."""

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
Received = tuple[bytes, list[int]]  # a message without its arrays, and their sizes in bytes
Descriptors = tuple[int, int, int]


class Channel:
    """One end of a connection: a pipe, and a memory file for each direction, as large as the largest message so far.

    Each direction holds one message at a time. The next message overwrites its arrays, of which the receiver has made
    copies.
    """

    def __init__(self, pipe: Connection, outgoing: int, incoming: int) -> None:
        self.pipe, self._outgoing, self._incoming = pipe, _Shared(outgoing), _Shared(incoming)

    @staticmethod
    def new() -> tuple[Channel, Connection]:
        """This process's end, and the pipe of the other end, which must be closed here when that process has it."""
        here, there = Pipe()
        return Channel(here, _memory_file(), _memory_file()), there

    @staticmethod
    def inherited(descriptors: Descriptors) -> Channel:
        """The end of a child process, from the descriptors that it has inherited."""
        pipe, outgoing, incoming = descriptors
        return Channel(Connection(pipe), outgoing, incoming)

    def other(self, pipe: Connection) -> Descriptors:
        """The descriptors from which the child process opens the other end."""
        return pipe.fileno(), self._incoming.descriptor, self._outgoing.descriptor

    def limit(self, seconds: float) -> None:
        """Limit the time to send into a full pipe, or to receive the rest of a message. Both raise BlockingIOError."""
        time = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
        with socket.socket(fileno=os.dup(self.pipe.fileno())) as handle:
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                handle.setsockopt(socket.SOL_SOCKET, option, time)

    def send(self, message: object) -> None:
        """Send a message. Raises ConnectionError if the other end is closed."""
        self.put(pack(message))

    def receive(self) -> Any:  # a pickle has no type
        """Wait for a message. Raises EOFError or ConnectionError if the other end is closed."""
        return self.unpack(self.take())

    def put(self, packed: Packed) -> None:
        """Send the parts of a message from `pack`."""
        text, arrays = packed
        sizes = [array.nbytes for array in arrays]
        for memory, array in zip(self._outgoing.pieces(sizes), arrays, strict=True):
            memory[:] = array
        self.pipe.send_bytes(pickle.dumps((text, sizes)))

    def take(self) -> Received:
        """Wait for a message, and return its parts for `unpack`."""
        received: Received = pickle.loads(self.pipe.recv_bytes())
        return received

    def unpack(self, received: Received) -> Any:
        """The message with copies of its arrays, which are writable."""
        text, sizes = received
        return pickle.loads(text, buffers=[bytearray(memory) for memory in self._incoming.pieces(sizes)])


def pack(message: object) -> Packed:
    """Split a message into its text and the bytes of its arrays. Raises the errors of `pickle.dumps`."""
    arrays: list[pickle.PickleBuffer] = []
    text = pickle.dumps(message, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
    return text, [array.raw() for array in arrays]


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sandglass")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class _Shared:
    """The memory file of one direction. It is mapped at its first use, and again after it has grown."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory: mmap.mmap | None = None

    def pieces(self, sizes: Sequence[int]) -> list[memoryview]:
        """Consecutive views of the memory with these sizes in bytes. The file grows if necessary."""
        total = sum(sizes)
        if total and (self._memory is None or len(self._memory) < total):
            if os.fstat(self.descriptor).st_size < total:
                os.ftruncate(self.descriptor, total)
            self._memory = mmap.mmap(self.descriptor, total)
        view, ends = memoryview(self._memory or b""), [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [view[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    def __del__(self) -> None:
        os.close(self.descriptor)
