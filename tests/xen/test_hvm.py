"""Domains with a p2m: their vcpus run from the reset vector, meet their buses, sleep and wake, and end."""

import pytest

from tests.cpu.asm import assemble
from xenfast.abi import sched
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.sched import StopReason
from xenfast.xen.time import Clock, VirtualClock

DEBUG, BLOCK = 0x80, 0x1F0
CLOCKS = pytest.mark.parametrize("clock", [Clock, VirtualClock], ids=["real", "virtual"])


class Log:
    """A port that keeps what is written to it, with the vcpu that did."""

    def __init__(self, domain):
        self.domain, self.values = domain, []
        self.region = Region(4, self.read, self.write, name="log")

    def read(self, offset, size):
        return 0x5A

    def write(self, offset, size, value):
        self.values.append((self.domain.hvm.current.vcpu_id, value))


def machine(text, clock=VirtualClock, vcpus=1, pages=1024, kind="hvm"):
    """A domain whose BIOS, 64 KiB at F0000h and below 4 GiB, is this program with its entry at F000:0000."""
    hv = Hypervisor(16, clock=clock())
    domain = hv.create_domain("guest", kind=kind, vcpus=vcpus, max_pages=pages + 16)
    domain.hvm.populate_ram(pages)
    rom = assemble(text, 16, 0).ljust(0xFFF0, b"\xf4") + b"\xea\x00\x00\x00\xf0"
    domain.hvm.rom(0xF0000, rom)
    domain.hvm.alias(0xFFFF0000, 0xF0000, 0x10000)
    log = Log(domain)
    domain.hvm.ports.add(DEBUG, log.region)
    domain.start_hvm()
    return hv, domain, log


@CLOCKS
def test_boot_code_at_the_reset_vector_prints(clock):
    """F000:FFF0 is where vcpu 0 starts; OUT reaches the region at the port, and IN its answer; HLT with IF clear powers off."""
    hv, domain, log = machine("in al, 0x80\n out 0x80, al\n mov ax, 0x1234\n out 0x80, ax\n cli\n hlt", clock)
    with hv:
        assert hv.run(timeout=10) is StopReason.ENDED
        assert domain.shutdown_code == sched.SHUTDOWN_poweroff
        assert log.values == [(0, 0x5A), (0, 0x1234)]


TWO = """
    mov ax, cs
    cmp ax, 0x8000
    je second
    mov ax, 0x8000          # the trampoline: a far jump to the same ROM
    mov es, ax
    mov byte ptr es:[0], 0xEA
    mov word ptr es:[1], offset second
    mov word ptr es:[3], 0xF000
    push ds
    lgdt cs:[gdtr]          # unreal mode: a data segment with a limit of 4 GiB, for the local APIC
    mov eax, cr0
    or al, 1
    mov cr0, eax
    mov bx, 8
    mov ds, bx
    and al, 0xFE
    mov cr0, eax
    xor bx, bx
    mov ds, bx
    mov ebx, 0xFEE00000
    mov dword ptr [ebx + 0xF0], 0x1FF
    mov dword ptr [ebx + 0x310], 2 << 24
    mov dword ptr [ebx + 0x300], 0x4500      # INIT
    mov dword ptr [ebx + 0x300], 0x4680      # SIPI, vector 80h
wait:
    pause
    cmp byte ptr [0x500], 1
    jne wait
    mov al, 1
    out 0x80, al
    cli
    hlt
second:
    xor ax, ax
    mov ds, ax
    mov al, 2
    out 0x80, al
    mov byte ptr [0x500], 1
    cli
    hlt
gdtr:
    .word 15
    .long 0xF0000 + gdt
gdt:
    .quad 0, 0x00CF93000000FFFF
"""


@CLOCKS
def test_a_second_vcpu_starts_by_sipi(clock):
    """A vcpu waits for INIT and SIPI, then runs in real mode at the vector's page; the last one to halt ends the domain."""
    hv, domain, log = machine(TWO, clock, vcpus=2)
    with hv:
        assert not domain.vcpus[1].online
        assert hv.run(timeout=10) is StopReason.ENDED
        assert log.values == [(1, 2), (0, 1)]
        assert domain.shutdown_code == sched.SHUTDOWN_poweroff


def test_string_io_is_one_call():
    """REP INSW and OUTSW of a page's worth are one call of the region; one that crosses a page is two."""
    hv, domain, log = machine(
        "xor ax, ax\n mov es, ax\n mov ds, ax\n mov di, 0x1F00\n mov cx, 256\n mov dx, 0x1F0\n cld\n rep insw\n"
        "mov si, 0x2000\n mov cx, 4\n rep outsw\n mov ax, di\n out 0x80, ax\n mov ax, cx\n out 0x80, ax\n cli\n hlt"
    )
    calls = []

    def read_block(offset, size, count):
        calls.append(("in", size, count))
        return bytes(i & 0xFF for i in range(size * count))

    def write_block(offset, size, data):
        calls.append(("out", size, bytes(data)))

    with hv:
        region = Region(8, lambda o, s: 0, lambda o, s, v: None, read_block=read_block, write_block=write_block)
        domain.hvm.ports.add(BLOCK, region)
        hv.run(timeout=10)
        assert calls == [("in", 2, 128), ("in", 2, 128), ("out", 2, bytes(range(8)))]
        assert [value for _, value in log.values] == [0x2100, 0]
        assert domain.hvm.physmem.read(0x1F00, 512) == bytes(range(256)) * 2


def test_memory_mapped_registers():
    """MOVS from one device to another, read-modify-write and a wide read make each access once, in order."""
    hv, domain, log = machine("""
        mov ax, 0xA000
        mov ds, ax
        mov es, ax
        mov si, 0
        mov di, 0x100
        mov cx, 3
        cld
        rep movsb
        add word ptr [0x10], 5
        movups xmm0, [0x20]
        cli
        hlt""".replace("movups", "mov eax, cr4\n or ax, 0x200\n mov cr4, eax\n mov eax, cr0\n and al, 0xFB\n mov cr0, eax\n movups"))
    seen = []

    def read(offset, size):
        seen.append(("r", offset, size))
        return offset + 1

    with hv:
        domain.hvm.mmio.add(0xA0000, Region(0x10000, read, lambda o, s, v: seen.append(("w", o, s, v)), width=8))
        assert hv.run(timeout=10) is StopReason.ENDED
    copies = [x for i in range(3) for x in (("r", i, 1), ("w", 0x100 + i, 1, i + 1))]
    assert seen == [*copies, ("r", 0x10, 2), ("w", 0x10, 2, 0x16), ("r", 0x20, 8), ("r", 0x28, 8)]


@CLOCKS
def test_a_map_that_changes_while_a_vcpu_runs(clock):
    """A BAR's memory that moves is gone at its old place at once, also from the TLB, and found at the new one."""
    hv, domain, log = machine("""
        mov ax, 0x3000
        mov ds, ax
        mov al, [0]
        out 0x80, al
        out 0x81, al
        mov al, [0]
        out 0x80, al
        cli
        hlt""", clock)
    with hv:
        other = domain.alloc_pages(1)
        hv.memory.view(int(other[0]))[:] = b"\x77" * 4096
        domain.hvm.physmem.write(0x30000, b"\x11")
        write = log.write

        def swap(offset, size, value):
            if offset == 1:
                domain.hvm.place(0x30, other)
            else:
                write(offset, size, value)

        log.region.write = swap
        hv.run(timeout=10)
        assert [value for _, value in log.values] == [0x11, 0x77]


def test_a_rom_is_not_written():
    """Stores into a ROM get lost, those of DMA as well; the firmware may write its own."""
    hv, domain, log = machine("mov ax, 0xF000\n mov ds, ax\n mov byte ptr [0x1000], 7\n mov al, [0x1000]\n out 0x80, al\n cli\n hlt")
    with hv:
        domain.hvm.physmem.write(0xF1001, b"x")
        for view in domain.hvm.physmem.views(0xF1002, 2):
            view[:] = b"yy"
        domain.hvm.physmem.write(0xF1004, b"z", rom=True)
        hv.run(timeout=10)
        assert log.values == [(0, 0xF4)]
        assert domain.hvm.physmem.read(0xF1000, 5) == b"\xf4" * 4 + b"z"


def test_a_triple_fault_is_a_reset():
    """A shutdown of the processor ends the domain with the reason in HVM_PARAM_TRIPLE_FAULT_REASON, at first a reboot."""
    hv, domain, log = machine("lidt cs:[nothing]\n int3\n nothing: .quad 0")
    with hv:
        assert hv.run(timeout=10) is StopReason.ENDED
        assert domain.shutdown_code == sched.SHUTDOWN_reboot


@pytest.mark.parametrize("wire", [0, 1])
def test_the_pics_interrupts_go_where_the_io_apic_sends_them(wire):
    """ExtINT by the I/O APIC gets to its vcpu although LINT0 is masked, also after INIT; not to one whose APIC is off by SVR."""
    hv, domain, _ = machine("hlt", vcpus=2)
    with hv:
        for vcpu in domain.vcpus:
            vcpu.core.set_lapic_register(0x0F, 0x1FF)
        core = domain.vcpus[wire].core
        assert not core.takes_extint and not core.extint
        core.extint = True
        assert core.takes_extint and not domain.vcpus[1 - wire].core.takes_extint
        core.set_lapic_register(0x0F, 0xFF)
        assert core.extint and not core.takes_extint
        core.init()
        core.set_lapic_register(0x0F, 0x1FF)
        assert core.takes_extint


def test_an_upcall_that_init_has_wiped_out_comes_again():
    """An event for a vcpu before INIT: the vector is gone from IRR, the flag stays; when software turns the APIC on, it is there."""
    hv, domain, _ = machine("hlt", vcpus=2)
    with hv:
        vcpu = domain.vcpus[1]
        core = vcpu.core
        core.set_lapic_register(0x0F, 0x1FF)
        core.upcall_vector = 0xF3
        vcpu.mark_events_pending()
        assert core.lapic_register(0x27) == 1 << 0x13
        core.init()
        assert core.lapic_register(0x27) == 0 and vcpu.info_view[0] == 1
        core.set_lapic_register(0x0F, 0x1FF)
        assert core.lapic_register(0x27) == 1 << 0x13


@CLOCKS
def test_hlt_sleeps_until_a_device_interrupts(clock):
    """INTR raised by a timer of a device ends HLT; the PIC's hook says the vector, whose handler runs."""
    hv, domain, log = machine("""
        xor ax, ax
        mov ds, ax
        mov word ptr [0x20 * 4], offset handler
        mov word ptr [0x20 * 4 + 2], 0xF000
        out 0x81, al
        sti
        hlt
        mov al, 2
        out 0x80, al
        cli
        hlt
    handler:
        mov al, 1
        out 0x80, al
        iret""", clock)
    hvm = domain.hvm

    def intack(vcpu):
        hvm.intr(False)
        return 0x20

    def write(offset, size, value):
        if offset == 1:
            hvm.timers.call_later(3_000_000, hvm.intr, True)
        else:
            log.values.append(value)

    with hv:
        core = domain.vcpus[0].core
        core.set_lapic_register(0x0F, 0x1FF)
        core.set_lapic_register(0x35, 0x700)        # LINT0 is INTR, as firmware sets it up
        log.region.write, hvm.intack = write, intack
        assert hv.run(timeout=10) is StopReason.ENDED
        assert log.values == [1, 2]


def test_unknown_ports_and_addresses_are_logged_once(caplog):
    """They read as ones; a guest cannot fill the log with them."""
    caplog.set_level("INFO", "xenfast")
    hv, domain, log = machine("mov dx, 0x333\n mov cx, 5\n l: in al, dx\n loop l\n out 0x80, al\n cli\n hlt")
    with hv:
        hv.run(timeout=10)
        assert log.values == [(0, 0xFF)]
    assert sum("0x333" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("kind", ["hvm", "pvh"])
def test_cpuid_shows_xen(kind):
    """Leaves 40000000h and up: the signature, the version, the MSR of the hypercall page, vcpu and domain numbers."""
    hv, domain, log = machine("hlt", vcpus=2, kind=kind)
    with hv:
        core = domain.vcpus[1].core
        a, *name = core.cpuid(0x40000000)
        assert a >= 0x40000004 and b"".join(x.to_bytes(4, "little") for x in name) == b"XenVMMXenVMM"
        assert core.cpuid(0x40000001)[0] == 4 << 16 | 17
        assert core.cpuid(0x40000002)[:2] == (1, 0x40000000)
        a, vcpu, domid, _ = core.cpuid(0x40000004)
        assert a & 24 == 24 and (vcpu, domid) == (1, domain.domid)
        assert core.apic_id == 2 and core.cpuid(1)[2] >> 31
