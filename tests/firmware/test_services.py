"""INT 08h, 11h, 12h, 14h, 15h, 17h, 1Ah, 70h, the mouse, power management, PnP, PMM, BIOS32; whatever a program gives them."""

import random
from datetime import datetime
from types import SimpleNamespace

import pytest

from tests.firmware.board import Pc as Board
from tests.firmware.pc import BiosPc, disk
from xenfast.firmware import bios_rom, clock
from xenfast.firmware.drives import CDROM, FLOPPY
from xenfast.firmware.pcibios import PciBios
from xenfast.firmware.portio import PortIo
from xenfast.firmware.traps import Call
from xenfast.xen.hvm.bus import Region

MIB = 1 << 20
SMAP = 0x534D4150


@pytest.fixture
def pc():
    return BiosPc.started(memory=24 * MIB)


def far(pc, name, *, stack=(), **registers):
    """A far call to a label of the ROM with words on the stack."""
    code = b"".join(b"\x68" + word.to_bytes(2, "little") for word in reversed(stack))
    pc.mem.write(0x7A00, code + b"\x9A" + pc.bios.rom.labels[name].to_bytes(2, "little") + b"\x00\xF0\xFA\xF4")
    registers.setdefault("sp", 0x7000)
    cpu = pc.cpu
    for name_ in ("ds", "es", "ss"):
        cpu.set_segment(name_, 0, 0, 0xFFFF, 0x93)
    call = Call(pc.hvm, cpu)
    for register, value in registers.items():
        setattr(call, register, value)
    pc.run(0, 0x7A00, 10_000)
    return SimpleNamespace(ax=call.ax, dx=call.dx, cf=bool(cpu.rflags & 1), eax=call.eax, ebx=call.ebx, ecx=call.ecx, edx=call.edx)


# --- memory --------------------------------------------------------------------------------------------------------------


def test_memory_sizes(pc):
    """INT 12h, 15h/88h, E801h, E881h agree with E820h."""
    assert pc.interrupt(0x12).ax == 639
    assert pc.interrupt(0x15, ax=0x8800).ax == 23 << 10
    after = pc.interrupt(0x15, ax=0xE801)
    assert (after.ax, after.bx, after.cx, after.dx) == (15 << 10, 8 << 4, 15 << 10, 8 << 4)
    after = pc.interrupt(0x15, ax=0xE881)
    assert (after.eax, after.ebx) == (15 << 10, 8 << 4)
    assert pc.cmos.data[0x30] | pc.cmos.data[0x31] << 8 == 23 << 10 and pc.cmos.data[0x34] | pc.cmos.data[0x35] << 8 == 8 << 4


def test_e820(pc):
    """One entry a call; EBX goes on; 24 bytes for those who ask."""
    found, ebx = [], 0
    while True:
        after = pc.interrupt(0x15, eax=0xE820, edx=SMAP, ebx=ebx, ecx=24, di=0x600)
        assert not after.cf and after.eax == SMAP and after.ecx == 24
        raw = pc.mem.read(0x600, 24)
        found.append((int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:16], "little"), int.from_bytes(raw[16:20], "little")))
        assert raw[20:] == b"\1\0\0\0"
        ebx = after.ebx
        if not ebx:
            break
    assert found == pc.bios.config.e820()
    assert pc.interrupt(0x15, eax=0xE820, edx=SMAP, ebx=99, ecx=20, di=0x600).cf
    assert pc.interrupt(0x15, eax=0xE820, edx=1, ecx=20, di=0x600).ah == 0x86
    assert pc.interrupt(0x15, eax=0xE820, edx=SMAP, ecx=10, di=0x600).cf


def test_block_move(pc):
    """15h/87h: words from and to anywhere below 4 GiB."""
    def descriptor(base):
        return b"\xFF\xFF" + base.to_bytes(4, "little")[:3] + b"\x93\x00" + base.to_bytes(4, "little")[3:]

    pc.mem.write(0x600, bytes(16) + descriptor(0x8000) + descriptor(0x1234567) + bytes(16))
    pc.mem.write(0x8000, b"moved up" * 8)
    after = pc.interrupt(0x15, ax=0x8700, cx=32, si=0x600)
    assert not after.cf and after.ah == 0 and pc.mem.read(0x1234567, 64) == b"moved up" * 8
    assert pc.interrupt(0x15, ax=0x8700, cx=0x8001, si=0x600).cf


def test_a20(pc):
    """15h/2400h to 2403h, by port 92h."""
    state = [2]
    pc.hvm.ports.add(0x92, Region(1, lambda *_: state[0], lambda _o, _s, value: state.__setitem__(0, value)))
    assert pc.interrupt(0x15, ax=0x2400).ah == 0 and state == [0]
    assert pc.interrupt(0x15, ax=0x2402).al == 0
    assert not pc.interrupt(0x15, ax=0x2401).cf and state == [2]
    assert pc.interrupt(0x15, ax=0x2402).al == 1
    assert pc.interrupt(0x15, ax=0x2403).bx == 3
    assert pc.interrupt(0x15, ax=0x2404).cf


def test_into_protected_mode(pc):
    """15h/89h: back to the caller with the segments of the table."""
    def descriptor(base, kind, limit=0xFFFF):
        return limit.to_bytes(2, "little") + base.to_bytes(3, "little") + bytes((kind, 0, 0))

    table = bytes(8) + descriptor(0x600, 0x82, 0x3F) + descriptor(0x2000, 0x82) + descriptor(0x20000, 0x93) + descriptor(0x30000, 0x93)
    table += descriptor(0x1000, 0x93) + descriptor(0, 0x9B) + bytes(8)
    pc.mem.write(0x600, table)
    pc.mem.write(0x7C00, b"\xCD\x15\x0F\x01\xE0\xA2\x00\x00\xFA\xF4")         # int 15h; smsw ax; mov [0], al
    cpu = pc.cpu
    cpu.rax, cpu.rbx, cpu.rsi, cpu.rsp, cpu.rflags = 0x8900, 0x2028, 0x600, 0x7000, 0x202
    cpu.set_segment("es", 0, 0, 0xFFFF, 0x93)
    pc.run(0, 0x7C00)
    assert pc.mem.read_int(0x20000, 1) & 1
    assert [cpu.segment(name)[0] for name in ("cs", "ds", "es", "ss")] == [0x30, 0x18, 0x20, 0x28]


# --- time ----------------------------------------------------------------------------------------------------------------


def test_ticks(pc):
    """INT 08h counts, calls INT 1Ch with DS = 40h, and a day ends at 1800B0h."""
    pc.mem.write(0x9000, b"\x8C\x1E\x00\x06\xCF")        # mov [600h], ds  (in DS!); iret
    pc.mem.write_int(0x1C * 4, 4, 0x9000)
    assert not pc.interrupt(0x1A, ax=0x0100, cx=0x0018, dx=0x00AF).cf
    assert pc.interrupt(0x08) is not None
    assert pc.mem.read_int(0x400 + 0x600, 2) == 0x40
    after = pc.interrupt(0x1A)
    assert (after.cx, after.dx, after.al) == (0, 0, 1)
    assert pc.interrupt(0x1A).al == 0
    pc.interrupt(0x08)
    assert pc.interrupt(0x1A).dx == 1


def test_time_of_day(pc):
    """1Ah/02h to 05h by the real-time clock; ticks were set from it at power-on."""
    after = pc.interrupt(0x1A, ax=0x0200)
    assert (after.cf, after.cx, after.dh) == (False, 0x1234, 0x56)
    after = pc.interrupt(0x1A, ax=0x0400)
    assert (after.cx, after.dx) == (0x2026, 0x1124)
    pc.interrupt(0x1A, ax=0x0300, cx=0x0807, dx=0x0600)
    pc.interrupt(0x1A, ax=0x0500, cx=0x1999, dx=0x1231)
    assert clock.now(pc.bios.clock) == datetime(1999, 12, 31, 8, 7, 6)
    pc.cmos.data[0x0B] |= 0x04                              # binary
    pc.cmos.data[0x04] = 23
    assert pc.interrupt(0x1A, ax=0x0200).ch == 0x23
    pc.cmos.data[0x0B] = 0                                  # twelve hours, BCD
    pc.cmos.data[0x04] = 0x92
    assert pc.interrupt(0x1A, ax=0x0200).ch == 0x12
    pc.cmos.data[0x04] = 0x81
    assert pc.interrupt(0x1A, ax=0x0200).ch == 0x13
    pc.cmos.data[0x0D] = 0
    assert pc.interrupt(0x1A, ax=0x0200).cf


def test_the_alarm(pc):
    """1Ah/06h; INT 70h calls INT 4Ah."""
    assert not pc.interrupt(0x1A, ax=0x0600, cx=0x1235, dx=0).cf
    assert pc.cmos.data[0x0B] & 0x20 and pc.cmos.data[5] == 0x12 and pc.cmos.data[3] == 0x35
    assert pc.interrupt(0x1A, ax=0x0600).cf
    pc.mem.write(0x9000, b"\xC6\x06\x00\x06\x2A\xCF")    # mov byte [600h], 42; iret
    pc.mem.write_int(0x4A * 4, 4, 0x9000)
    pc.cmos.data[0x0C] = 0x20
    pc.interrupt(0x70)
    assert pc.mem.read_int(0x600, 1) == 42
    pc.interrupt(0x1A, ax=0x0700)
    assert not pc.cmos.data[0x0B] & 0x20


@pytest.mark.parametrize("microseconds", [0, 10, 200_000])
def test_waiting(pc, microseconds):
    """15h/86h: at least so long."""
    start = pc.hvm.timers.time
    timers, now = pc.hvm.timers, pc.hvm.timers.now
    timers.now = lambda: (timers.advance(1_000_000), now())[1]      # asking takes a millisecond
    assert not pc.interrupt(0x15, budget=5_000_000, ax=0x8600, cx=microseconds >> 16, dx=microseconds & 0xFFFF).cf
    assert microseconds * 1000 <= timers.time - start <= microseconds * 1000 + 120_000_000


def test_an_event_later(pc):
    """15h/83h: bit 7 of a byte; a second one is refused until then; AL = 1 cancels."""
    pc.mem.write_int(0x600, 1, 0x01)
    assert not pc.interrupt(0x15, ax=0x8300, cx=0, dx=1000, bx=0x600).cf
    assert pc.interrupt(0x15, ax=0x8300, cx=0, dx=1000, bx=0x600).cf
    pc.hvm.timers.advance(999_000)
    assert pc.mem.read_int(0x600, 1) == 0x01
    pc.hvm.timers.advance(1000)
    assert pc.mem.read_int(0x600, 1) == 0x81
    assert not pc.interrupt(0x15, ax=0x8300, cx=1, dx=0, bx=0x600).cf
    assert not pc.interrupt(0x15, ax=0x8301).cf
    pc.mem.write_int(0x600, 1, 0)
    pc.hvm.timers.advance(1_000_000_000)
    assert pc.mem.read_int(0x600, 1) == 0


# --- tables and small ones -----------------------------------------------------------------------------------------------


def test_tables(pc):
    """Equipment, configuration table, EBDA."""
    assert pc.interrupt(0x11).ax & 0x0003 == 2
    after = pc.interrupt(0x15, ax=0xC000)
    table = pc.mem.read((after.es << 4) + after.bx, 10)
    assert table[0:4] == b"\x08\x00\xFC\x01" and table[5] & 0x14 == 0x14
    assert pc.interrupt(0x15, ax=0xC100).es == 0x9FC0 and pc.mem.read_int(0x9FC00, 1) == 1
    assert pc.interrupt(0x15, ax=0x7700).ah == 0x86
    assert not pc.interrupt(0x15, ax=0x9000).cf and not pc.interrupt(0x15, ax=0x9100).cf
    assert pc.interrupt(0x15, ax=0x5200).ah == 0


class Uart:
    """Registers of an 8250, and what was sent."""

    def __init__(self, pc, port=0x3F8):
        self.registers, self.sent, self.received = bytearray(8), bytearray(), bytearray()
        self.registers[5], self.registers[6] = 0x60, 0xB0
        pc.hvm.ports.add(port, Region(8, self._read, self._write, width=1))

    def _read(self, offset, _size):
        if offset == 0 and not self.registers[3] & 0x80:
            return self.received.pop(0) if self.received else 0
        return self.registers[5] | bool(self.received) if offset == 5 else self.registers[offset]

    def _write(self, offset, _size, value):
        if offset == 0 and not self.registers[3] & 0x80:
            self.sent.append(value)
        elif offset == 1 and not self.registers[3] & 0x80:
            self.registers[1] = value & 0x0F
        else:
            self.registers[offset] = value


def test_serial_port():
    """INT 14h: initialise, send, receive, status, and the time-out."""
    pc = BiosPc(boot="")
    uart = Uart(pc)
    pc.power_on(budget=3000)
    assert pc.mem.read_int(0x400, 2) == 0x3F8 and pc.interrupt(0x11).ax >> 9 & 7 == 1
    assert pc.interrupt(0x14, ax=0x00E3).ax == 0x60B0
    assert uart.registers[3] == 3 and uart.registers[0] == 12
    assert pc.interrupt(0x14, ax=0x0141).ah == 0x60 and uart.sent == b"A"
    uart.received += b"z"
    assert pc.interrupt(0x14, ax=0x0200).ax == 0x007A
    assert pc.interrupt(0x14, ax=0x0200).ah & 0x80                  # after a second
    assert pc.interrupt(0x14, ax=0x0300).ax == 0x60B0
    assert pc.interrupt(0x14, ax=0x0400, cx=0x0308).ax == 0x60B0 and uart.registers[0] == 6
    assert pc.interrupt(0x14, ax=0x0500).bl == 3
    assert pc.interrupt(0x14, ax=0x0041, dx=1).ah == 0x80


def test_printer():
    """INT 17h: a character, reset, status; no printer is a time-out."""
    pc = BiosPc(boot="")
    data, strobes = bytearray(1), []
    pc.hvm.ports.add(0x378, Region(1, lambda *_: data[0], lambda _o, _s, value: data.__setitem__(0, value)))
    pc.hvm.ports.add(0x379, Region(1, lambda *_: 0xDF, lambda *_: None))
    pc.hvm.ports.add(0x37A, Region(1, lambda *_: 0, lambda _o, _s, value: strobes.append(value)))
    pc.power_on(budget=3000)
    assert pc.mem.read_int(0x408, 2) == 0x378
    assert pc.interrupt(0x17, ax=0x0041).ah == 0x90 and data == b"A" and strobes[-2:] == [0x0D, 0x0C]
    assert pc.interrupt(0x17, ax=0x0200).ah == 0x90
    assert pc.interrupt(0x17, ax=0x0041, dx=1).ah & 1


def test_power_management(pc):
    """15h/53h: APM 1.2; connected once; power off."""
    after = pc.interrupt(0x15, ax=0x5300)
    assert (after.ax, after.bx) == (0x0102, 0x504D)
    assert not pc.interrupt(0x15, ax=0x5301).cf
    assert pc.interrupt(0x15, ax=0x5303).ah == 0x02
    assert pc.interrupt(0x15, ax=0x530E, cx=0x0102).ax == 0x0102
    assert pc.interrupt(0x15, ax=0x530A, bx=1).bh == 1
    assert pc.interrupt(0x15, ax=0x530B).ah == 0x80
    off = []
    pc.bios.config.power_off = lambda: off.append(1)
    assert not pc.interrupt(0x15, ax=0x5307, bx=1, cx=3).cf and off == [1]
    assert not pc.interrupt(0x15, ax=0x5304).cf and pc.interrupt(0x15, ax=0x5304).ah == 0x03
    after = pc.interrupt(0x15, ax=0x5303)
    assert after.ax == 0xF000 and after.ebx == pc.bios.rom.labels["apm"]
    assert far(pc, "apm", ax=0x530B).cf
    assert pc.interrupt(0x15, ax=0x5377).ah == 0x86 and pc.interrupt(0x15, ax=0x5300, bx=7).ah == 0x09


# --- the mouse -----------------------------------------------------------------------------------------------------------


class Mouse:
    """A keyboard controller with a mouse."""

    def __init__(self, pc):
        self.output, self.sent, self.to_mouse, self.command, self.expect = [], [], False, 0x45, False
        pc.hvm.ports.add(0x60, Region(1, lambda *_: self.output.pop(0) if self.output else 0, self._data))
        pc.hvm.ports.add(0x64, Region(1, lambda *_: 0x18 | (0x21 if self.output else 0), self._control))

    def _control(self, _offset, _size, value):
        self.to_mouse = value == 0xD4
        self.expect = value == 0x60
        if value == 0x20:
            self.output.append(self.command)

    def _data(self, _offset, _size, value):
        if self.expect:
            self.command, self.expect = value, False
        elif self.to_mouse:
            self.to_mouse = False
            self.sent.append(value)
            self.output += {0xFF: [0xFA, 0xAA, 0], 0xF2: [0xFA, 0], 0xE9: [0xFA, 0x20, 2, 100]}.get(value, [0xFA])
        else:
            self.output.append(0xFA)


def test_the_mouse():
    """15h/C2h, and INT 74h, which calls the program's handler with each packet."""
    pc = BiosPc(boot="")
    mouse = Mouse(pc)
    pc.power_on(budget=3000)
    assert pc.interrupt(0x11).ax & 4
    after = pc.interrupt(0x15, ax=0xC205, bx=0x0300)
    assert not after.cf and after.bx == 0x00AA
    assert pc.interrupt(0x15, ax=0xC200, bx=0x0100).ah == 5
    # handler: bp = sp; status, x, y to 600h
    pc.mem.write(0x9000, bytes.fromhex("55 89E5 50 8B460C 2EA30006 8B460A 2EA30206 8B4608 2EA30406 58 5D CB"))
    assert not pc.interrupt(0x15, ax=0xC207, bx=0x9000).cf
    assert not pc.interrupt(0x15, ax=0xC200, bx=0x0100).cf and mouse.sent[-1] == 0xF4
    assert not pc.interrupt(0x15, ax=0xC202, bx=0x0500).cf and mouse.sent[-2:] == [0xF3, 100]
    assert not pc.interrupt(0x15, ax=0xC203, bx=0x0200).cf and mouse.sent[-2:] == [0xE8, 2]
    assert pc.interrupt(0x15, ax=0xC204).bh == 0
    after = pc.interrupt(0x15, ax=0xC206)
    assert (after.bl, after.cl, after.dl) == (0x20, 2, 100)
    assert not pc.interrupt(0x15, ax=0xC206, bx=0x0200).cf and mouse.sent[-1] == 0xE7
    for byte in (0x08, 5, 0xFB):
        mouse.output.append(byte)
        pc.interrupt(0x74)
    assert [pc.mem.read_int(0x600 + i, 2) for i in (0, 2, 4)] == [8, 5, 0xFB]
    assert pc.interrupt(0x15, ax=0xC202, bx=0x0700).ah == 2 and pc.interrupt(0x15, ax=0xC20F).ah == 1


# --- PCI BIOS, BIOS32, PnP, PMM -------------------------------------------------------------------------------------------


def test_pci_bios(pc):
    """1Ah/B1h finds functions, reads and writes their registers."""
    board = Board(extra=[(3, 4096)])
    pc.bios.pci.ports = PortIo(board.hvm)
    after = pc.interrupt(0x1A, ax=0xB101)
    assert (after.cf, after.ax, after.bx, after.cl, after.edx) == (False, 1, 0x0210, 0, 0x20494350)
    assert pc.interrupt(0x1A, ax=0xB102, cx=0x7000, dx=0x8086).bx == 0x0008
    assert pc.interrupt(0x1A, ax=0xB102, cx=0x7000, dx=0x8086, si=1).ah == 0x86
    assert pc.interrupt(0x1A, ax=0xB102, cx=0x7000, dx=0xFFFF).ah == 0x83
    assert pc.interrupt(0x1A, ax=0xB103, ecx=0x060100).bx == 0x0008
    assert pc.interrupt(0x1A, ax=0xB108, bx=8, di=0).cl == 0x86
    assert pc.interrupt(0x1A, ax=0xB109, bx=8, di=2).cx == 0x7000
    assert pc.interrupt(0x1A, ax=0xB10A, bx=8, di=0).ecx == 0x70008086
    assert pc.interrupt(0x1A, ax=0xB10A, bx=8, di=2).ah == 0x87
    assert not pc.interrupt(0x1A, ax=0xB10C, bx=0x18, di=4, cx=7).cf
    assert pc.interrupt(0x1A, ax=0xB109, bx=0x18, di=4).cx & 2
    assert pc.interrupt(0x1A, ax=0xB106).ah == 0x81 and pc.interrupt(0x1A, ax=0xB177).ah == 0x81
    assert PciBios(PortIo(board.hvm)).present_functions() == [0, 8, 0x18]


def test_interrupt_routing(pc):
    """1Ah/B10Eh gives the slots of $PIR, B10Fh programs the router."""
    from xenfast.firmware import pirq

    board = Board()
    pc.bios.pci.ports = PortIo(board.hvm)
    table = pirq.build()
    pc.mem.write(0xF0100, table, rom=True)
    pc.mem.write(0x600, (16).to_bytes(2, "little") + (0x9000).to_bytes(4, "little"))
    assert pc.interrupt(0x1A, ax=0xB10E, di=0x600).ah == 0x89
    assert pc.mem.read_int(0x600, 2) == len(table) - 32
    assert pc.interrupt(0x1A, ax=0xB10E, di=0x600).ah == 0
    assert pc.mem.read(0x9000, len(table) - 32) == table[32:]
    slot = table[33]
    assert not pc.interrupt(0x1A, ax=0xB10F, bx=slot, cx=0x0B0A).cf
    assert 11 in [pc.interrupt(0x1A, ax=0xB108, bx=8, di=0x60 + i).cl for i in range(4)]
    assert pc.interrupt(0x1A, ax=0xB10F, bx=slot, cx=0x020A).ah == 0x88


def test_bios32(pc):
    """The service directory knows the PCI BIOS and says where its entry is."""
    after = far(pc, "bios32", eax=0x49435024, ebx=0)
    assert after.eax & 0xFF == 0 and (after.ebx, after.edx) == (0xF0000, pc.bios.rom.labels["pcibios32"])
    assert far(pc, "bios32", eax=0x12345678, ebx=0).eax & 0xFF == 0x80
    assert far(pc, "bios32", eax=0x49435024, ebx=1).eax & 0xFF == 0x81
    board = Board()
    pc.bios.pci.ports = PortIo(board.hvm)
    after = far(pc, "pcibios32", eax=0xB10A, ebx=8, edi=0)
    assert after.ecx == 0x70008086 and not after.cf
    assert far(pc, "pcibios32", eax=0x1234).cf


def test_plug_and_play_and_post_memory(pc):
    """The version of the boot specification; blocks below and above 1 MiB, found by handle, given back."""
    assert far(pc, "pnp", stack=(0x60, 0x600, 0)).ax == 0 and pc.mem.read_int(0x600, 2) == 0x0101
    assert far(pc, "pnp", stack=(0x01, 0, 0)).ax == 0x82

    def pmm(*words):
        after = far(pc, "pmm", stack=words)
        return after.dx << 16 | after.ax

    low = pmm(0, 0x100, 0, 1, 0, 1)
    high = pmm(0, 0x1000, 0, 2, 0, 6)
    assert 0x10000 <= low < 0x80000 and MIB <= high < 24 * MIB and not high & 0xFFFF
    assert pmm(1, 1, 0) == low and pmm(1, 9, 0) == 0
    assert pmm(0, 0, 0, 0, 0, 1) == 0x6F00
    assert pmm(2, low & 0xFFFF, low >> 16) == 0 and pmm(0, 0, 0, 0, 0, 1) == 0x7000
    assert pmm(0, 0xFFFF, 0xFFFF, 0, 0, 3) == 0 and pmm(0, 1, 0, 0, 0, 0) == 0


# --- hostile ---------------------------------------------------------------------------------------------------------------

VECTORS = (0x02, 0x05, 0x08, 0x09, 0x0E, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x1A, 0x40, 0x70, 0x71, 0x74, 0x75, 0x76)
FUNCTIONS = tuple(range(0x20)) + (0x24, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F, 0x53,
                                  0x83, 0x86, 0x87, 0x88, 0x89, 0xB1, 0xC0, 0xC1, 0xC2, 0xE8)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_program_gives_them(seed):
    """Random functions, registers, segments, stacks and data areas: no traceback, and the machine runs on."""
    rng = random.Random(seed)
    fresh = True
    for _ in range(150):
        if fresh:
            pc = BiosPc.started(disks=[disk(bytes(MIB))], floppies=[disk(bytes(1440 << 10), FLOPPY)], cdroms=[disk(bytes(MIB), CDROM)])
            Uart(pc)
            pc.on_halt = None
        words = [rng.choice((0, 1, 0x7FFF, 0x8000, 0xFFFF, rng.getrandbits(16), rng.getrandbits(8))) for _ in range(12)]
        ah = rng.choice(FUNCTIONS) if rng.random() < 0.9 else rng.getrandbits(8)
        if rng.random() < 0.1:
            pc.mem.write(0x400, rng.randbytes(0x200))
        if rng.random() < 0.2:
            pc.mem.write(rng.randrange(0x600, 0x7000), rng.randbytes(64))
        pc.interrupt(
            rng.choice(VECTORS), budget=300, stack=rng.choice((0x7000, 0x7000, 0, 1, 3, 0xFFFF)),
            eax=words[8] << 16 | ah << 8 | words[0] & 0xFF,
            ebx=words[9] << 16 | words[1], ecx=words[10] << 16 | words[2],
            edx=rng.choice((SMAP, words[11] << 16 | words[3], 0x80, 0xE0, 0)), si=words[4], di=words[5], bp=words[6], ds=words[7],
            es=rng.choice((0, words[7], 0xFFFF)), ss=rng.choice((0, 0, 0xFFFF, words[0])),
        )
        assert not pc.bios.traps.failures
        fresh = rng.random() < 0.1 or bool(pc.cpu.cr0 & 1)


def test_the_stubs_may_be_entered_anywhere(pc):
    """A jump to any byte of the stubs does no harm to us."""
    for offset in range(0xF100, 0xF270):
        pc.cpu.rsp = 0x7000
        pc.cpu.rflags = 2
        pc.run(0xF000, offset, 40)
        assert not pc.bios.traps.failures
    for name in ("routine_back", "post_halt"):
        assert bios_rom.SEGMENT == 0xF000 and pc.bios.rom.labels[name]
