"""Atomic access to words of guest memory, which the guest changes at the same time with LOCKed instructions.

The real class is ``_core.SharedWords``; the Python one below serves where the core has not been built (it is exact for one thread).
"""

import struct

_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")


class PySharedWords:
    """Words in a writable buffer, one atomic operation per method; an index counts words of the width in the method's name."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def test_bit(self, bit: int) -> bool:
        return bool(self._view[bit >> 3] >> (bit & 7) & 1)

    def test_and_set_bit(self, bit: int) -> bool:
        old = self._view[bit >> 3]
        self._view[bit >> 3] = old | 1 << (bit & 7)
        return bool(old >> (bit & 7) & 1)

    def test_and_clear_bit(self, bit: int) -> bool:
        old = self._view[bit >> 3]
        self._view[bit >> 3] = old & ~(1 << (bit & 7))
        return bool(old >> (bit & 7) & 1)

    def load16(self, index: int) -> int:
        return _U16.unpack_from(self._view, index * 2)[0]

    def load32(self, index: int) -> int:
        return _U32.unpack_from(self._view, index * 4)[0]

    def store32(self, index: int, value: int) -> None:
        _U32.pack_into(self._view, index * 4, value)

    def or16(self, index: int, bits: int) -> None:
        _U16.pack_into(self._view, index * 2, self.load16(index) | bits)

    def and16(self, index: int, bits: int) -> None:
        _U16.pack_into(self._view, index * 2, self.load16(index) & bits)

    def cas32(self, index: int, old: int, new: int) -> bool:
        if self.load32(index) != old:
            return False
        _U32.pack_into(self._view, index * 4, new)
        return True


try:
    from xenfast._core import SharedWords  # type: ignore
except ImportError:
    SharedWords = PySharedWords
