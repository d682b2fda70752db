"""The DISPI interface of the Bochs adapter: resolutions and depths of its own choice in a linear frame buffer.

Specified by the interface's description in the Bochs documentation (VBE_DISPI, versions B0C0h to B0C5h): an index at port 1CEh and
16-bit data at 1CFh or 1D0h, the same registers in BAR 2 of the PCI adapter.  A guest sets XRES, YRES and BPP and then ENABLE.

The adapter shows no VGA registers change in linear modes; 4 bits a pixel use the planes of the VGA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenfast.xen.hvm.bus import Region

if TYPE_CHECKING:
    from xenfast.devices.vga import Vga

PORTS = 0x1CE
INDEX_ID, INDEX_XRES, INDEX_YRES, INDEX_BPP, INDEX_ENABLE, INDEX_BANK = 0, 1, 2, 3, 4, 5
INDEX_VIRT_WIDTH, INDEX_VIRT_HEIGHT, INDEX_X_OFFSET, INDEX_Y_OFFSET, INDEX_MEMORY_64K = 6, 7, 8, 9, 10
COUNT = 11
ID0, ID5 = 0xB0C0, 0xB0C5
ENABLED, GETCAPS, BANK_GRANULARITY_32K, DAC_8BIT, LFB_ENABLED, NO_CLEAR = 0x01, 0x02, 0x10, 0x20, 0x40, 0x80
MAX_XRES, MAX_YRES, MAX_BPP = 2560, 1600, 32
DEPTHS = (4, 8, 15, 16, 24, 32)


class Dispi:
    """The registers; ``on`` while the frame buffer is shown."""

    def __init__(self, vga: Vga) -> None:
        self.vga = vga
        self.ports = Region(4, self.read_port, self.write_port, width=2, name="dispi")
        self.regs = [0] * COUNT
        self.index = 0

    def reset(self) -> None:
        self.index = 0
        self.regs = [0] * COUNT
        self.regs[INDEX_ID] = ID5
        self.regs[INDEX_MEMORY_64K] = len(self.vga.lfb.bytes) >> 16
        self.disable()

    @property
    def on(self) -> bool:
        return bool(self.regs[INDEX_ENABLE] & ENABLED)

    @property
    def dac8(self) -> bool:
        """Colours of the palette have 8 bits a component."""
        return bool(self.regs[INDEX_ENABLE] & DAC_8BIT)

    @property
    def pitch(self) -> int:
        """Bytes of a line (of a plane with 4 bits a pixel)."""
        bpp = self.regs[INDEX_BPP]
        return self.regs[INDEX_VIRT_WIDTH] * ((bpp + 7) // 8) if bpp != 4 else self.regs[INDEX_VIRT_WIDTH] // 8

    def start(self) -> int:
        """Offset of the first pixel shown."""
        x, y, bpp = self.regs[INDEX_X_OFFSET], self.regs[INDEX_Y_OFFSET], self.regs[INDEX_BPP]
        return y * self.pitch + (x // 8 if bpp == 4 else x * ((bpp + 7) // 8))

    # --- accesses ----------------------------------------------------------------------------------------------------
    def read_port(self, offset: int, size: int) -> int:
        return self.index if offset == 0 else self.read(self.index)

    def write_port(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self.index = value & 0xFFFF
        else:
            self.write(self.index, value & 0xFFFF)

    def read(self, index: int) -> int:
        if index >= COUNT:
            return 0
        if self.regs[INDEX_ENABLE] & GETCAPS and INDEX_XRES <= index <= INDEX_BPP:
            return (MAX_XRES, MAX_YRES, MAX_BPP)[index - INDEX_XRES]
        return self.regs[index]

    def write(self, index: int, value: int) -> None:
        regs = self.regs
        if index == INDEX_ID:
            if ID0 <= value <= ID5:
                regs[index] = value
        elif index == INDEX_XRES:
            if not self.on and 0 < value <= MAX_XRES:
                regs[index] = value & ~7
        elif index == INDEX_YRES:
            if not self.on and 0 < value <= MAX_YRES:
                regs[index] = value
        elif index == INDEX_BPP:
            value = value or 8
            if not self.on and value in DEPTHS:
                regs[index] = value
        elif index == INDEX_ENABLE:
            self._enable(value)
        elif index == INDEX_BANK:
            step = 0x8000 if regs[INDEX_ENABLE] & BANK_GRANULARITY_32K else 0x10000
            if value * step < len(self.vga.lfb.bytes):
                regs[index] = value
                self._bank()
        elif index == INDEX_VIRT_WIDTH:
            if self.on:
                self._virtual(value)
        elif index in (INDEX_X_OFFSET, INDEX_Y_OFFSET):
            before, regs[index] = regs[index], value
            if self.on and not self._fits():
                regs[index] = before

    def _fits(self) -> bool:
        """What is shown lies in the memory."""
        size = 0x10000 if self.regs[INDEX_BPP] == 4 else len(self.vga.lfb.bytes)
        return self.start() + self.pitch * self.regs[INDEX_YRES] <= size

    def _virtual(self, width: int) -> None:
        """A new length of lines, at least what is shown."""
        regs = self.regs
        before = regs[INDEX_VIRT_WIDTH]
        regs[INDEX_VIRT_WIDTH] = max(width, regs[INDEX_XRES]) & ~7
        if not self._fits():
            regs[INDEX_VIRT_WIDTH] = before
            return
        size = 0x10000 if regs[INDEX_BPP] == 4 else len(self.vga.lfb.bytes)
        regs[INDEX_VIRT_HEIGHT] = min(size // self.pitch, 0xFFFF)

    def _enable(self, value: int) -> None:
        regs = self.regs
        was_on = self.on
        if value & ENABLED and not was_on:
            if not (regs[INDEX_XRES] and regs[INDEX_YRES] and regs[INDEX_BPP]):
                return
            regs[INDEX_X_OFFSET] = regs[INDEX_Y_OFFSET] = regs[INDEX_BANK] = 0
            regs[INDEX_VIRT_WIDTH] = 0
            regs[INDEX_ENABLE] |= ENABLED
            self._virtual(regs[INDEX_XRES])
            if not regs[INDEX_VIRT_WIDTH]:          # the memory is too small for it
                regs[INDEX_ENABLE] &= ~ENABLED
                return
            if not value & NO_CLEAR:
                self._clear()
        before = regs[INDEX_ENABLE]
        regs[INDEX_ENABLE] = value & 0xFF
        if (before ^ value) & DAC_8BIT:
            self._convert_dac(bool(value & DAC_8BIT))
        self._bank()

    def _clear(self) -> None:
        if self.regs[INDEX_BPP] == 4:
            self.vga.memory.leave()
            self.vga.memory.words[:] = 0
            self.vga.memory.changed()
        else:
            size = self.pitch * self.regs[INDEX_YRES]
            self.vga.lfb.bytes[:size] = 0
            self.vga.lfb.wrote(0, size)

    def _convert_dac(self, to8: bool) -> None:
        """The palette keeps its colours when its width changes."""
        dac = self.vga.dac
        dac[:] = bytes(c << 2 & 0xFF | c >> 4 for c in dac) if to8 else bytes(c >> 2 for c in dac)

    def _bank(self) -> None:
        """What the window at A0000h shows."""
        regs = self.regs
        if not self.on or regs[INDEX_BPP] == 4:
            bank = None
        else:
            bank = regs[INDEX_BANK] * (0x8000 if regs[INDEX_ENABLE] & BANK_GRANULARITY_32K else 0x10000)
        if bank != self.vga.memory.bank:
            self.vga.memory.bank = bank
            self.vga.memory.changed()

    def disable(self) -> None:
        """Back to the VGA's own modes."""
        self._enable(0)

    # --- save, load --------------------------------------------------------------------------------------------------
    def save(self) -> dict[str, Any]:
        return {"index": self.index, "regs": list(self.regs)}

    def load(self, state: dict[str, Any]) -> None:
        self.index = state["index"]
        self.regs = list(state["regs"])
        self._bank()
