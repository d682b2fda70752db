"""Guest-physical memory as a device (DMA), the firmware or a builder sees it: through the domain's physmap.

Bytes that are no RAM read as all ones, and they and ROMs ignore writes, as on a PC; so a guest that gives a device a bad address harms
nobody but itself.
"""

from collections.abc import Iterator
from typing import Any

PAGE = 4096


class PhysMem:
    """``memory`` is a ``_core.Memory``, ``physmap`` a ``_core.GuestPhysMap``.  Addresses and sizes are bytes."""

    def __init__(self, memory: Any, physmap: Any) -> None:
        self.memory, self.physmap = memory, physmap

    def pieces(self, address: int, size: int) -> Iterator[tuple[int | None, int, int]]:
        """(machine frame or None, offset in it, bytes) for each page of a range."""
        while size > 0:
            offset = address & PAGE - 1
            n = min(size, PAGE - offset)
            yield self.physmap.get(address >> 12), offset, n
            address += n
            size -= n

    def runs(self, address: int, size: int) -> Iterator[tuple[int | None, int, int, bool]]:
        """(first machine frame or None, offset in it, bytes, read-only) for each run of frames that follow each other."""
        get, is_readonly = self.physmap.get, self.physmap.is_readonly
        while size > 0:
            gfn, offset = address >> 12, address & PAGE - 1
            first = get(gfn)
            readonly = first is not None and is_readonly(gfn)
            pages, n = 1, PAGE - offset
            while n < size and get(gfn + pages) == (None if first is None else first + pages) and (
                first is None or is_readonly(gfn + pages) == readonly
            ):
                pages += 1
                n += PAGE
            n = min(n, size)
            yield first, offset, n, readonly
            address += n
            size -= n

    def read(self, address: int, size: int) -> bytes:
        at = address & PAGE - 1
        if at + size <= PAGE:
            mfn = self.physmap.get(address >> 12)
            return bytes(self.memory.view(mfn, readonly=True)[at:at + size]) if mfn is not None else b"\xff" * size
        return b"".join(
            bytes(self.memory.view(mfn, readonly=True)[at:at + n]) if mfn is not None else b"\xff" * n
            for mfn, at, n in self.pieces(address, size)
        )

    def write(self, address: int, data: bytes | bytearray | memoryview, *, rom: bool = False) -> None:
        """``rom``: firmware that writes into its own ROM."""
        done = 0
        for mfn, at, n in self.pieces(address, len(data)):
            if mfn is not None and (rom or not self.physmap.is_readonly(address + done >> 12)):
                self.memory.view(mfn)[at:at + n] = data[done:done + n]
                self.memory.wrote(mfn)
            done += n

    def views(self, address: int, size: int) -> list[memoryview]:
        """The memory itself, in pieces, for readv and writev; call ``wrote(address, size)`` after writing into it.

        What is no RAM is replaced by scratch memory, and a ROM by a copy.
        """
        views = []
        for mfn, at, n, readonly in self.runs(address, size):
            if mfn is None:
                views.append(memoryview(bytearray(b"\xff" * n)))
            elif readonly:
                views.append(memoryview(bytearray(self.memory.view(mfn, -(-(at + n) // PAGE), readonly=True)[at:at + n])))
            else:
                views.append(self.memory.view(mfn, -(-(at + n) // PAGE))[at:at + n])
        return views

    def wrote(self, address: int, size: int) -> None:
        for mfn, at, n, _ in self.runs(address, size):
            if mfn is not None:
                self.memory.wrote(mfn, -(-(at + n) // PAGE))

    def read_int(self, address: int, size: int) -> int:
        return int.from_bytes(self.read(address, size), "little")

    def write_int(self, address: int, size: int, value: int) -> None:
        self.write(address, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))
