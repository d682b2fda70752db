"""The graphics card: the standard VGA with the DISPI extension as a PCI function, 1234:1111.

BAR 0 is the frame buffer, which runs at the speed of RAM; BAR 2 has what a driver without the legacy ports needs: the EDID from 0, ports
3C0h-3DFh from 400h, the DISPI registers from 500h (layout as documented for QEMU's std VGA).  The legacy ports and the window at A0000h
answer whatever the command register says, as firmware and old systems expect of the first adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenfast.devices import edid
from xenfast.devices.pci import PciDevice
from xenfast.devices.vga import PORTS, Vga
from xenfast.devices.vga_dispi import COUNT
from xenfast.devices.vga_dispi import PORTS as DISPI_PORTS
from xenfast.devices.vga_memory import WINDOW, Window
from xenfast.xen.hvm.bus import Region

VENDOR, DEVICE, CLASS, REVISION = 0x1234, 0x1111, 0x030000, 2
MMIO_SIZE, VGA_AT, DISPI_AT = 0x1000, 0x400, 0x500


class VgaCard(PciDevice):
    """``set_pages(gfn, mfns or None, count)`` puts frames into the guest's physmap, or takes them out."""

    def __init__(self, vga: Vga, set_pages: Callable[[int, Any, int], Any] | None = None) -> None:
        super().__init__("vga", VENDOR, DEVICE, CLASS, revision=REVISION)
        self.vga, self.set_pages = vga, set_pages
        self.bar_ram(0, len(vga.lfb.bytes), self._moved)
        self.bar_memory(2, Region(MMIO_SIZE, self.read, self.write, width=4, name="vga registers"))

    def _moved(self, address: int | None) -> None:
        """The frame buffer goes where BAR 0 says."""
        vga = self.vga
        count = len(vga.lfb.bytes) >> 12
        if self.set_pages is not None:
            if vga.lfb_address is not None:
                self.set_pages(vga.lfb_address >> 12, None, count)
            if address is not None and vga.lfb.mfns is not None:
                self.set_pages(address >> 12, vga.lfb.mfns, count)
        vga.lfb_address = address

    # --- BAR 2 -------------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        if offset < 0x100:
            return int.from_bytes(edid.block()[offset:offset + size], "little")
        if VGA_AT <= offset < VGA_AT + 0x20:
            return sum(self.vga.read_port(offset - VGA_AT + 0x10 + i, 1) << 8 * i for i in range(min(size, VGA_AT + 0x20 - offset)))
        if DISPI_AT <= offset < DISPI_AT + 2 * COUNT and not offset & 1:
            value = self.vga.dispi.read((offset - DISPI_AT) // 2)
            return value | self.vga.dispi.read((offset - DISPI_AT) // 2 + 1) << 16 if size == 4 else value
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if VGA_AT <= offset < VGA_AT + 0x20:
            for i in range(min(size, VGA_AT + 0x20 - offset)):
                self.vga.write_port(offset - VGA_AT + 0x10 + i, 1, value >> 8 * i & 0xFF)
        elif DISPI_AT <= offset < DISPI_AT + 2 * COUNT and not offset & 1:
            self.vga.dispi.write((offset - DISPI_AT) // 2, value & 0xFFFF)
            if size == 4:
                self.vga.dispi.write((offset - DISPI_AT) // 2 + 1, value >> 16)

    # --- the life of a device ----------------------------------------------------------------------------------------
    def reset(self) -> None:
        super().reset()
        self.vga.reset()

    def save(self) -> dict[str, Any]:
        return {**super().save(), "vga": self.vga.save()}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.vga.load(state["vga"])


def make(hvm: Any, timers: Any, memory: Any, domid: int, size: int = 16 << 20) -> VgaCard:
    """A card for an HVM domain (``domain.hvm``), with its legacy ports and window on the domain's buses."""
    def set_pages(gfn: int, mfns: Any, count: int) -> None:
        if mfns is None:
            hvm.remove(gfn, count)
        else:
            hvm.place(gfn, mfns)

    vga = Vga(timers, size=size, memory=memory, domid=domid, window=Window(set_pages))
    hvm.ports.add(PORTS, vga.ports)
    hvm.ports.add(DISPI_PORTS, vga.dispi.ports)
    hvm.mmio.add(WINDOW, vga.window)
    return VgaCard(vga, set_pages)
