"""The PC: boot code of ours finds its chips at their places and gets their interrupts; PCI as it should be; state and reset."""

import random
import types

import pytest

from tests.cpu.asm import assemble
from tests.firmware.pc import Memory
from xenfast.abi import sched
from xenfast.devices.drive import Drive
from xenfast.devices.machine import PC
from xenfast.xen.hypervisor import Hypervisor, StopReason
from xenfast.xen.time import Clock, VirtualClock


def config(**changes):
    keys = {"hpet": 1, "xen_platform_pci": 1, "timer_mode": "no_delay_for_missed_ticks", "localtime": 0, "rtc_timeoffset": 0, "vcpus": 1,
            "vga": "none", "videoram": 0}
    return types.SimpleNamespace(**keys | changes)


def machine(text="cli\n hlt", clock=VirtualClock, pages=1024, ide=(), floppies=(), **changes):
    """A PC whose BIOS at F0000h is this program; what it writes to COM1 and E9h is in ``out``."""
    hv = Hypervisor(40, clock=clock())
    domain = hv.create_domain("guest", kind="hvm", max_pages=pages + 64)
    domain.hvm.populate_ram(pages)
    domain.hvm.rom(0xF0000, assemble(text, 16, 0).ljust(0xFFF0, b"\xf4") + b"\xea\x00\x00\x00\xf0")
    domain.hvm.alias(0xFFFF0000, 0xF0000, 0x10000)
    out = bytearray()
    pc = PC(domain, config(**changes), serial=[lambda data: hv.loop.call_soon(out.extend, data)], debug=out.extend, ide=ide,
            floppies=floppies)
    pc.out = out
    domain.start_hvm()
    return hv, domain, pc


INIT_PICS = """
    cli
    mov ecx, 0x1B                           # no local APIC: INTR is the PICs'
    rdmsr
    and ah, 0xF7
    wrmsr
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7000
    mov al, 0x11
    out 0x20, al
    out 0xA0, al
    mov al, 0x20
    out 0x21, al
    mov al, 0x28
    out 0xA1, al
    mov al, 4
    out 0x21, al
    mov al, 2
    out 0xA1, al
    mov al, 1
    out 0x21, al
    out 0xA1, al
"""

TICKS = INIT_PICS + """
    mov word ptr [0x80], offset tick        # IRQ 0
    mov word ptr [0x82], 0xF000
    mov word ptr [0xA0], offset clock       # IRQ 8
    mov word ptr [0xA2], 0xF000
    mov al, 0xFA
    out 0x21, al
    mov al, 0xFE
    out 0xA1, al
    mov al, 0x34                            # PIT: 1 kHz
    out 0x43, al
    mov ax, 1193
    out 0x40, al
    mov al, ah
    out 0x40, al
    mov al, 0x0B                            # RTC: 64 Hz
    out 0x70, al
    mov al, 0x42
    out 0x71, al
    mov al, 0x0A
    out 0x70, al
    mov al, 0x2A
    out 0x71, al
    xor bx, bx
    xor cx, cx
    sti
wait:
    hlt
    cmp bx, 100
    jb wait
    mov al, cl                              # how many of the RTC
    out 0xE9, al
    cli
    hlt
tick:
    inc bx
    mov al, 0x20
    out 0x20, al
    iret
clock:
    inc cx
    mov al, 0x0C
    out 0x70, al
    in al, 0x71
    mov al, 0x20
    out 0xA0, al
    out 0x20, al
    iret
"""


@pytest.mark.parametrize("clock", [VirtualClock, Clock])
def test_ticks_of_pit_and_rtc(clock):
    """100 ticks of a PIT at 1 kHz take 100 ms, in which an RTC at 64 Hz ticks six times; HLT sleeps in between."""
    hv, domain, pc = machine(TICKS, clock)
    with hv:
        start = hv.clock.now()
        assert hv.run(timeout=20) is StopReason.ENDED
        assert domain.shutdown_code == sched.SHUTDOWN_poweroff
        assert pc.out and pc.out[0] >= 5            # a busy host takes longer
        assert hv.clock.now() - start >= 98_000_000
        if clock is VirtualClock:
            assert pc.out[0] <= 7
            assert hv.clock.now() - start < 103_000_000 and domain.instructions < 10_000


ECHO = INIT_PICS + """
    mov word ptr [0x90], offset got         # IRQ 4
    mov word ptr [0x92], 0xF000
    mov al, 0xEF
    out 0x21, al
    mov dx, 0x3FC
    mov al, 8
    out dx, al
    mov dx, 0x3F9
    mov al, 1
    out dx, al
    sti
wait:
    hlt
    jmp wait
got:
    mov dx, 0x3F8
    in al, dx
    inc al
    out dx, al
    mov al, 0x20
    out 0x20, al
    cmp byte ptr [0x500], 0
    iret
"""


def test_com1_in_and_out():
    """Characters from outside interrupt the guest, which answers each."""
    hv, domain, pc = machine(ECHO, Clock)
    with hv:
        hv.run(timeout=.05)
        domain.hvm.timers.call_soon(pc.serial[0].receive, b"HAL")
        hv.run(until=lambda: len(pc.out) == 3, timeout=10)
        assert pc.out == b"IBM"


def test_the_power_goes_off():
    """SLP_EN at PM1a_CNT, where the firmware has put it, ends the domain."""
    text = """
        mov dx, 0xCF8
        mov eax, 0x80000B40
        out dx, eax
        mov dx, 0xCFC
        mov eax, 0xB001
        out dx, eax
        mov dx, 0xCF8
        mov eax, 0x80000B80
        out dx, eax
        mov dx, 0xCFC
        mov al, 1
        out dx, al
        mov dx, 0xB004
        mov ax, 0x2000
        out dx, ax
    1:  jmp 1b
    """
    hv, domain, pc = machine(text)
    with hv:
        assert hv.run(timeout=10) is StopReason.ENDED and domain.shutdown_code == sched.SHUTDOWN_poweroff


@pytest.mark.parametrize("text", ["mov dx, 0xCF9\n mov al, 6\n out dx, al\n 1: jmp 1b", "mov al, 1\n out 0x92, al\n 1: jmp 1b"])
def test_resets(text):
    """The reset control register and port 92h restart the machine."""
    hv, domain, _pc = machine(text)
    with hv:
        assert hv.run(timeout=10) is StopReason.ENDED and domain.shutdown_code == sched.SHUTDOWN_reboot


def test_a_reset_of_the_processor_only():
    """With a shutdown code in the CMOS, port 92h brings the processor back to the reset vector and memory stays."""
    text = """
        xor ax, ax
        mov ds, ax
        cmp byte ptr [0x600], 7
        je again
        mov byte ptr [0x600], 7
        mov al, 0x0F
        out 0x70, al
        mov al, 5
        out 0x71, al
        mov al, 1
        out 0x92, al
    1:  jmp 1b
    again:
        mov al, 0x61
        out 0xE9, al
        cli
        hlt
    """
    hv, domain, pc = machine(text)
    with hv:
        assert hv.run(timeout=10) is StopReason.ENDED and pc.out == b"a"


def test_shadow_ram():
    """PAM: a BIOS copies itself from ROM to RAM behind it, changes it there and protects it."""
    text = """
    pam = 0x80000058
        mov dx, 0xCF8
        mov eax, pam
        out dx, eax
        mov ax, 0xF000
        mov ds, ax
        mov dx, 0xCFD
        mov al, 0x20                    # F0000h: read ROM, write RAM
        out dx, al
        xor si, si
        mov cx, 0x8000
    1:  mov ax, [si]
        mov [si], ax
        add si, 2
        loop 1b
        mov al, 0x30                    # read RAM, write RAM
        out dx, al
        mov byte ptr [0x8000], 0x5A
        mov al, 0x10                    # read RAM only
        out dx, al
        mov byte ptr [0x8000], 0
        mov al, [0x8000]
        out 0xE9, al
        mov al, 0                       # the ROM again
        out dx, al
        mov al, [0x8000]
        out 0xE9, al
        mov dx, 0xCFE
        mov al, 0                       # no change for C0000h
        out dx, al
        cli
        hlt
    """
    hv, domain, pc = machine(text)
    with hv:
        assert hv.run(timeout=10) is StopReason.ENDED and pc.out == b"\x5a\xf4"


def test_the_functions_on_the_bus():
    """The functions of a PC are where they are on Xen's, with their class codes."""
    hv, domain, pc = machine()
    with hv:
        found = {(key >> 3, key & 7): (d.get(0, 2), d.get(2, 2), d.get(9, 3)) for key, d in pc.pci.functions.items()}
        assert found == {(0, 0): (0x8086, 0x1237, 0x060000), (1, 0): (0x8086, 0x7000, 0x060100), (1, 1): (0x8086, 0x7010, 0x010180),
                         (1, 3): (0x8086, 0x7113, 0x068000), (3, 0): (0x5853, 0x0001, 0xFF8000)}
        assert pc.pci.config_read(1, 0, 0x0E, 1) == 0x80


def test_state_and_reset():
    """save() is plain data that another machine of the same kind can load; reset() brings everything back."""
    hv, domain, pc = machine()
    other, _, copy = machine()
    with hv, other:
        first = pc.save()
        for port, value in ((0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x43, 0x36), (0x40, 0), (0x40, 0), (0x3F9, 1), (0x3FC, 8)):
            domain.hvm.ports.write(port, 1, value)
        pc.serial[0].receive(b"a")
        state = pc.save()
        copy.load(state)
        again = copy.save()
        assert again["pics"] == state["pics"] and again["serial0"] == state["serial0"] and again["ioapic"] == state["ioapic"]
        assert copy.pics.pending and copy.isa[4].out.level
        pc.reset()
        for name in ("pics", "ioapic", "serial0", "board", "dma", "parallel", "pci"):
            assert pc.save()[name] == first[name], name


def test_a_machine_that_is_gone_is_quiet():
    """Once its domain is destroyed no timer of its chips is heard of."""
    hv, domain, pc = machine(TICKS, Clock)
    with hv:
        hv.run(timeout=.05)
        assert pc.pit.ticks.running
        calls = []
        pc.timers.call_soon(calls.append, 1)
        domain.destroy()
        pc.timers.call_soon(calls.append, 2)
        pc.timers.call_later(0, calls.append, 3)
        hv.loop.run_ready()
        assert calls == []


def test_the_callback_by_number():
    """hvm.gsi() drives inputs by number: below 16 both controllers, above the I/O APIC."""
    hv, domain, pc = machine()
    with hv:
        domain.hvm.gsi(5, True)
        domain.hvm.gsi(28, True)
        assert pc.pics.master.pins == 1 << 5 and pc.ioapic.pins == 1 << 5 | 1 << 28
        domain.hvm.gsi(5, False)
        domain.hvm.gsi(28, False)
        domain.hvm.gsi(99, True)
        assert not pc.ioapic.pins


class Fuzz:
    """A PC with drives of every kind and a screen, and what a malicious guest may do to it."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.hv, domain, self.pc = machine(
            vga="stdvga", pages=512, floppies=[Drive(Memory(bytearray(1474560)))],
            ide=[Drive(Memory(bytearray(1 << 20))), None, Drive(Memory(bytearray(1 << 20)), cdrom=True), Drive(cdrom=True)])
        self.hvm = domain.hvm
        self.ports = sorted({port for port in range(0x10000) if self.hvm.ports.find(port) is not None})
        self.functions = list(self.pc.pci.functions)

    def value(self, size):
        return self.rng.choice([self.rng.getrandbits(8 * size), self.rng.getrandbits(3), 0, (1 << 8 * size) - 1])

    def step(self):
        rng, size = self.rng, self.rng.choice([1, 1, 2, 4])
        kind = rng.randrange(12)
        if kind < 6:
            port = rng.choice(self.ports) if rng.random() < .95 else rng.randrange(0x10000)
            self.hvm.ports.write(port, size, self.value(size))
        elif kind < 8:
            assert 0 <= self.hvm.ports.read(rng.choice(self.ports), size) < 1 << 8 * size
        elif kind == 8:
            bars = [bar.address for device in self.pc.pci.functions.values() for bar in device.bars if bar.address and not bar.flags & 1]
            address = rng.choice([0xFEC00000, 0xFED00000, 0xA0000 + rng.randrange(0x20000), 0xC0000, *bars]) + rng.randrange(0x400)
            if rng.random() < .5:
                self.hvm.mmio.write(address, size, self.value(size))
            else:
                assert 0 <= self.hvm.mmio.read(address, size) < 1 << 8 * size
        elif kind == 9:
            key = rng.choice(self.functions)
            self.pc.pci.config_write(key >> 3, key & 7, rng.randrange(256), size, self.value(size))
        elif kind == 10 and rng.random() < .02:
            self.hv.clock.advance_to(self.hv.clock.now() + rng.randrange(10**8))
            self.hv.loop.run_ready()
        elif kind == 11:
            self.hvm.ports.read_block(rng.choice([0x1F0, 0x170]), 2, rng.randrange(1, 300))
            self.hvm.ports.write_block(rng.choice([0x1F0, 0x170, 0x3F8]), 2, bytes(2 * rng.randrange(1, 64)))


@pytest.mark.parametrize(("seed", "count"), [(1, 12_000), (2, 12_000), pytest.param(3, 1_000_000, marks=pytest.mark.slow)])
def test_random_accesses(seed, count):
    """Whatever a guest does to ports, registers in memory and configuration space of all devices together: no exception, nothing that
    takes long, and the state can be saved and loaded.
    """
    fuzz = Fuzz(seed)
    with fuzz.hv:
        for n in range(count):
            fuzz.step()
            if n % 50_000 == 6_000:
                fuzz.pc.load(fuzz.pc.save())
        assert fuzz.hv.loop.failures == 0
