"""Ports and memory-mapped registers: an address finds the region of a device.

A device shows itself as one or more ``Region``: so many bytes, a function that reads, a function that writes, both of an
offset and a size.  Who wires the machine puts regions on a ``Bus``; a device never learns where.  A PCI device moves its
regions whenever its BARs change.  Where nobody answers, reads are all ones and writes are lost, as on a PC.

An access wider than what a region takes (``width``) becomes several, from the low address up; one that crosses the end of
a region goes on in the next.  Regions may overlap: the one put there last answers.

String instructions with REP move many items of one size through one address (the data port of a disk): ``read_block`` and
``write_block`` are such an access in one call.  A region that has nothing to say about it gets them one by one.
"""

from collections.abc import Callable

Read = Callable[[int, int], int]
Write = Callable[[int, int, int], None]
ReadBlock = Callable[[int, int, int], bytes]                            # offset, size, count -> size * count bytes
WriteBlock = Callable[[int, int, "bytes | bytearray | memoryview"], None]     # offset, size, data


class Region:
    """``read(offset, size) -> value`` and ``write(offset, size, value)``; size is 1, 2, 4 or 8, at most ``width``.

    ``read_block(offset, size, count) -> bytes`` and ``write_block(offset, size, data)`` are as many accesses of that size
    at one offset, in order.
    """

    __slots__ = ("name", "read", "read_block", "size", "start", "width", "write", "write_block")

    def __init__(
        self, size: int, read: Read, write: Write, *, width: int = 4, name: str = "",
        read_block: ReadBlock | None = None, write_block: WriteBlock | None = None,
    ) -> None:  # fmt: skip
        self.size, self.read, self.write, self.width, self.name = size, read, write, width, name
        self.read_block, self.write_block = read_block, write_block
        self.start: int | None = None       # where it is; None: nowhere

    def __repr__(self) -> str:
        where = "unmapped" if self.start is None else f"{self.start:#x}"
        return f"<Region {self.name} {where}+{self.size:#x}>"


class Bus:
    """An address space: ports (``page_bits=0``, one entry a port) or memory (``page_bits=12``)."""

    def __init__(self, address_bits: int, page_bits: int) -> None:
        self.mask = (1 << address_bits) - 1
        self.page_bits = page_bits
        self.unclaimed: Callable[[int, int, bool, int], None] | None = None     # address, size, is_write, value
        self._pages: dict[int, list[Region]] = {}

    def add(self, start: int, region: Region) -> Region:
        """Put a region at an address, on top of whatever is there."""
        if region.start is not None:
            raise ValueError(f"{region!r} is on the bus already")
        if not 0 <= start <= start + region.size - 1 <= self.mask:
            raise ValueError(f"{region!r} does not fit at {start:#x}")
        region.start = start
        for page in range(start >> self.page_bits, (start + region.size - 1 >> self.page_bits) + 1):
            self._pages.setdefault(page, []).insert(0, region)
        return region

    def remove(self, region: Region) -> None:
        """Take a region away; harmless when it is nowhere."""
        if region.start is None:
            return
        start, region.start = region.start, None
        for page in range(start >> self.page_bits, (start + region.size - 1 >> self.page_bits) + 1):
            left = [r for r in self._pages[page] if r is not region]
            if left:
                self._pages[page] = left
            else:
                del self._pages[page]

    def find(self, address: int) -> Region | None:
        """The region that answers at an address."""
        for region in self._pages.get(address >> self.page_bits, ()):
            if 0 <= address - region.start < region.size:       # type: ignore[operator]
                return region
        return None

    def read(self, address: int, size: int) -> int:
        region = self.find(address)
        if region is not None:
            offset = address - region.start     # type: ignore[operator]
            if size <= region.width and offset + size <= region.size:
                return region.read(offset, size) & (1 << 8 * size) - 1
        return self._read_pieces(address, size, region)

    def write(self, address: int, size: int, value: int) -> None:
        region = self.find(address)
        if region is not None:
            offset = address - region.start     # type: ignore[operator]
            if size <= region.width and offset + size <= region.size:
                region.write(offset, size, value)
                return
        self._write_pieces(address, size, value, region)

    # --- string I/O: many accesses at one address ---------------------------------------------------------------------
    def read_block(self, address: int, size: int, count: int) -> bytes:
        """``count`` reads of ``size`` bytes at one address, as REP INS makes them."""
        region = self.find(address)
        if region is not None and region.read_block is not None:
            offset = address - region.start     # type: ignore[operator]
            if size <= region.width and offset + size <= region.size:
                return region.read_block(offset, size, count)
        return b"".join([self.read(address, size).to_bytes(size, "little") for _ in range(count)])

    def write_block(self, address: int, size: int, data: "bytes | bytearray | memoryview") -> None:
        """Writes of ``size`` bytes at one address until the data is gone, as REP OUTS makes them."""
        region = self.find(address)
        if region is not None and region.write_block is not None:
            offset = address - region.start     # type: ignore[operator]
            if size <= region.width and offset + size <= region.size:
                region.write_block(offset, size, data)
                return
        for at in range(0, len(data), size):
            self.write(address, size, int.from_bytes(data[at:at + size], "little"))

    # --- accesses that are not for one register ----------------------------------------------------------------------
    def _piece(self, address: int, size: int, region: Region | None) -> int:
        """Size of the first piece of an access."""
        if region is None:
            if self.unclaimed is None or size == 1:
                return 1
            return size if all(self.find(address + i & self.mask) is None for i in range(1, size)) else 1
        piece = min(size, region.width)
        while piece > 1 and (address & piece - 1 or address - region.start + piece > region.size):   # type: ignore[operator]
            piece >>= 1
        return piece

    def _read_pieces(self, address: int, size: int, region: Region | None) -> int:
        value = done = 0
        while done < size:
            at = address + done & self.mask
            if done:
                region = self.find(at)
            piece = self._piece(at, size - done, region)
            if region is not None:
                part = region.read(at - region.start, piece) & (1 << 8 * piece) - 1     # type: ignore[operator]
            else:
                part = (1 << 8 * piece) - 1
                if self.unclaimed is not None:
                    self.unclaimed(at, piece, False, 0)
            value |= part << 8 * done
            done += piece
        return value

    def _write_pieces(self, address: int, size: int, value: int, region: Region | None) -> None:
        done = 0
        while done < size:
            at = address + done & self.mask
            if done:
                region = self.find(at)
            piece = self._piece(at, size - done, region)
            part = value >> 8 * done & (1 << 8 * piece) - 1
            if region is not None:
                region.write(at - region.start, piece, part)    # type: ignore[operator]
            elif self.unclaimed is not None:
                self.unclaimed(at, piece, True, part)
            done += piece


def ports() -> Bus:
    """The 65,536 I/O ports."""
    return Bus(16, 0)


def memory() -> Bus:
    """Guest-physical addresses (SDM Vol. 3, 4.1.4: at most 52 bits)."""
    return Bus(52, 12)
