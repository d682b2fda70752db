"""Scattered memory of a guest: what a device moves in one go by DMA, made of the pieces that its descriptors name.

The pieces are memory of the guest itself, so data goes between it and an image without a copy.  What is no RAM is scratch
memory (physmem.py).
"""

from xenfast.xen.hvm.physmem import PhysMem


class Scatter:
    """Pieces of guest-physical memory, in order; ``views`` is for readv and writev."""

    __slots__ = ("_views", "physmem", "ranges", "size")

    def __init__(self, physmem: PhysMem) -> None:
        self.physmem = physmem
        self._views: list[memoryview] | None = None
        self.ranges: list[tuple[int, int]] = []
        self.size = 0

    def add(self, address: int, size: int) -> None:
        if not size:
            return
        self.size += size
        self._views = None
        if self.ranges:
            last, length = self.ranges[-1]
            if last + length == address:                # pieces that follow each other are one
                self.ranges[-1] = last, length + size
                return
        self.ranges.append((address, size))

    @property
    def views(self) -> list[memoryview]:
        if self._views is None:
            self._views = [view for address, size in self.ranges for view in self.physmem.views(address, size)]
        return self._views

    def between(self, start: int, size: int) -> list[memoryview]:
        """Views of part of it."""
        found = []
        for view in self.views:
            if size <= 0:
                break
            if start >= len(view):
                start -= len(view)
                continue
            view = view[start:start + size]
            start = 0
            size -= len(view)
            found.append(view)
        return found

    def wrote(self) -> None:
        """Must be called after the views have been written."""
        for address, size in self.ranges:
            self.physmem.wrote(address, size)

    def read(self, size: int | None = None) -> bytes:
        """Gather: the first bytes, or all of them."""
        return b"".join(self.views if size is None else self.between(0, size))

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Scatter data over the pieces; how many bytes have found a place."""
        done = scatter(data, self.views)
        if done:
            self.wrote()
        return done


def scatter(data: bytes | bytearray | memoryview, views: list[memoryview]) -> int:
    """Copy data into views one after the other; how many bytes there was room for."""
    done = 0
    for view in views:
        piece = data[done:done + len(view)]
        if not piece:
            break
        view[:len(piece)] = piece
        done += len(piece)
    return done
