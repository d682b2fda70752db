"""The BIOS of an HVM guest: everything in this folder that runs on a trap, wired together.

    bios = Bios(hvm, BiosConfig(disks=[BiosDrive(drive, DISK)], boot="cd", ...))
    ...                                 # the processor starts at FFFF:0000

``setup`` functions (PCI, tables: hvmloader) are called at power-on, after the chips are ready and before the screen is on;
``video`` then initialises the video BIOS.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from xenfast.firmware import bios_rom, pnp
from xenfast.firmware.apm import Apm
from xenfast.firmware.bda import Area
from xenfast.firmware.boot import Boot
from xenfast.firmware.clock import Clock
from xenfast.firmware.drives import CDROM, BiosDrive, Drives
from xenfast.firmware.edd import Edd
from xenfast.firmware.eltorito import ElTorito, Entry, NotBootable
from xenfast.firmware.int13 import Int13
from xenfast.firmware.int15 import E820Map, System
from xenfast.firmware.keyboard import Keyboard
from xenfast.firmware.pcibios import PciBios
from xenfast.firmware.pointing import Pointing
from xenfast.firmware.portio import PortIo
from xenfast.firmware.post import Post
from xenfast.firmware.routine import Asking, Interrupt, Routine, Routines
from xenfast.firmware.serial import Serial
from xenfast.firmware.traps import Call, Handler, Traps

log = logging.getLogger("xenfast")

ROM_ALIAS = 0xFFFF0000              # the ROM below 4 GiB, where processors start


@dataclass
class OptionRom:
    data: bytes
    bdf: int = 0                    # bus, device, function of the card it is on
    name: str = "option ROM"


@dataclass
class BiosConfig:
    boot: str = "cda"
    floppies: list[BiosDrive] = field(default_factory=list)
    disks: list[BiosDrive] = field(default_factory=list)
    cdroms: list[BiosDrive] = field(default_factory=list)
    e820: Callable[[], E820Map] = lambda: [(0, 0x9FC00, 1)]
    vcpus: int = 1
    product: str = "xenfast"
    menu_seconds: float = 0         # to wait for F12
    option_roms: list[OptionRom] = field(default_factory=list)
    setup: list[Callable[[], Any]] = field(default_factory=list)
    video: Callable[[Any], Any] | None = None       # gets the memory: VgaBios.post
    font: bytes | None = None       # 8x8, for FFA6Eh
    power_off: Callable[[], Any] | None = None
    reset: Callable[[], Any] | None = None          # of the whole machine


class Bios:
    def __init__(self, hvm: Any, config: BiosConfig) -> None:
        self.hvm, self.config = hvm, config
        self.rom = bios_rom.build()
        labels = self.rom.labels
        self.ports = PortIo(hvm)
        self.traps = Traps(hvm)
        self.routines = Routines(labels)
        self.drives = Drives(config.floppies, config.disks, config.cdroms)
        for found in self.drives.of.values():
            for place, drive in enumerate(found):
                drive.info["place"] = place         # who boots becomes the first of its kind
        self.int13 = Int13(self.drives)
        self.edd = Edd(self.int13)
        self.eltorito = ElTorito(self.int13)
        self.keyboard = Keyboard(self.ports)
        self.clock = Clock(self.ports)
        self.serial = Serial(self.ports, hvm.timers)
        self.system = System(self.ports, hvm.timers, labels, config.e820)
        self.pointing = Pointing(self.ports, self.keyboard, self.system)
        self.apm = Apm(self.system, labels, self.power_off)
        self.pci = PciBios(self.ports)
        self.memory_manager = pnp.MemoryManager(config.e820)
        self.boot = Boot(self)
        self.post = Post(self)
        self._bind()
        self.install()

    def _bind(self) -> None:
        functions: dict[str, Handler] = {
            "apic": self.post.apic, "post": self.post.post, "routine": self.resume,
            "int18": self.boot.int18, "int19": self.boot.int19,
            "int02": self.nmi, "int05": self.print_screen, "int11": self.equipment, "int12": self.memory_size,
            "int13": self.int13.int13, "int40": self.int13.int13, "int14": self.serial.int14, "int15": self.system.int15,
            "int16": self.keyboard.int16, "int17": self.serial.int17, "int1a": self.int1a,
            "tick": self.clock.tick, "key": self.keyboard.key, "paused": self.keyboard.paused, "rtc_irq": self.clock.interrupt,
            "fdd_irq": self.diskette_interrupt, "hdd_irq": self.disk_interrupt, "mouse": self.pointing.mouse,
            "bios32": self.bios32, "pcibios32": self.pci.far, "apm_far": self.apm.far, "pnp": pnp.pnp, "pmm": self.memory_manager.pmm,
        }   # fmt: skip
        for offset, name in self.rom.traps:
            self.traps.bind(bios_rom.BASE + offset, functions[name])

    def install(self) -> None:
        """The ROM into the guest's memory, at F0000h and below 4 GiB."""
        image = bytearray(self.rom.image)
        if self.config.font is not None:
            image[bios_rom.FONT:bios_rom.FONT + 1024] = self.config.font[:1024]
        self.hvm.rom(bios_rom.BASE, bytes(image))
        self.hvm.alias(ROM_ALIAS, bios_rom.BASE, bios_rom.SIZE)

    # --- state -------------------------------------------------------------------------------------------------------
    def save(self) -> dict[str, Any]:
        """What is not in the guest's memory; power-on and boot menu are not saved in the middle."""
        eltorito, drives = self.eltorito, self.drives
        entry = eltorito.entry
        return {
            "done": self.post.done and not self.routines.running,
            "order": {kind: [drive.info["place"] for drive in found] for kind, found in drives.of.items()},
            "locks": {kind: [drive.locks for drive in found] for kind, found in drives.of.items()},
            "cdrom": drives.of[CDROM].index(eltorito.cdrom) if eltorito.cdrom is not None else None,
            "entry": [entry.media, entry.segment, entry.system, entry.count, entry.lba] if entry is not None else None,
            "emulating": drives.emulation is not None,
            "blocks": [[at, size, handle] for at, (size, handle) in self.memory_manager.blocks.items()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """For a machine of the same configuration, with its memory in place."""
        drives = self.drives
        self.post.done = state["done"]
        for kind, found in drives.of.items():
            by_place = {drive.info["place"]: drive for drive in found}
            found[:] = [by_place[place] for place in state["order"][kind]]
            for drive, locks in zip(found, state["locks"][kind]):
                drive.locks = locks
        drives.measure()
        drives.stop_emulation()
        self.eltorito.cdrom = drives.of[CDROM][state["cdrom"]] if state["cdrom"] is not None else None
        self.eltorito.entry = Entry(*state["entry"]) if state["entry"] is not None else None
        if state["emulating"] and self.eltorito.cdrom is not None and self.eltorito.entry is not None:
            with suppress(NotBootable):     # the disc has been changed meanwhile
                self.eltorito.resume()
        self.memory_manager.blocks = {at: (size, handle) for at, size, handle in state["blocks"]}

    def resume(self, call: Call) -> None:
        """Where a routine goes on; one that was lost by a save was power-on, which begins again."""
        if self.routines.running or self.post.done:
            self.routines.resume(call)
        else:
            self.post.post(call)

    # --- small services ----------------------------------------------------------------------------------------------
    def equipment(self, call: Call) -> None:
        call.ax = Area(call.mem).equipment

    def memory_size(self, call: Call) -> None:
        call.ax = Area(call.mem).memory_kib

    def int1a(self, call: Call) -> None:
        if call.ah == 0xB1:
            self.pci.int1a(call)
        else:
            self.clock.int1a(call)

    def bios32(self, call: Call) -> None:
        call.flags_at = None
        self.pci.bios32(call, self.rom.labels["pcibios32"])

    def nmi(self, call: Call) -> None:
        log.warning("firmware: a non-maskable interrupt that no program has taken")

    def power_off(self) -> None:
        if self.config.power_off is not None:
            self.config.power_off()

    def diskette_interrupt(self, call: Call) -> None:
        Area(call.mem).fdd_recalibrate |= 0x80

    def disk_interrupt(self, call: Call) -> None:
        Area(call.mem).hdd_interrupt = 0xFF

    # --- INT 05h -----------------------------------------------------------------------------------------------------
    def print_screen(self, call: Call) -> None:
        bda = Area(call.mem)
        if bda.print_screen == 1:
            return                      # at it already
        bda.print_screen = 1
        self.routines.start(call, self._print_screen, "int05_end")

    def _print_screen(self, call: Call) -> Routine:
        bda = Area(call.mem)
        page, columns, rows = bda.video_page, min(bda.video_columns, 132), min((bda.video_rows or 24) + 1, 60)
        call = yield Interrupt(0x10, ax=0x0300, bx=page << 8)
        cursor = call.dx
        failed: int | None = 0
        for row in range(rows):
            line = []
            for column in range(columns):
                yield Interrupt(0x10, ax=0x0200, bx=page << 8, dx=row << 8 | column)
                call = yield Interrupt(0x10, ax=0x0800, bx=page << 8)
                line.append(call.al or 0x20)
            failed = yield from self._print(bytes(line) + b"\r\n")
            if failed:
                break
        yield Interrupt(0x10, ax=0x0200, bx=page << 8, dx=cursor)
        bda.print_screen = 0xFF if failed else 0

    def _print(self, data: bytes) -> Asking:
        """On the first printer; True when it does not work."""
        for byte in data:
            call = yield Interrupt(0x17, ax=byte, dx=0)
            if call.ah & 0x29:
                return True
        return False
