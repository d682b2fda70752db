"""The I/O APIC: registers, edges, levels with remote IRR, masks, and what it sends."""

import random

from xenfast import _core
from xenfast.xen.hvm import bus
from xenfast.xen.hvm.vioapic import IoApic

BASE = 0xFEC00000


class Board:
    def __init__(self):
        self.sent = []
        self.chip = IoApic(lambda *message: self.sent.append(message))
        self.bus = bus.memory()
        self.bus.add(BASE, self.chip.region)

    def read(self, register):
        self.bus.write(BASE, 4, register)
        return self.bus.read(BASE + 0x10, 4)

    def write(self, register, value):
        self.bus.write(BASE, 4, register)
        self.bus.write(BASE + 0x10, 4, value)

    def entry(self, pin, low, dest=0):
        self.write(0x11 + 2 * pin, dest << 24)
        self.write(0x10 + 2 * pin, low)


def test_registers():
    """48 inputs, version 11h; entries read back, remote IRR and delivery status cannot be written; the ID is four bits."""
    b = Board()
    assert b.read(1) == 0x2F0011 and b.read(0x10) == 0x10000 and b.read(0x10 + 2 * 47) == 0x10000 and b.read(0x10 + 2 * 48) == 0
    b.entry(3, 0xFFFFFFFF, 0xA5)
    assert b.read(0x16) == 0x1AFFF and b.read(0x17) == 0xA5000000
    b.write(0, 0xFF000000)
    assert b.read(0) == 0x0F000000
    b.bus.write(BASE, 1, 1)
    assert b.bus.read(BASE + 0x10, 4) == 0x2F0011, "IOREGSEL takes a byte"


def test_edges():
    """Each rise of an unmasked input is one message; a rise of a masked one is lost."""
    b = Board()
    b.entry(4, 0x34, 1)
    b.chip.set(4, True)
    b.chip.set(4, True)
    assert b.sent == [(1, 0x34, 0, False, False)]
    b.chip.set(4, False)
    b.entry(4, 0x10034, 1)
    b.chip.set(4, True)
    b.entry(4, 0x34, 1)
    assert len(b.sent) == 1


def test_levels_and_eoi():
    """A level is sent once, and again at EOI while it is high; unmasking sends what is high."""
    b = Board()
    b.chip.set(20, True)
    b.entry(20, 0xA841 & ~0x2000 | 0x8000, 3)
    assert b.sent == [(3, 0x41, 0, True, True)] and b.read(0x38) & 1 << 14
    b.chip.set(20, False)
    b.chip.set(20, True)
    assert len(b.sent) == 1
    b.chip.eoi(0x40)
    assert len(b.sent) == 1
    b.chip.eoi(0x41)
    assert len(b.sent) == 2
    b.chip.set(20, False)
    b.bus.write(BASE + 0x40, 4, 0x41)
    assert len(b.sent) == 2 and not b.read(0x38) & 1 << 14


def test_an_edge_entry_has_no_remote_irr():
    """Setting an entry to edge clears remote IRR, which is how systems end an interrupt by hand."""
    b = Board()
    b.entry(9, 0x8031)
    b.chip.set(9, True)
    b.entry(9, 0x10031)
    assert not b.read(0x22) & 1 << 14


def test_delivery_modes():
    """NMI and INIT are edges whatever the entry says; SMI, ExtINT and the reserved modes send nothing."""
    b = Board()
    for pin, mode in enumerate(range(8)):
        b.entry(pin, mode << 8 | 0x8050)
        b.chip.set(pin, True)
    assert b.sent == [(0, 0x50, 0, False, True), (0, 0x50, 1, False, True), (0, 0x50, 4, False, False), (0, 0x50, 5, False, False)]


def test_with_local_apics():
    """A level-triggered interrupt through a real local APIC: taken, EOI leaves run() and comes back while the line is high."""
    apics, memory, physmap = _core.ApicBus(), _core.Memory(32), _core.GuestPhysMap(32)
    physmap.set(0, range(32))
    cpu = _core.Vcpu(memory, physmap)
    cpu.exact = True
    cpu.attach_lapic(apics, 0)
    chip = IoApic(apics.send)
    chip.write(0, 4, 0x10 + 2 * 17)
    chip.write(0x10, 4, 0x8031)
    low = memory.view(0)
    low[4 * 0x31:4 * 0x31 + 4] = (0x500).to_bytes(4, "little")
    low[0x3F0:0x403] = bytes.fromhex("66c706f000ff010000").ljust(16, b"\x90") + bytes.fromhex("fbf4f4")     # SVR: on; sti; hlt; hlt
    low[0x500:0x50A] = bytes.fromhex("66c706b00000000000cf")                                                # EOI; iret
    cpu.set_segment("cs", 0, 0, 0xFFFFFFFF, 0x9B)
    cpu.set_segment("ss", 0, 0, 0xFFFFFFFF, 0x93)
    cpu.set_segment("ds", 0, 0xFEE00000, 0xFFFFFFFF, 0x93)
    cpu.rip, cpu.rsp = 0x3F0, 0x1000
    assert cpu.run(100) == _core.ExitReason.EXIT_HLT
    chip.set(17, True)
    taken = 0
    for _ in range(4):
        reason = cpu.run(50)
        if reason == _core.ExitReason.EXIT_EOI:
            taken += 1
            assert cpu.exit_nr == 0x31
            if taken == 2:
                chip.set(17, False)
            chip.eoi(cpu.exit_nr)
    assert taken == 2


def test_virtual_wire():
    """Input 0 as ExtINT says who gets the PICs' interrupts; masked, of another kind or with a logical destination it is nobody."""
    told = []
    apic = IoApic(lambda *message: None)
    apic.extint = told.append

    def entry(high, low):
        for number, value in ((0x11, high), (0x10, low)):
            apic.write(0x00, 4, number)
            apic.write(0x10, 4, value)

    entry(2 << 24, 0x700)
    assert told[-1] == 2
    state = apic.save()
    for low in (0x10700, 0x000, 0xF00):
        entry(2 << 24, low)
        assert told[-1] is None
    apic.load(state)
    assert told[-1] == 2
    apic.reset()
    assert told[-1] is None
    apic.write(0x00, 4, 0x12)
    apic.write(0x10, 4, 0x700)
    assert told[-1] is None


def test_random_accesses():
    """Whatever is written: no exception, and the state can be saved and loaded."""
    rng, b = random.Random(7), Board()
    for _ in range(20000):
        kind = rng.randrange(4)
        if kind == 0:
            b.chip.set(rng.randrange(48), rng.random() < .5)
        elif kind == 1:
            b.write(rng.randrange(0x80), rng.getrandbits(32) & ~(rng.getrandbits(1) << 16))
        elif kind == 2:
            offset, size = rng.randrange(0x1000), rng.choice([1, 2, 4, 8])
            b.bus.write(BASE + offset, size, rng.getrandbits(8 * size))
            assert 0 <= b.bus.read(BASE + offset, size) < 1 << 8 * size
        else:
            b.chip.eoi(rng.randrange(256))
    other = Board()
    other.chip.load(b.chip.save())
    assert other.chip.save() == b.chip.save()
