"""Power-on: chips, vectors, data areas, tables of others, video, option ROMs, the boot screen; then boot.py.

What a processor does from FFFF0h on (SDM Vol. 3, 9.1.4) is one trap; the rest is here, as a routine (routine.py).  What other parts
of the firmware do at power-on (PCI, ACPI, SMBIOS: hvmloader) are the ``setup`` functions of the configuration.

Shutdown codes in the CMOS (0Fh; IBM PC/AT Technical Reference): a program for the 80286 comes back from protected mode by resetting
the processor; 05h and 0Ah go on at 40:67h.
"""

import logging
from typing import TYPE_CHECKING

from xenfast.firmware import bda as areas
from xenfast.firmware.bda import BASE_KIB, EBDA_SEGMENT, KBD_BUFFER, KBD_BUFFER_END, Area, ebda, set_vector
from xenfast.firmware.bios_rom import SEGMENT
from xenfast.firmware.drives import DISK, FLOPPY, parameter_table
from xenfast.firmware.keyboard import ENHANCED
from xenfast.firmware.routine import FarCall, Interrupt, Routine
from xenfast.firmware.traps import Call

if TYPE_CHECKING:
    from xenfast.firmware.bios import Bios

log = logging.getLogger("xenfast")

LOCAL_APIC = 0xFEE00000
STACK = 0x7C00                          # SS is 0
SHUTDOWN, DIAGNOSIS = 0x0F, 0x0E        # of the CMOS
GO_ON_EOI, GO_ON = 0x05, 0x0A
COM_PORTS, LPT_PORTS = (0x3F8, 0x2F8, 0x3E8, 0x2E8), (0x378, 0x278, 0x3BC)
OPTION_ROMS = range(0xC0000, 0xF0000)
OPTION_ROM_STEP = 0x800
ROM_SIGNATURE = b"\x55\xAA"

# What the chips of a PC are given: (port, value)
PICS = ((0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0xA0, 0x11), (0xA1, 0x70), (0xA1, 0x02), (0xA1, 0x01),
        (0x21, 0xB8), (0xA1, 0x8F))             # on: timer, keyboard, the second PIC, diskette; mouse, coprocessor, first disk
PIT = ((0x43, 0x34), (0x40, 0), (0x40, 0), (0x43, 0x54), (0x41, 0x12))
DMA = ((0x0D, 0), (0xDA, 0), (0xD6, 0xC0), (0xD4, 0))       # channel 4 cascades the first controller
KBC_SELF_TEST, KBC_ENABLE, KBC_WRITE, KBC_ON = 0xAA, 0xAE, 0x60, 0x61    # translation, system flag... IRQ 1
KEYBOARD_RESET, KEYBOARD_ENABLE = 0xFF, 0xF4


class Post:
    def __init__(self, bios: "Bios") -> None:
        self.bios, self.ports = bios, bios.ports
        self.done = False

    # --- the traps ----------------------------------------------------------------------------------------------------
    def apic(self, call: Call) -> None:
        """DS is where the local APIC is; CF tells the stub that there is none, or that this is no start of the machine."""
        cpu = call.cpu
        if self.done or cpu.apic_bus is None or not cpu.cpuid(1)[3] & 1 << 9:
            call.stub_cf(True)
        else:
            cpu.set_segment("ds", 0, LOCAL_APIC, 0xFFFF, 0x93)

    def post(self, call: Call) -> None:
        """FFFF0h, E05Bh, Ctrl-Alt-Del, or a program that jumps there."""
        code = self.ports.cmos(SHUTDOWN)
        self.ports.set_cmos(SHUTDOWN, 0)
        if self.done and code in (GO_ON_EOI, GO_ON):
            if code == GO_ON_EOI:
                self.ports.outs((0xA0, 0x20), (0x20, 0x20))
            pointer = call.mem.read_int(areas.BDA + 0x67, 4)
            call.jump(pointer >> 16, pointer & 0xFFFF)
        elif self.done and self.bios.config.reset is not None:
            self.bios.config.reset()        # the whole machine, not only its processor
        else:
            self.done = True
            self.bios.routines.start(call, self.power_on, "post_halt", alone=True)

    def power_on(self, call: Call) -> Routine:
        self._processor(call)
        self.chips()
        self.memory(call)
        for setup in self.bios.config.setup:
            setup()
        yield from self.video(call)
        self.input(call)
        self.bios.drives.measure()
        self.disks(call)
        self.cmos(call)
        yield from self.banner(call)
        yield from self.option_roms(call)
        yield from self.bios.boot.power_on(call)

    # --- steps -------------------------------------------------------------------------------------------------------
    def _processor(self, call: Call) -> None:
        call.cpu.cr0 = 0x10
        call.cpu.set_segment("ss", 0, 0, 0xFFFF, 0x93)
        set_limits(call, big=True)
        call.cpu.set_table("idtr", 0, 0x3FF)
        call.cpu.rsp = STACK
        call.cpu.rflags = 2

    def chips(self) -> None:
        self.ports.outs(*DMA, *PICS, *PIT)
        self.ports.set_cmos(0x0B, self.ports.cmos(0x0B) & 0x07 | 0x02)         # no interrupts of the RTC, 24 hours
        self.ports.cmos(0x0C)
        self.bios.system.set_a20(True)

    def memory(self, call: Call) -> None:
        """Vectors and data areas; the ROM as it was at power-on where programs may have written."""
        rom, mem = self.bios.rom, call.mem
        mem.write(0, b"".join((SEGMENT << 16 | rom.vector(n)).to_bytes(4, "little") for n in range(0x78)) + bytes(0x400 - 0x78 * 4))
        mem.write(areas.BDA, bytes(0x200))
        mem.write(areas.EBDA, bytes(0x400))
        bda = Area(mem)
        bda.ebda, bda.memory_kib = EBDA_SEGMENT, BASE_KIB
        bda.kbd_head = bda.kbd_tail = bda.kbd_start = KBD_BUFFER
        bda.kbd_end = KBD_BUFFER_END
        bda.kbd_flags3 = ENHANCED
        ebda(mem).size_kib = 1
        for i in range(4):
            bda.put("com_timeout", i, 1)
            if i < 3:
                bda.put("lpt_timeout", i, 20)

    def video(self, call: Call) -> Routine:
        """The adapter first: what follows may want to say something."""
        if self.bios.config.video is not None:
            self.bios.config.video(call.mem)
        elif call.mem.read(OPTION_ROMS.start, 2) == ROM_SIGNATURE:
            yield from self._run_rom(call, OPTION_ROMS.start, 0)

    def input(self, call: Call) -> None:
        """Keyboard controller, keyboard, mouse, serial and parallel ports; the clock's ticks."""
        bda, keyboard = Area(call.mem), self.bios.keyboard
        early = keyboard.answers()              # typed before there was anyone to listen: F12 for the boot menu
        if self.ports.inb(0x64) != 0xFF:
            self.ports.outb(0x64, KBC_SELF_TEST)
            keyboard.answers()
            self.ports.outb(0x64, KBC_WRITE)
            self.ports.outb(0x60, KBC_ON)
            self.ports.outb(0x64, KBC_ENABLE)
            keyboard.command(KEYBOARD_RESET)
            keyboard.answers()
            keyboard.command(KEYBOARD_ENABLE)
        com = [port for port in COM_PORTS if self._is_uart(port)]
        lpt = [port for port in LPT_PORTS if self._is_printer(port)]
        for i, port in enumerate(com):
            bda.put("com", i, port)
        for i, port in enumerate(lpt):
            bda.put("lpt", i, port)
        floppies = len(self.bios.drives.of[FLOPPY])
        mouse = self.ports.inb(0x64) != 0xFF and self.bios.pointing.present()
        keyboard.answers()
        bda.equipment = (bda.equipment & 0x30 | bool(floppies) | 2 | bool(mouse) << 2 | max(floppies - 1, 0) % 4 << 6
                         | len(com) << 9 | len(lpt) << 14)
        self.bios.clock.set_ticks(bda)
        for code in early:
            call.al = code
            keyboard.key(call)

    def _is_uart(self, port: int) -> bool:
        """The upper half of the interrupt enable register is 0, the lower one keeps what is written."""
        old = self.ports.inb(port + 1)
        if old & 0xF0:
            return False
        self.ports.outb(port + 1, 0x02)
        kept = self.ports.inb(port + 1) == 0x02
        self.ports.outb(port + 1, 0)
        return kept

    def _is_printer(self, port: int) -> bool:
        self.ports.outb(port, 0xAA)
        if self.ports.inb(port) != 0xAA:
            return False
        self.ports.outb(port + 2, 0x0C)
        return True

    def disks(self, call: Call) -> None:
        """Parameter tables of the first two disks, the diskettes' state."""
        bda, area = Area(call.mem), ebda(call.mem)
        disks = self.bios.drives.of[DISK]
        bda.hdd_count, bda.hdd_control = len(disks), 0xC0
        for disk, field, number in zip(disks, ("fdpt0", "fdpt1"), (areas.VECTOR_HD0, areas.VECTOR_HD1), strict=False):
            call.mem.write(area.address(field), parameter_table(disk))
            set_vector(call.mem, number, EBDA_SEGMENT, area.address(field) - (EBDA_SEGMENT << 4))
        for i, drive in enumerate(self.bios.drives.of[FLOPPY][:2]):
            bda.put("fdd_state", i, 0x07 if drive.ready else 0)
        bda.fdd_info = 0x77 if len(self.bios.drives.of[FLOPPY]) > 1 else 0x07

    def cmos(self, call: Call) -> None:
        """What set-up programs and old systems look for in the CMOS."""
        config, put = self.bios.config, self.ports.set_cmos
        low, high = self.bios.system.above_1m()
        floppies = [drive.cmos_type for drive in self.bios.drives.of[FLOPPY]] + [0, 0]
        disks = len(self.bios.drives.of[DISK])
        extended = min((low + high) >> 10, 0xFFFF)
        above_16m = min(high >> 16, 0xFFFF)
        above_4g = sum(size for start, size, kind in config.e820() if start >= 1 << 32 and kind == 1) >> 16
        values = {
            0x10: floppies[0] << 4 | floppies[1], 0x12: (0xF0 if disks else 0) | (0x0F if disks > 1 else 0),
            0x14: Area(call.mem).equipment & 0xFF, 0x15: 0x80, 0x16: 0x02, 0x17: extended & 0xFF, 0x18: extended >> 8,
            0x19: 47 if disks else 0, 0x1A: 47 if disks > 1 else 0, 0x30: extended & 0xFF, 0x31: extended >> 8,
            0x34: above_16m & 0xFF, 0x35: above_16m >> 8, 0x5B: above_4g & 0xFF, 0x5C: above_4g >> 8 & 0xFF,
            0x5D: above_4g >> 16 & 0xFF, 0x5F: max(config.vcpus - 1, 0), DIAGNOSIS: 0,
        }   # fmt: skip
        for index, value in values.items():
            put(index, value)
        total = sum(self.ports.cmos(index) for index in range(0x10, 0x2E))
        put(0x2E, total >> 8)
        put(0x2F, total)

    # --- the screen --------------------------------------------------------------------------------------------------
    def say(self, text: str) -> Routine:
        """On the screen, by whatever has taken INT 10h."""
        for byte in text.replace("\n", "\r\n").encode("cp437", "replace"):
            yield Interrupt(0x10, ax=0x0E00 | byte, bx=0x0007)

    def banner(self, call: Call) -> Routine:
        config = self.bios.config
        total = sum(size for _, size, kind in config.e820() if kind == 1)
        processors = f"{config.vcpus} processor{'s' if config.vcpus != 1 else ''}"
        lines = [f"{config.product} BIOS", f"{-(-total >> 20)} MiB of memory, {processors}", ""]
        lines += self.bios.boot.inventory()
        yield from self.say("\n".join([*lines, ""]))

    # --- option ROMs -------------------------------------------------------------------------------------------------
    def option_roms(self, call: Call) -> Routine:
        """Those that the configuration has brought, and those that are there, from C0000h up."""
        placed = self._place_roms(call)
        address = OPTION_ROMS.start
        while address < OPTION_ROMS.stop:
            size = self._rom_size(call, address)
            if not size:
                address += OPTION_ROM_STEP
                continue
            if not (address == OPTION_ROMS.start and (self.bios.config.video or address not in placed)):
                yield from self._run_rom(call, address, placed.get(address, 0))
                size = self._rom_size(call, address) or size            # it may have become smaller
            address += -(-size // OPTION_ROM_STEP) * OPTION_ROM_STEP

    def _place_roms(self, call: Call) -> dict[int, int]:
        """Option ROMs behind the video BIOS: address -> bus, device, function."""
        placed = {}
        address = OPTION_ROMS.start
        while size := self._rom_size(call, address):
            address += -(-size // OPTION_ROM_STEP) * OPTION_ROM_STEP
        for rom in self.bios.config.option_roms:
            size = rom.data[2] * 512 if len(rom.data) > 3 else 0
            if rom.data[:2] != ROM_SIGNATURE or not size:
                log.warning("firmware: %s is no option ROM", rom.name)
                continue
            if address + size > OPTION_ROMS.stop:
                log.warning("firmware: no room for the option ROM %s of %d KiB", rom.name, size >> 10)
                continue
            call.hvm.physmem.write(address, rom.data[:size], rom=True)
            placed[address] = rom.bdf
            address += -(-size // OPTION_ROM_STEP) * OPTION_ROM_STEP
        return placed

    def _rom_size(self, call: Call, address: int) -> int:
        """Bytes of the ROM at an address; 0 where there is none, or a damaged one."""
        head = call.mem.read(address, 3) if address < OPTION_ROMS.stop else b""
        size = head[2] * 512 if head[:2] == ROM_SIGNATURE else 0
        if not size or address + size > OPTION_ROMS.stop or sum(call.mem.read(address, size)) & 0xFF:
            return 0
        return size

    def _run_rom(self, call: Call, address: int, bdf: int) -> Routine:
        """Its initialisation, and what it says about booting (PnP BIOS Specification 1.0A, 3.2)."""
        pnp = self.bios.rom.labels["pnp_header"]
        yield FarCall(address >> 4, 3, ax=bdf, bx=0xFFFF, cx=0, dx=0xFFFF, si=0, di=pnp, bp=0, es=SEGMENT, ds=0)
        header = call.mem.read_int(address + 0x1A, 2)
        if not header or call.mem.read(address + header, 4) != b"$PnP":
            return
        expansion = call.mem.read(address + header, 32)
        connect, entry = int.from_bytes(expansion[0x16:0x18], "little"), int.from_bytes(expansion[0x1A:0x1C], "little")
        at = int.from_bytes(expansion[0x10:0x12], "little")
        name = call.mem.read(address + at, 48).split(b"\0")[0].decode("ascii", "replace") if at else "option ROM"
        if entry:
            self.bios.boot.add_network(address >> 4, entry, name, bdf)
        if connect:
            yield FarCall(address >> 4, connect, ax=bdf, bx=0xFFFF, dx=0xFFFF, di=pnp, es=SEGMENT, ds=0)


def set_limits(call: Call, *, big: bool) -> None:
    """Data segments of 4 GiB, as option ROMs expect them at power-on (POST Memory Manager 1.01, 2.3), or of 64 KiB, as a boot sector
    does.
    """
    for name in ("ds", "es", "fs", "gs"):
        call.cpu.set_segment(name, 0, 0, *((0xFFFFFFFF, 0x8093) if big else (0xFFFF, 0x93)))
