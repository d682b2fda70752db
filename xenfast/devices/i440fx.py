"""The i440FX host bridge: what of the first mebibyte is ROM and what is RAM (PAM), and registers that are only kept.

Intel 82441FX data sheet (order 290549), 3.2.16 (PAM) and 3.2.18 (SMRAM).  A segment whose PAM bits say "not from DRAM" shows the ROM
that was there when the register was written first, or nothing; RAM behind a ROM is made when a guest first asks for it.  Segments
nobody has programmed stay as the builder has left them.  SMRAM is kept only, as there is no SMM.
"""

from typing import Any

from xenfast.devices.pci import PciDevice
from xenfast.xen.hvm.bus import Region

PAM0, SMRAM = 0x59, 0x72
READ, WRITE = 1, 2                      # of a nibble
FIRST, PAGES = 0xC0, 64                 # the frames that PAM is about
TOP = 0xF0                              # from here on one segment, the upper nibble of PAM0
SEGMENT = 4                             # frames of the others

# Registers that keep what is written: offset, size, default, bits that can be written.
REGISTERS = (
    (0x50, 2, 0x0000, 0xFFF0),          # PMCCFG  PMC configuration
    (0x52, 1, 0x00, 0xFF),              # DETURBO
    (0x53, 1, 0x80, 0xFF),              # DBC     data buffering
    (0x55, 2, 0x0000, 0xFFFF),          # DRT     row types
    (0x57, 1, 0x01, 0xFF),              # DRAMC
    (0x58, 1, 0x10, 0xFF),              # DRAMT
    (0x59, 7, 0, 0x33333333333330),     # PAM0 to PAM6
    (0x60, 8, 0x0101010101010101, 0xFFFFFFFFFFFFFFFF),      # DRB
    (0x68, 1, 0x00, 0xFF),              # FDHC    hole
    (0x70, 1, 0x00, 0xFF),              # MTT
    (0x71, 1, 0x10, 0xFF),              # CLT
    (0x72, 1, 0x02, 0x70),              # SMRAM
    (0x90, 1, 0x00, 0xFF),              # ERRCMD
)


class I440fx(PciDevice):
    """``hvm`` is what the domain has: physmap, mmio, ``place()`` and ``remove()``."""

    def __init__(self, hvm: Any) -> None:
        super().__init__("i440FX", 0x8086, 0x1237, 0x060000, revision=2)
        self.hvm = hvm
        self.put(0x04, 2, 0x0006, 0x0100)
        self.put(0x06, 2, 0x0280)
        for offset, size, default, writable in REGISTERS:
            self.put(offset, size, default, writable)
        self.rams: dict[int, int] = {}           # guest frame -> machine frame, of what PAM has touched
        self.roms: dict[int, int] = {}
        self.shown: dict[int, int] = {}         # guest frame -> the bits in force
        self.window = Region(PAGES << 12, self._read, self._write, width=8, name="PAM")
        hvm.mmio.add(FIRST << 12, self.window)

    def preset(self) -> None:
        """The registers say what firmware of the host's has left: C0000h to EFFFFh RAM, F0000h to FFFFFh read-only."""
        self.config[PAM0:PAM0 + 7] = b"\x10" + b"\x33" * 6
        for gfn in range(FIRST, FIRST + PAGES):
            self.shown[gfn] = self.bits(gfn)

    def bits(self, gfn: int) -> int:
        if gfn >= TOP:
            return self.config[PAM0] >> 4 & 3
        segment = (gfn - FIRST) // SEGMENT
        return self.config[PAM0 + 1 + segment // 2] >> 4 * (segment & 1) & 3

    def config_changed(self, offset: int, size: int) -> None:
        super().config_changed(offset, size)
        if offset <= PAM0 + 6 and offset + size > PAM0:
            self._apply()

    def _apply(self) -> None:
        for gfn in range(FIRST, FIRST + PAGES):
            bits = self.bits(gfn)
            if bits != self.shown.get(gfn, 0):
                self._show(gfn, bits)

    def _know(self, gfn: int) -> None:
        """Which frames are behind this one?  Before the first change: what is mapped."""
        if gfn in self.rams or gfn in self.roms:
            return
        mfn = self.hvm.physmap.get(gfn)
        if mfn is not None:
            is_rom = self.hvm.physmap.is_readonly(gfn) and not self.shown.get(gfn, 0) & READ
            (self.roms if is_rom else self.rams)[gfn] = mfn

    def _show(self, gfn: int, bits: int) -> None:
        self._know(gfn)
        self.shown[gfn] = bits
        if bits and gfn not in self.rams:
            self._make_ram(gfn)
        mfn = self.rams.get(gfn) if bits & READ else self.roms.get(gfn)
        if mfn is None:
            self.hvm.remove(gfn)
        else:
            self.hvm.place(gfn, [mfn], readonly=bits != READ | WRITE)

    def _make_ram(self, gfn: int) -> None:
        try:
            self.rams[gfn] = int(self.hvm.domain.alloc_pages(1)[0])
        except MemoryError:                     # the domain has no more: its ROM is its RAM
            if gfn in self.roms:
                self.rams[gfn] = self.roms[gfn]

    # --- what is not mapped, or not to be written there -----------------------------------------------------------------------
    def _read(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def _write(self, offset: int, size: int, value: int) -> None:
        """Reads from ROM, writes to RAM: how a BIOS makes its shadow."""
        gfn = FIRST + (offset >> 12)
        mfn = self.rams.get(gfn)
        if self.shown.get(gfn, 0) == WRITE and mfn is not None:
            at = offset & 0xFFF
            memory = self.hvm.physmem.memory
            data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")[:4096 - at]
            memory.view(mfn)[at:at + len(data)] = data
            memory.wrote(mfn)

    def reset(self) -> None:
        super().reset()
        self._apply()

    def save(self) -> dict[str, Any]:
        return super().save() | {"shown": dict(self.shown)}

    def load(self, state: dict[str, Any]) -> None:
        """Of a domain whose memory has been put in place with what it held; the registers follow, the memory stays as it is."""
        super().load(state)
        self.shown = dict(state["shown"])
