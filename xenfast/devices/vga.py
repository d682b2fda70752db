"""The standard VGA: its registers at ports 3B0h-3DFh, and what hangs together: memory, DISPI extension, picture.

Specified by IBM's PS/2 Hardware Interface Technical Reference (Video Subsystem) and, for what the PS/2 leaves open, the data sheets of
the chips that followed it (Tseng, Cirrus Logic: reading back, CR22, CR24).  The memory is devices/vga_memory.py, the extension to
linear modes devices/vga_dispi.py, the picture devices/vga_picture.py; devices/vga_pci.py is the card.

Left out: the effect of skew and of the reset bits of the Sequencer, vertical interrupts (no PC wires them), light pen.
"""

from __future__ import annotations

import logging
from typing import Any

from xenfast.devices.vga_dispi import Dispi
from xenfast.devices.vga_memory import WINDOW_SIZE, VgaMemory, VideoRam, Window
from xenfast.xen.hvm.bus import Region

log = logging.getLogger("xenfast")

# Offsets of ports from 3B0h.  xB4 xB5 xBA are at 3Bx while Miscellaneous Output bit 0 is 0, at 3Dx while it is 1
PORTS, PORTS_SIZE = 0x3B0, 0x30
CRTC_INDEX, CRTC_DATA, STATUS1 = 0x24, 0x25, 0x2A
ATTRIBUTE, ATTRIBUTE_READ, MISC_WRITE, SEQ_INDEX, SEQ_DATA = 0x10, 0x11, 0x12, 0x14, 0x15
DAC_MASK, DAC_READ_INDEX, DAC_WRITE_INDEX, DAC_DATA = 0x16, 0x17, 0x18, 0x19
FEATURE_READ, MISC_READ, GR_INDEX, GR_DATA = 0x1A, 0x1C, 0x1E, 0x1F

# Bits that exist
SEQ_BITS = bytes((0x03, 0x3D, 0x0F, 0x3F, 0x0E))
GR_BITS = bytes((0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF))
AR_BITS = bytes((0x3F,) * 16 + (0xEF, 0xFF, 0x3F, 0x0F, 0x0F))
CRTC_BITS = bytes((0xFF,) * 8 + (0x7F, 0xFF, 0x3F, 0x7F) + (0xFF,) * 8 + (0x7F,) + (0xFF,) * 2 + (0xEF, 0xFF))
CRTC_COUNT = len(CRTC_BITS)

CLOCKS = (25_175_000, 28_322_000, 25_175_000, 25_175_000)       # of Miscellaneous Output bits 2-3, in Hz


class Vga:
    """``vga.ports``, ``vga.window``, ``vga.dispi.ports`` are Regions; ``vga.lfb`` is the memory of BAR 0."""

    def __init__(self, timers: Any, *, size: int = 16 << 20, memory: Any = None, domid: int = 0,
                 window: Window | None = None) -> None:
        self.timers = timers
        self.seq = bytearray(8)
        self.gr = bytearray(16)
        self.ar = bytearray(32)
        self.crtc = bytearray(32)
        self.dac = bytearray(768)
        self.lfb = VideoRam(size, memory, domid)
        self.memory = VgaMemory(self.seq, self.gr, self.lfb, window, memory, domid)
        self.dispi = Dispi(self)
        self.lfb_address: int | None = None     # where the guest has BAR 0
        self.ports = Region(PORTS_SIZE, self.read_port, self.write_port, width=2, name="vga")
        self.window = Region(WINDOW_SIZE, self.memory.read, self.memory.write, width=8, name="vga window")
        self._unknown: set[tuple[str, int]] = set()
        self.reset()

    def reset(self) -> None:
        """As after power-on: the screen is off until somebody sets a mode."""
        for registers in (self.seq, self.gr, self.ar, self.crtc):
            registers[:] = bytes(len(registers))
        self.misc = self.feature = 0
        self.seq_index = self.gr_index = self.ar_index = self.crtc_index = 0
        self.ar_data = False                    # the flip-flop of port 3C0h
        self.dac_mask, self.dac_index, self.dac_state = 0xFF, 0, 3
        self.dac_cycle: list[int] = []          # components written so far
        self.dac_component = 0                  # component to be read next
        self.dispi.reset()
        self.memory.changed()

    # --- ports -------------------------------------------------------------------------------------------------------
    def read_port(self, offset: int, size: int) -> int:
        if size == 2:
            return self.read_port(offset, 1) | self.read_port(offset + 1, 1) << 8
        at = self._address(offset)
        if at == STATUS1:
            self.ar_data = False
            return self.status1()
        if at == CRTC_DATA:
            return self._read_crtc(self.crtc_index)
        if at == CRTC_INDEX:
            return self.crtc_index
        if at == SEQ_DATA:
            return self.seq[self.seq_index & 7]
        if at == SEQ_INDEX:
            return self.seq_index
        if at == GR_DATA:
            return self.gr[self.gr_index & 15]
        if at == GR_INDEX:
            return self.gr_index
        if at == ATTRIBUTE:
            return self.ar_index
        if at == ATTRIBUTE_READ:
            return self.ar[self.ar_index & 31]
        if at == MISC_WRITE:
            return 0x10                         # input status 0: a colour monitor
        if at == MISC_READ:
            return self.misc
        if at == FEATURE_READ:
            return self.feature
        if at == DAC_MASK:
            return self.dac_mask
        if at == DAC_READ_INDEX:
            return self.dac_state
        if at == DAC_WRITE_INDEX:
            return self.dac_index
        if at == DAC_DATA:
            return self._read_dac()
        return 0xFF

    def write_port(self, offset: int, size: int, value: int) -> None:
        if size == 2:                           # the usual way to write an index and its data
            self.write_port(offset, 1, value & 0xFF)
            self.write_port(offset + 1, 1, value >> 8)
            return
        at = self._address(offset)
        if at == SEQ_INDEX:
            self.seq_index = value
        elif at == SEQ_DATA:
            self.set_seq(self.seq_index, value)
        elif at == GR_INDEX:
            self.gr_index = value
        elif at == GR_DATA:
            self.set_gr(self.gr_index, value)
        elif at == CRTC_INDEX:
            self.crtc_index = value
        elif at == CRTC_DATA:
            self.set_crtc(self.crtc_index, value)
        elif at == ATTRIBUTE:
            self.ar_data = not self.ar_data
            if self.ar_data:
                self.ar_index = value & 0x3F
            else:
                self.set_ar(self.ar_index, value)
        elif at == DAC_DATA:
            self._write_dac(value)
        elif at == DAC_WRITE_INDEX:
            self.dac_index, self.dac_state = value, 0
            self.dac_cycle.clear()
        elif at == DAC_READ_INDEX:
            self.dac_index, self.dac_state, self.dac_component = value, 3, 0
        elif at == DAC_MASK:
            self.dac_mask = value
        elif at == MISC_WRITE:
            self.misc = value
        elif at == STATUS1:
            self.feature = value

    def _address(self, offset: int) -> int:
        """The port as on a colour adapter, or -1 where the adapter does not answer at present."""
        if offset < 0x10:
            return offset + 0x20 if not self.misc & 1 and offset in (4, 5, 10) else -1
        if offset >= 0x20:
            return offset if self.misc & 1 else -1
        return offset

    # --- registers ---------------------------------------------------------------------------------------------------
    def set_seq(self, index: int, value: int) -> None:
        index &= 7
        if index < len(SEQ_BITS):
            self.seq[index] = value & SEQ_BITS[index]
            if index == 2 or index == 4:
                self.memory.changed()

    def set_gr(self, index: int, value: int) -> None:
        index &= 15
        if index < len(GR_BITS):
            self.gr[index] = value & GR_BITS[index]
            self.memory.changed()
        else:
            self._log("graphics controller", index)

    def set_ar(self, index: int, value: int) -> None:
        """Attribute Controller; index bit 5 gives the palette to the screen, and keeps the processor from it."""
        number = index & 0x1F
        if number < len(AR_BITS) and (number >= 16 or not index & 0x20):
            self.ar[number] = value & AR_BITS[number]

    def set_crtc(self, index: int, value: int) -> None:
        index &= 0x3F
        if index >= CRTC_COUNT:
            self._log("CRTC", index)
            return
        if index <= 7 and self.crtc[0x11] & 0x80:       # protected, but for bit 8 of the line comparison
            if index == 7:
                self.crtc[7] = self.crtc[7] & ~0x10 | value & 0x10
            return
        self.crtc[index] = value & CRTC_BITS[index]

    def _read_crtc(self, index: int) -> int:
        index &= 0x3F
        if index == 0x22:
            return self.memory.latch >> 8 * (self.gr[4] & 3) & 0xFF
        if index == 0x24:
            return self.ar_data << 7
        return self.crtc[index] if index < CRTC_COUNT else 0

    def _read_dac(self) -> int:
        value = self.dac[self.dac_index * 3 + self.dac_component]
        self.dac_component += 1
        if self.dac_component == 3:
            self.dac_component, self.dac_index = 0, self.dac_index + 1 & 0xFF
        return value

    def _write_dac(self, value: int) -> None:
        """The colour is taken when its third component comes."""
        self.dac_cycle.append(value & (0xFF if self.dispi.dac8 else 0x3F))
        if len(self.dac_cycle) == 3:
            self.dac[self.dac_index * 3:self.dac_index * 3 + 3] = self.dac_cycle
            self.dac_cycle.clear()
            self.dac_index = self.dac_index + 1 & 0xFF

    def _log(self, what: str, index: int) -> None:
        if (what, index) not in self._unknown and len(self._unknown) < 64:
            self._unknown.add((what, index))
            log.debug("vga: write to unknown register %#x of the %s", index, what)

    # --- the beam ----------------------------------------------------------------------------------------------------
    def timing(self) -> tuple[int, int, int, int, int]:
        """Of the mode in the CRTC: ns of a line, lines of a frame, lines shown, first line and length of the retrace."""
        crtc = self.crtc
        overflow = crtc[7]
        total = (crtc[6] | (overflow & 1) << 8 | (overflow & 0x20) << 4) + 2
        shown = min((crtc[0x12] | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1, total)
        retrace = crtc[0x10] | (overflow & 4) << 6 | (overflow & 0x80) << 2
        length = crtc[0x11] - retrace & 15 or 16
        dots = (crtc[0] + 5) * (8 if self.seq[1] & 1 else 9)
        clock = CLOCKS[self.misc >> 2 & 3] >> (self.seq[1] >> 3 & 1)
        return max(dots * 1_000_000_000 // clock, 1000), max(total, 100), shown, retrace, length

    def status1(self) -> int:
        """Input Status 1 of this moment: bit 0 nothing is displayed, bit 3 vertical retrace."""
        line_ns, lines, shown, retrace, length = self.timing()
        at = self.timers.now() % (line_ns * lines)
        line, dot = divmod(at, line_ns)
        value = 0
        if line >= shown or dot * (self.crtc[0] + 5) >= (self.crtc[1] + 1) * line_ns:
            value = 0x01
        if retrace <= line < retrace + length:
            value |= 0x09
        return value

    # --- for firmware ------------------------------------------------------------------------------------------------
    def set_mode(self, misc: int, seq: bytes, crtc: bytes, ar: bytes, gr: bytes) -> None:
        """All registers at once: what a BIOS programs, ``seq`` from SR1 on."""
        self.dispi.disable()
        self.misc = misc
        self.seq[:5] = bytes((3, *seq))
        self.crtc[:CRTC_COUNT] = bytes(a & b for a, b in zip(crtc, CRTC_BITS))
        self.ar[:len(ar)] = ar
        self.gr[:len(gr)] = gr
        self.ar_index = 0x20
        self.ar_data = False
        self.dac_mask = 0xFF
        self.memory.changed()

    # --- save, load --------------------------------------------------------------------------------------------------
    REGISTERS = ("seq", "gr", "ar", "crtc", "dac")
    VALUES = ("misc", "feature", "seq_index", "gr_index", "ar_index", "crtc_index", "ar_data", "dac_mask", "dac_index", "dac_state",
              "dac_component")

    def save(self) -> dict[str, Any]:
        state: dict[str, Any] = {name: bytes(getattr(self, name)) for name in self.REGISTERS}
        state.update((name, getattr(self, name)) for name in self.VALUES)
        state["dac_cycle"] = list(self.dac_cycle)
        state["memory"] = self.memory.save()
        state["dispi"] = self.dispi.save()
        used = self.lfb.bytes.nonzero()[0][-1:] + 1
        state["lfb"] = self.lfb.bytes[:int(used[0]) if len(used) else 0].tobytes()
        return state

    def load(self, state: dict[str, Any]) -> None:
        for name in self.REGISTERS:
            getattr(self, name)[:] = state[name]
        for name in self.VALUES:
            setattr(self, name, state[name])
        self.dac_cycle = list(state["dac_cycle"])
        pixels = state["lfb"]
        self.lfb.bytes[:len(pixels)] = memoryview(pixels)
        self.lfb.bytes[len(pixels):] = 0
        self.lfb.wrote(0, len(self.lfb.bytes))
        self.dispi.load(state["dispi"])
        self.memory.load(state["memory"])
