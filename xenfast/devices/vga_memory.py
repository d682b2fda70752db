"""Video memory of the standard VGA: four planes of 64 KiB behind the window at A0000h, and the linear frame buffer.

Specified by IBM's PS/2 Hardware Interface Technical Reference (Video Subsystem: Sequencer, Graphics Controller).  An access of
the guest goes through the write or read mode of the Graphics Controller, which works on the four planes at once; here the
planes are interleaved, so that a 32-bit word holds the four bytes of one address and every mode is integer arithmetic.

Speed: where the registers make the window linear (text, CGA graphics, mode 13h, banks of the frame buffer, one plane after it has
been written a while), the guest gets pages of RAM there and no access leaves the processor.  Those pages are another *form* of the same
memory: ``leave()`` brings what was written in it back to the planes.

Left out: what a latch holds after a read of mapped pages (the next trapped read loads it), and the odd/even page bit of the
Miscellaneous Output register, which no mode of the BIOS uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

PAGE = 4096
PLANE = 0x10000                         # addresses of a plane
WINDOW = 0xA0000
WINDOW_SIZE = 0x20000
MAPS = ((0, 0x20000), (0, 0x10000), (0x10000, 0x8000), (0x18000, 0x8000))   # GR6 bits 2-3: offset in the window, size
BYTES = tuple(n * 0x01010101 for n in range(256))                           # a byte in all four planes
PLANES = tuple(sum(0xFF << 8 * p for p in range(4) if n >> p & 1) for n in range(16))   # a mask of planes as a mask of bits
HOT = 512                               # trapped accesses after which one plane is mapped


class VideoRam:
    """Memory that a guest may have in its address space: frames of the machine, or of nobody's (tests)."""

    def __init__(self, size: int, memory: Any = None, domid: int = 0) -> None:
        self.memory = memory
        self.mfns: np.ndarray | None = None
        if memory is None:
            self.bytes = np.zeros(size, dtype=np.uint8)
        else:
            self.mfns = memory.alloc(domid, size // PAGE, contiguous=True)
            self.bytes = memory.array(int(self.mfns[0]), size // PAGE, "u1")

    def wrote(self, first: int, size: int) -> None:
        """The host has written it: code decoded from there is dropped."""
        if self.mfns is not None and size > 0:
            self.memory.wrote(int(self.mfns[0]) + first // PAGE, (first + size + PAGE - 1) // PAGE - first // PAGE)

    def release(self) -> None:
        """Give the frames back."""
        if self.mfns is not None:
            self.memory.free(self.mfns)
            self.mfns = None


class Window:
    """The guest's pages from A0000h on.  ``set_pages(gfn, mfns or None, count)`` changes its physmap while it runs."""

    def __init__(self, set_pages: Callable[[int, Any, int], Any] | None = None) -> None:
        self.set_pages = set_pages
        self.shown: tuple[int, int, Any] | None = None

    def show(self, offset: int, size: int, ram: VideoRam, first: int) -> bool:
        """Have ``size`` bytes of ``ram`` from ``first`` on at ``offset``; False: cannot."""
        if self.set_pages is None or ram.mfns is None:
            return False
        self.hide()
        self.set_pages((WINDOW + offset) // PAGE, ram.mfns[first // PAGE:(first + size) // PAGE], size // PAGE)
        self.shown = offset, size, ram
        return True

    def hide(self) -> None:
        """Every access traps again."""
        if self.shown is not None and self.set_pages is not None:
            offset, size, _ = self.shown
            self.set_pages((WINDOW + offset) // PAGE, None, size // PAGE)
        self.shown = None


class VgaMemory:
    """The planes, their latches, and what an access does.  ``seq`` and ``gr`` are the registers, which others change and then
    call ``changed()``."""

    def __init__(self, seq: bytearray, gr: bytearray, lfb: VideoRam, window: Window | None = None, memory: Any = None,
                 domid: int = 0) -> None:
        self.seq, self.gr, self.lfb = seq, gr, lfb
        self.window = window or Window()
        self.bank: int | None = None            # offset in the frame buffer that the window shows (DISPI), or None: the planes
        self.words = np.zeros(PLANE, dtype=np.uint32)
        self.planes = self.words.view(np.uint8).reshape(PLANE, 4)
        self.cells = memoryview(self.words)     # type: ignore[arg-type]    # quicker than numpy for one element
        self.ram = VideoRam(PLANE, memory, domid)       # the form of the planes that is mapped
        self.form: tuple[str, int] | None = None
        self.shown_at = 0, 0
        self.latch = 0
        self.hot = 0
        self.changed()

    # --- what the registers say --------------------------------------------------------------------------------------
    def changed(self) -> None:
        """Registers or the bank have changed: take what follows from them, and leave a form that is no longer true."""
        seq, gr = self.seq, self.gr
        self.base, self.size = MAPS[gr[6] >> 2 & 3]
        if not seq[4] & 2:              # memory beyond 64 KiB in all (EGA of old): the planes have 16 KiB
            self.size = min(self.size, 0x10000)
        self.plane_mask = PLANES[seq[2] & 15]
        self.bit_mask = BYTES[gr[8]]
        self.enable_sr = PLANES[gr[1] & 15]
        self.set_reset = PLANES[gr[0] & 15]
        self.care = PLANES[gr[7] & 15]
        self.compare = PLANES[gr[2] & 15]
        self.rotate, self.function = gr[3] & 7, gr[3] >> 3 & 3
        self.write_mode, self.read_mode = gr[5] & 3, gr[5] >> 3 & 1
        self.chain4, self.odd_even = bool(seq[4] & 8), not seq[4] & 4
        wanted = self.wanted()
        if wanted != self.form:
            self.leave()
            if wanted is not None and wanted[0] != "plane":
                self.enter(wanted)
        elif self.form is not None and self.shown_at != (self.base, self.size):
            self.show()
        self.hot = 0
        self.may_warm = wanted is not None and wanted[0] == "plane"
        # the commonest planar write: the byte, or what set/reset says instead, into the planes of the mask
        self.quick = (
            self.form is None and self.bank is None and not self.chain4 and not self.odd_even and not self.may_warm
            and not self.write_mode and not self.rotate and not self.function and gr[8] == 0xFF)

    def wanted(self) -> tuple[str, int] | None:
        """The form in which the window is plain memory, or None: reads and writes have an effect of their own."""
        gr, seq = self.gr, self.seq
        if self.bank is not None:
            return "bank", self.bank
        if not seq[4] & 2 or self.write_mode or self.read_mode or self.rotate or self.function or gr[8] != 0xFF:
            return None
        mask = seq[2] & 15
        if self.size == 0x20000 and not self.chain4:
            return None
        if self.chain4:
            return ("chain4", 0) if mask == 15 and not gr[1] & 15 else None
        if self.odd_even:
            plain = mask == 3 and not gr[1] & 3 and gr[5] & 0x10 and gr[6] & 2 and not gr[4] & 2
            return ("odd/even", 0) if plain else None
        plane = gr[4] & 3
        plain = mask == 1 << plane and not gr[1] & mask and not gr[5] & 0x10 and not gr[6] & 2
        return ("plane", plane) if plain else None

    # --- forms -------------------------------------------------------------------------------------------------------
    def enter(self, form: tuple[str, int]) -> None:
        """Map pages, when the machine can; the planes are no longer the truth."""
        if self.window.set_pages is None or self.ram.mfns is None:
            return
        kind, number = form
        if kind != "bank":
            part = self._part(kind, number)
            self.ram.bytes.reshape(part.shape)[:] = part
            self.ram.wrote(0, PLANE)
        self.form = form
        self.show()

    def show(self) -> None:
        """Put the pages of the present form into the window."""
        assert self.form is not None
        self.shown_at = self.base, self.size
        if self.form[0] == "bank":
            first = self.form[1]
            size = min(0x10000, len(self.lfb.bytes) - first)
            if size > 0:
                self.window.show(0, size, self.lfb, first)
        else:
            self.window.show(self.base, min(self.size, PLANE), self.ram, 0)

    def _part(self, kind: str, number: int) -> np.ndarray:
        """What of the planes a form holds, in the form's order, as a view."""
        if kind == "chain4":            # address bits 0-1 are the plane, and are 0 in the address within it
            return self.planes[::4]
        if kind == "odd/even":
            return self.planes[::2, :2]
        return self.planes[:, number]

    def layout(self, kind: str, number: int = 0) -> np.ndarray:
        """The memory in the order of a form, to read and to write: the mapped pages, or the planes when nothing is mapped."""
        if self.form == (kind, number):
            return self.ram.bytes.reshape(self._part(kind, number).shape)
        if self.form is not None:
            self.leave()
        return self._part(kind, number)

    def sync(self) -> None:
        """Bring what the guest has written into mapped pages to the planes; the form stays."""
        if self.form is not None and self.form[0] != "bank":
            part = self._part(*self.form)
            part[:] = self.ram.bytes.reshape(part.shape)

    def refresh(self) -> None:
        """The host has changed the planes: the mapped form follows."""
        if self.form is not None and self.form[0] != "bank":
            part = self._part(*self.form)
            self.ram.bytes.reshape(part.shape)[:] = part
            self.ram.wrote(0, PLANE)

    def leave(self) -> None:
        """Every access traps again; the planes are the truth."""
        if self.form is not None:
            self.window.hide()
            self.sync()
            self.form = None

    def warm(self) -> None:
        """Many accesses to one plane: give the guest the plane."""
        self.hot = 0
        wanted = self.wanted()
        if wanted is not None and self.form is None:
            self.enter(wanted)

    # --- accesses of the guest (a Region of WINDOW_SIZE) -------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        value = 0
        for i in range(size):
            value |= self.read_byte(offset + i) << 8 * i
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        at = offset - self.base
        if self.quick and at >= 0 and at + size <= self.size and at + size <= PLANE:
            cells, mask, enable = self.cells, self.plane_mask, self.enable_sr
            fixed = self.set_reset & enable
            keep, free = ~mask, ~enable & mask
            fixed &= mask
            for i in range(at, at + size):
                cells[i] = cells[i] & keep | BYTES[value & 0xFF] & free | fixed
                value >>= 8
            return
        for i in range(size):
            self.write_byte(offset + i, value >> 8 * i & 0xFF)

    def read_byte(self, offset: int) -> int:
        if self.bank is not None:
            at = self.bank + offset
            return int(self.lfb.bytes[at]) if offset < 0x10000 and at < len(self.lfb.bytes) else 0xFF
        offset -= self.base
        if not 0 <= offset < self.size:
            return 0xFF
        if self.may_warm:
            self._count()
        if self.form is not None:       # a page that the processor did not find mapped yet
            return int(self.ram.bytes[offset & PLANE - 1])
        at = offset & 0xFFFF
        plane = self.gr[4] & 3
        if self.chain4:
            plane, at = at & 3, at & ~3
        elif self.gr[5] & 0x10 or self.gr[6] & 2:
            plane, at = plane & 2 | at & 1, at & ~1
        self.latch = latch = self.cells[at]
        if self.read_mode:
            # a bit is 1 where every plane that is cared for has the bit of the comparison
            differ = (latch ^ self.compare) & self.care
            differ |= differ >> 16
            return ~(differ | differ >> 8) & 0xFF
        return latch >> 8 * plane & 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        if self.bank is not None:
            at = self.bank + offset
            if offset < 0x10000 and at < len(self.lfb.bytes):
                self.lfb.bytes[at] = value
                self.lfb.wrote(at, 1)
            return
        offset -= self.base
        if not 0 <= offset < self.size:
            return
        if self.may_warm:
            self._count()
        if self.form is not None:
            self.ram.bytes[offset & PLANE - 1] = value
            self.ram.wrote(offset & PLANE - 1, 1)
            return
        at = offset & 0xFFFF
        mask = self.plane_mask
        if self.chain4:
            mask, at = mask & 0xFF << 8 * (at & 3), at & ~3
        elif self.odd_even:
            mask, at = mask & (0xFF00FF00 if at & 1 else 0x00FF00FF), at & ~1
        cells = self.cells
        cells[at] = cells[at] & ~mask | self.combine(value) & mask

    def combine(self, value: int) -> int:
        """What a write puts into the four planes, from the processor's byte, the latches and the Graphics Controller."""
        mode = self.write_mode
        if mode == 1:
            return self.latch
        bits = self.bit_mask
        if mode == 2:
            data = PLANES[value & 15]
        else:
            rotated = (value >> self.rotate | value << 8 - self.rotate) & 0xFF
            if mode == 0:
                data = BYTES[rotated] & ~self.enable_sr | self.set_reset & self.enable_sr
            else:
                data = self.set_reset
                bits &= BYTES[rotated]
        function = self.function
        if function == 1:
            data &= self.latch
        elif function == 2:
            data |= self.latch
        elif function == 3:
            data ^= self.latch
        return data & bits | self.latch & ~bits

    def _count(self) -> None:
        self.hot += 1
        if self.hot >= HOT:
            self.warm()

    # --- save, load --------------------------------------------------------------------------------------------------
    def save(self) -> dict[str, Any]:
        self.sync()
        return {"planes": self.words.tobytes(), "latch": self.latch}

    def load(self, state: dict[str, Any]) -> None:
        self.leave()
        self.words[:] = np.frombuffer(state["planes"], dtype=np.uint32)
        self.latch = int(state["latch"])
        self.changed()
