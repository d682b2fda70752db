"""Message signalled interrupts: the MSI and MSI-X capabilities of a PCI function.

PCI Local Bus Specification 3.0, 6.8.1 (MSI) and 6.8.2 (MSI-X).  MSI is always with 64-bit address and per-vector masks.  Both
call ``send(address, data)``; what a message means to local APICs is ``decode()`` (SDM Vol. 3, 10.11).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.bus import Region

Send = Callable[[int, int], None]

MSI_ENABLE, MSI_64, MSI_MASKS = 1, 1 << 7, 1 << 8
MSIX_ENABLE, MSIX_MASK_ALL = 1 << 15, 1 << 14
MSIX_PBA = 0x800                    # of the region; the table of up to 128 vectors lies before it


def decode(address: int, data: int) -> dict[str, Any] | None:
    """A message to ``ApicBus.send(**...)``; None: it is a plain write of memory."""
    if address >> 20 != 0xFEE:
        return None
    mode = data >> 8 & 7
    return {"dest": address >> 12 & 0xFF, "vector": data & 0xFF, "mode": mode, "logical": bool(address & 4),
            "level": bool(data >> 15 & 1)}


class _Messages:
    """What MSI and MSI-X share: vectors that may be masked, and remember that they would have been sent."""

    offset = 0          # of the capability
    length = 0
    enabled = False

    def __init__(self, vectors: int, send: Send) -> None:
        self.vectors, self.send = vectors, send
        self.pending = 0        # a bit a vector

    def message(self, vector: int) -> tuple[int, int]:
        raise NotImplementedError

    def masked(self, vector: int) -> bool:
        raise NotImplementedError

    def notify(self, vector: int) -> None:
        if not 0 <= vector < self.vectors:
            return
        if self.masked(vector):
            self.pending |= 1 << vector
            self.shown()
        else:
            self.send(*self.message(vector))

    def shown(self) -> None:
        """The pending bits have changed."""

    def release(self) -> None:
        """Send what is pending and not masked any more."""
        for vector in range(self.vectors):
            if self.pending >> vector & 1 and self.enabled and not self.masked(vector):
                self.pending &= ~(1 << vector)
                self.send(*self.message(vector))
        self.shown()


class Msi(_Messages):
    """6.8.1: control +2, address +4, data +Ch, mask +10h, pending +14h."""

    length = 24

    def __init__(self, vectors: int, send: Send) -> None:
        if vectors not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"MSI has 1, 2, 4, 8, 16 or 32 vectors, not {vectors}")
        super().__init__(vectors, send)
        self.config: bytearray | None = None
        self.reset()

    def capability(self) -> tuple[bytes, bytes]:
        control = MSI_64 | MSI_MASKS | (self.vectors.bit_length() - 1) << 1
        body = control.to_bytes(2, "little") + bytes(20)
        masks = (0x71).to_bytes(2, "little") + b"\xfc" + b"\xff" * 7 + b"\xff\xff\0\0" + ((1 << self.vectors) - 1).to_bytes(4, "little")
        return body, masks + bytes(4)

    def configure(self, config: bytearray, quiet: bool = False) -> None:
        """The guest has written the capability."""
        self.config, at = config, self.offset
        control = int.from_bytes(config[at + 2:at + 4], "little")
        self.enabled = bool(control & MSI_ENABLE)
        self.count = min(1 << (control >> 4 & 7), self.vectors)
        self.address = int.from_bytes(config[at + 4:at + 12], "little")
        self.data = int.from_bytes(config[at + 12:at + 14], "little")
        self.masks = int.from_bytes(config[at + 16:at + 20], "little")
        if not quiet:
            self.release()

    def message(self, vector: int) -> tuple[int, int]:
        return self.address, self.data & -self.count | vector & self.count - 1

    def masked(self, vector: int) -> bool:
        return bool(self.masks >> vector & 1)

    def shown(self) -> None:
        if self.config is not None:
            self.config[self.offset + 20:self.offset + 24] = self.pending.to_bytes(4, "little")

    def reset(self) -> None:
        self.enabled, self.count, self.address, self.data, self.masks, self.pending = False, 1, 0, 0, 0, 0

    def save(self) -> dict[str, Any]:
        return {"pending": self.pending}

    def load(self, state: dict[str, Any]) -> None:
        self.pending = state["pending"]


class Msix(_Messages):
    """6.8.2: the table has 16 bytes a vector (address, data, vector control), the pending bits follow."""

    length = 12

    def __init__(self, vectors: int, send: Send, name: str = "") -> None:
        if not 1 <= vectors <= MSIX_PBA // 16:
            raise ValueError(f"MSI-X has 1 to {MSIX_PBA // 16} vectors here, not {vectors}")
        super().__init__(vectors, send)
        self.table = bytearray(16 * vectors)
        self.region = Region(4096, self._read, self._write, width=8, name=f"{name} MSI-X")
        self.reset()

    def capability(self, bar: int) -> tuple[bytes, bytes]:
        body = (self.vectors - 1).to_bytes(2, "little") + bar.to_bytes(4, "little") + (MSIX_PBA | bar).to_bytes(4, "little")
        return body, (MSIX_ENABLE | MSIX_MASK_ALL).to_bytes(2, "little")

    def configure(self, config: bytearray, quiet: bool = False) -> None:
        control = int.from_bytes(config[self.offset + 2:self.offset + 4], "little")
        self.enabled, self.mask_all = bool(control & MSIX_ENABLE), bool(control & MSIX_MASK_ALL)
        if not quiet:
            self.release()

    def message(self, vector: int) -> tuple[int, int]:
        entry = self.table[16 * vector:16 * vector + 12]
        return int.from_bytes(entry[:8], "little") & ~3, int.from_bytes(entry[8:], "little")

    def masked(self, vector: int) -> bool:
        return self.mask_all or bool(self.table[16 * vector + 12] & 1)

    def _read(self, offset: int, size: int) -> int:
        if offset + size <= len(self.table):
            return int.from_bytes(self.table[offset:offset + size], "little")
        if MSIX_PBA <= offset < MSIX_PBA + 16:
            return self.pending >> 8 * (offset - MSIX_PBA)
        return 0

    def _write(self, offset: int, size: int, value: int) -> None:
        if size >= 4 and offset % size == 0 and offset + size <= len(self.table):       # others are undefined (6.8.2)
            self.table[offset:offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            self.release()

    def reset(self) -> None:
        self.enabled = self.mask_all = False
        self.pending = 0
        self.table[:] = (bytes(12) + b"\x01\0\0\0") * self.vectors

    def save(self) -> dict[str, Any]:
        return {"pending": self.pending, "table": bytes(self.table)}

    def load(self, state: dict[str, Any]) -> None:
        self.pending = state["pending"]
        self.table[:] = state["table"]
