"""Stand-ins for parts of the core, with the same methods, for tests of the Python half alone."""

import numpy

PGT_WRITABLE = 7


class FakeMemory:
    """_core.Memory's contract in Python: frames with owner, count and type."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self._data = bytearray(frames * 4096)
        self._owner: list[int | None] = [None] * frames
        self._count = [0] * frames
        self._allocated = [False] * frames
        self._type = [(0, 0)] * frames
        self.m2p = numpy.full(frames, (1 << 64) - 1, dtype=numpy.uint64)
        self.written: list[int] = []

    @property
    def free_pages(self) -> int:
        return self._owner.count(None)

    def view(self, mfn, count=1):
        if mfn < 0 or mfn + count > self.frames:
            raise ValueError(f"frame {mfn:#x} does not exist")
        return memoryview(self._data)[mfn * 4096:(mfn + count) * 4096]

    def wrote(self, mfn, count=1):
        self.written.extend(range(mfn, mfn + count))

    def alloc(self, domid, n, contiguous=False, shared=False):
        found = [mfn for mfn in range(self.frames) if self._owner[mfn] is None][:n]
        if len(found) < n:
            raise MemoryError(f"{n} frames wanted, {len(found)} are free")
        for mfn in found:
            self._owner[mfn], self._count[mfn], self._allocated[mfn] = domid, 1, True
            self._type[mfn] = (PGT_WRITABLE, 1) if shared else (0, 0)
        return numpy.array(found, dtype=numpy.uint64)

    def free(self, mfns):
        for mfn in mfns:
            mfn = int(mfn)
            if not self._allocated[mfn]:
                raise ValueError("a frame was not allocated")
            self._allocated[mfn] = False
            self.put_page(mfn)

    def free_domain(self, domid):
        self.free([mfn for mfn in range(self.frames) if self._owner[mfn] == domid and self._allocated[mfn]])

    def get_page(self, mfn, domid):
        if not 0 <= mfn < self.frames or self._owner[mfn] != domid or not self._count[mfn]:
            return False
        self._count[mfn] += 1
        return True

    def put_page(self, mfn):
        self._count[mfn] -= 1
        if not self._count[mfn]:
            self._owner[mfn] = None
            self._data[mfn * 4096:(mfn + 1) * 4096] = bytes(4096)
            self.m2p[mfn] = (1 << 64) - 1

    def get_page_type(self, mfn, wanted):
        now, uses = self._type[mfn]
        if uses and now != wanted:
            return False
        self._type[mfn] = (wanted, uses + 1)
        return True

    def put_page_type(self, mfn):
        now, uses = self._type[mfn]
        self._type[mfn] = (now, uses - 1)

    def owner(self, mfn):
        return self._owner[mfn]

    def type(self, mfn):
        return self._type[mfn]

    def count(self, mfn):
        return self._count[mfn]
