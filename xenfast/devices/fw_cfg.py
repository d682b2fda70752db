"""The firmware configuration device of QEMU: numbered items that SeaBIOS, OVMF and Linux's qemu_fw_cfg read by port or DMA.

Specified in QEMU's docs/specs/fw_cfg.rst.  Items are read only; writes by the guest are refused with the error bit.
``selector`` is the word at port 510h with the data byte at 511h behind it, ``dma`` the two dwords at 514h.
"""

from struct import pack, unpack_from
from typing import Any

from xenfast.xen.hvm.bus import Region

SELECTOR_PORT, DMA_PORT = 0x510, 0x514

# keys
SIGNATURE, ID, UUID, RAM_SIZE, NOGRAPHIC, NB_CPUS, MACHINE_ID, NUMA, BOOT_MENU, MAX_CPUS, FILE_DIR, FILE_FIRST = (
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0D, 0x0E, 0x0F, 0x19, 0x20,
)
FILES_MAX = 0x1000
ID_TRADITIONAL, ID_DMA = 1, 2

# control word of the DMA structure
ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16
MAX_TRANSFER = 64 << 20             # bytes that one DMA request may write
FILL = 1 << 16                      # what lies behind an item is zeros, written in pieces of this size
DMA_SIGNATURE = b"QEMU CFG"


class FwCfg:
    """``physmem`` is where DMA goes; ``add()`` and ``add_file()`` fill it before the guest runs."""

    def __init__(self, physmem: Any) -> None:
        self.physmem = physmem
        self.items: dict[int, bytes] = {}
        self.files: dict[str, int] = {}
        self.key, self.offset, self.dma_high = 0, 0, 0
        self.add(SIGNATURE, b"QEMU")
        self.add(ID, pack("<I", ID_TRADITIONAL | ID_DMA))
        self._directory()
        self.selector = Region(2, self._read, self._write, width=2, name="fw_cfg")
        self.dma = Region(8, self._dma_read, self._dma_write, name="fw_cfg DMA")

    # --- for who builds the machine ---------------------------------------------------------------------------------------------
    def add(self, key: int, data: bytes) -> None:
        self.items[key] = bytes(data)

    def add_int(self, key: int, size: int, value: int) -> None:
        self.add(key, value.to_bytes(size, "little"))

    def add_file(self, name: str, data: bytes) -> None:
        """A file, in place of one of that name."""
        if len(name.encode()) > 55 or (name not in self.files and len(self.files) >= FILES_MAX):
            raise ValueError(f"fw_cfg has no room for {name!r}")
        key = self.files.setdefault(name, FILE_FIRST + len(self.files))
        self.add(key, data)
        self._directory()

    def _directory(self) -> None:
        """Sorted by name, as readers expect."""
        entries = [pack(">IHH56s", len(self.items[key]), key, 0, name.encode()) for name, key in sorted(self.files.items())]
        self.add(FILE_DIR, pack(">I", len(entries)) + b"".join(entries))

    # --- ports --------------------------------------------------------------------------------------------------------------------
    def _select(self, key: int) -> None:
        self.key, self.offset = key & 0x3FFF if not key & 0x8000 else key & 0xBFFF, 0       # bit 14: for writing

    def _take(self, size: int) -> bytes:
        """The next bytes of the item; zeros behind it."""
        data = self.items.get(self.key, b"")[self.offset:self.offset + size]
        self.offset = min(self.offset + size, 1 << 32)
        return data

    def _read(self, offset: int, size: int) -> int:
        if offset + size == 2:              # the data byte, alone or as the upper half of a word
            value = int.from_bytes(self._take(1), "little")
            return value if size == 1 else value << 8
        return 0

    def _write(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and size == 2:
            self._select(value)

    # --- DMA ----------------------------------------------------------------------------------------------------------------------
    def _dma_read(self, offset: int, size: int) -> int:
        """The signature, big endian."""
        return int.from_bytes(DMA_SIGNATURE[offset:offset + size], "little")

    def _dma_write(self, offset: int, size: int, value: int) -> None:
        if size != 4:
            return
        swapped = int.from_bytes(value.to_bytes(4, "little"), "big")
        if offset == 0:
            self.dma_high = swapped
        else:
            address, self.dma_high = self.dma_high << 32 | swapped, 0
            self._transfer(address)

    def _transfer(self, at: int) -> None:
        control, length, address = unpack_from(">IIQ", self.physmem.read(at, 16))
        if control & SELECT:
            self._select(control >> 16)
        error = 0
        if control & READ:
            error = 0 if length <= MAX_TRANSFER and address + length <= 1 << 52 else ERROR
            if not error:
                self._copy(address, length)
        elif control & WRITE:
            error = ERROR
        elif control & SKIP:
            self._take(length)
        self.physmem.write(at, pack(">I", error))

    def _copy(self, address: int, length: int) -> None:
        data = self._take(length)
        self.physmem.write(address, data)
        address, left = address + len(data), length - len(data)
        while left > 0:
            piece = min(left, FILL)
            self.physmem.write(address, bytes(piece))
            address, left = address + piece, left - piece

    def attach(self, ports: Any) -> None:
        """At QEMU's ports."""
        ports.add(SELECTOR_PORT, self.selector)
        ports.add(DMA_PORT, self.dma)

    def reset(self) -> None:
        self.key = self.offset = self.dma_high = 0

    def save(self) -> dict[str, Any]:
        """The items belong to the machine, not to its state."""
        return {"key": self.key, "offset": self.offset, "dma_high": self.dma_high}

    def load(self, state: dict[str, Any]) -> None:
        self.key, self.offset, self.dma_high = state["key"], state["offset"], state["dma_high"]
