"""Virtqueues: the split rings that a virtio device shares with its driver (VIRTIO 1.1, 2.6; legacy layout 2.6.2).

A ring is descriptors, an available ring that the driver fills, and a used ring that the device fills.  Everything in it is the
guest's word only: a chain that is longer than the ring, leaves it or nests tables is an error, which stops the
device until it is reset (2.1.2, DEVICE_NEEDS_RESET).
"""

import struct
from typing import Any

from xenfast.devices.dma import Scatter
from xenfast.xen.hvm.physmem import PhysMem

DESC = struct.Struct("<QIHH")
NEXT, WRITE, INDIRECT = 1, 2, 4
NO_INTERRUPT, NO_NOTIFY = 1, 1
LEGACY_ALIGN = 4096


class RingError(Exception):
    """The driver has broken the rules of 2.6."""


class Chain:
    """A request: what the device reads, and what it writes."""

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int, physmem: PhysMem) -> None:
        self.head, self.readable, self.writable = head, Scatter(physmem), Scatter(physmem)


class Virtqueue:
    def __init__(self, physmem: PhysMem, size: int) -> None:
        self.physmem, self.max_size = physmem, size
        self.reset()

    def reset(self) -> None:
        self.size = self.max_size
        self.desc = self.avail = self.used = 0
        self.enabled = False
        self.last_avail = self.used_index = self.signalled = 0
        self.vector = 0xFFFF
        self.event_index = self.indirect = False
        self.signalled_valid = False

    def set_legacy(self, frame: int) -> None:
        """Queue Address of the legacy interface: everything in one piece."""
        self.desc = frame << 12
        self.avail = self.desc + 16 * self.size
        self.used = self.avail + 6 + 2 * self.size + LEGACY_ALIGN - 1 & -LEGACY_ALIGN
        self.enabled = frame != 0
        if not frame:
            self.last_avail = self.used_index = 0

    # --- taking requests -------------------------------------------------------------------------------------------------
    def pending(self) -> int:
        """Requests that wait."""
        if not self.enabled:
            return 0
        waiting = self.physmem.read_int(self.avail + 2, 2) - self.last_avail & 0xFFFF
        if waiting > self.size:
            raise RingError(f"the available ring is ahead by {waiting}")
        return waiting

    def pop(self) -> Chain | None:
        """The next request; None when there is none."""
        if not self.pending():
            if self.event_index and self.enabled:        # tell us of the next one
                self.physmem.write_int(self.used + 4 + 8 * self.size, 2, self.last_avail)
                if not self.pending():
                    return None
            else:
                return None
        head = self.physmem.read_int(self.avail + 4 + 2 * (self.last_avail % self.size), 2)
        self.last_avail = self.last_avail + 1 & 0xFFFF
        return self._chain(head)

    def unpop(self) -> None:
        """The request that was taken last is left for later."""
        self.last_avail = self.last_avail - 1 & 0xFFFF

    def _chain(self, head: int) -> Chain:
        chain = Chain(head, self.physmem)
        table, size, at = self.desc, self.size, head
        nested = False
        count = 0
        while True:
            if at >= size:
                raise RingError(f"descriptor {at} of {size}")
            address, length, flags, following = DESC.unpack(self.physmem.read(table + 16 * at, 16))
            if flags & INDIRECT:
                if nested or flags & NEXT or not self.indirect or not length or length % 16 or length > 16 * 32768:
                    raise RingError(f"an indirect table of {length} bytes")
                table, size, at, nested = address, length // 16, 0, True
                continue
            count += 1
            if count > max(self.size, 1024):
                raise RingError("a chain without an end")
            if flags & WRITE:
                part = chain.writable
            elif chain.writable.size:
                raise RingError("a readable descriptor behind writable ones")
            else:
                part = chain.readable
            if part.size + length > MAX_CHAIN:
                raise RingError(f"a request of {part.size + length} bytes")
            part.add(address, length)
            if not flags & NEXT:
                return chain
            at = following

    # --- giving them back ------------------------------------------------------------------------------------------------
    def push(self, chain: Chain, written: int) -> None:
        at = self.used + 4 + 8 * (self.used_index % self.size)
        self.physmem.write(at, struct.pack("<II", chain.head, written & 0xFFFFFFFF))
        self.used_index = self.used_index + 1 & 0xFFFF
        self.physmem.write_int(self.used + 2, 2, self.used_index)

    def wants_interrupt(self) -> bool:
        """After pushing: does the driver want to hear of it (2.6.7)?"""
        if not self.event_index:
            return not self.physmem.read_int(self.avail, 2) & NO_INTERRUPT
        event = self.physmem.read_int(self.avail + 4 + 2 * self.size, 2)
        old, new = self.signalled, self.used_index
        self.signalled = new
        valid, self.signalled_valid = self.signalled_valid, True
        return not valid or new - event - 1 & 0xFFFF < new - old & 0xFFFF

    FIELDS = ("size", "desc", "avail", "used", "enabled", "last_avail", "used_index", "signalled", "vector", "event_index", "indirect",
              "signalled_valid")

    def save(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.FIELDS}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.FIELDS:
            setattr(self, name, state[name])


MAX_CHAIN = 64 << 20
