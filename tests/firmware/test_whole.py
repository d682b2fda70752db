"""The BIOS on the real chips: keys, ticks, clock, mouse, A20, resets, print screen, several processors."""

import pytest

from tests.cpu.asm import assemble
from tests.firmware.machine import KEYS, Machine
from xenfast.abi import sched

SAY = """
say: lodsb; test al, al; jz 9f; mov ah, 0x0E; mov bx, 7; int 0x10; jmp say
9: ret
hex: mov cx, 4                      # AX as four digits
1: rol ax, 4; push ax; and al, 15; cmp al, 10; sbb al, 0x69; das; mov ah, 0x0E; int 0x10; pop ax; loop 1b
   mov ax, 0x0E20; int 0x10; ret
"""


def boot(text, **more):
    """A machine whose disk runs this program at 0:7C00 with a stack; ``say`` and ``hex`` write."""
    start = "xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax; mov sp, 0x7C00; sti; xor bx, bx"
    code = assemble(f"{start}\n{text}\nstop: sti; hlt; jmp stop\n{SAY}", 16, 0x7C00)
    assert len(code) <= 510
    return Machine(16, disks=[(code.ljust(510, b"\0") + b"\x55\xAA").ljust(1 << 20, b"\0")], boot="c", **more)


def test_keys_come_through_the_controller():
    """Key, controller, IRQ 1, INT 09h, INT 16h: characters on the screen."""
    with boot("1: xor ax, ax; int 0x16; mov ah, 0x0E; mov bx, 7; int 0x10; jmp 1b") as machine:
        machine.run(lambda: "Booting" in machine.screen)
        machine.type("h", "e", "y")
        machine.wait("hey")


def test_ticks_are_55_ms():
    """18.2 interrupts a second, by IRQ 0."""
    program = "mov ah, 0; int 0x1A; mov bp, dx; 1: hlt; mov ah, 0; int 0x1A; sub dx, bp; cmp dx, 5; jb 1b; mov ax, dx; call hex"
    with boot(program) as machine:
        machine.run(lambda: "Booting" in machine.screen)
        start = machine.hv.clock.now()
        machine.wait("0005")
        assert 200e6 < machine.hv.clock.now() - start < 340e6


def test_time_of_day_and_sizes():
    """INT 1Ah by the real-time clock, INT 15h by the memory map that ACPI agrees with."""
    with boot("mov ah, 4; int 0x1A; mov ax, cx; call hex; mov ah, 0x88; int 0x15; call hex; mov ax, 0xE801; int 0x15; call hex") as machine:
        seen = machine.wait("3C00 3C00")
        assert "\n20" in seen


def test_waiting():
    """15h/86h takes as long as it is asked to: 100 ms here."""
    program = 'mov ax, 0x8600; mov cx, 1; mov dx, 0x86A0; int 0x15; mov si, offset done; call say; jmp stop; done: .asciz "waited"'
    with boot(program) as machine:
        machine.run(lambda: "Booting" in machine.screen)
        start = machine.hv.clock.now()
        machine.wait("waited")
        assert 99e6 < machine.hv.clock.now() - start < 180e6


def test_a20():
    """The gate is on after power-on and shows what it is told; it masks nothing, as on processors since Haswell."""
    with boot("""
        mov ax, 0xFFFF; mov es, ax; mov word ptr [0x500], 0x1111; mov word ptr es:[0x510], 0x2222; mov ax, [0x500]; call hex
        mov ax, 0x2402; int 0x15; call hex
        mov ax, 0x2400; int 0x15; mov ax, 0x2402; int 0x15; call hex
        mov ax, 0x2401; int 0x15; mov ax, es:[0x510]; call hex
    """) as machine:
        machine.wait("1111 0001 0000 2222")


def test_ctrl_alt_del():
    """The machine starts again."""
    with boot("") as machine:
        machine.run(lambda: "Booting" in machine.screen)
        for key in (0x1D, 0x38, 0x53):
            machine.pc.ps2.keyboard.key(key, True)
        assert str(machine.run(None, 10)) == "ended"
        assert machine.domain.shutdown_code == sched.SHUTDOWN_reboot


@pytest.mark.parametrize("how", ["mov al, 0xFE; out 0x64, al", "in al, 0x92; or al, 1; out 0x92, al"])
def test_back_from_protected_mode_as_an_80286_does(how):
    """CMOS shutdown code 0Ah and a reset of the processor: on at 40:67h, memory as it was."""
    with boot(f"""
        mov al, 0x0F; out 0x70, al; mov al, 0x0A; out 0x71, al
        mov word ptr [0x467], offset back; mov word ptr [0x469], 0
        cli; {how}
        1: jmp 1b
        back: mov ax, 0; mov ss, ax; mov sp, 0x7C00; mov ds, ax; mov si, offset text; call say; jmp stop
        text: .asciz "back again"
    """) as machine:
        machine.wait("back again")


def test_the_mouse():
    """15h/C2h with the PS/2 mouse: a program's handler gets its movement."""
    with boot("""
        mov ax, 0xC205; mov bh, 3; int 0x15; jc stop
        mov ax, 0xC207; mov bx, offset handler; int 0x15; jc stop
        mov ax, 0xC200; mov bh, 1; int 0x15; jc stop
        mov si, offset text; call say
        jmp stop
        handler: push bp; mov bp, sp; pusha; mov ax, [bp + 10]; call hex; mov ax, [bp + 8]; call hex; popa; pop bp; retf
        text: .asciz "ready "
    """) as machine:
        machine.wait("ready")
        with machine.hv.lock:
            machine.pc.ps2.mouse.move(5, -3)
        seen = machine.wait("0005")
        assert "0005 0003" in seen or "0005 00FD" in seen


def test_print_screen():
    """The PrtSc key: the screen goes to the first printer, line by line, and the cursor stays where it was."""
    with boot("mov si, offset text; call say; jmp stop; text: .asciz \"to be printed\"") as machine:
        machine.wait("to be printed")
        machine.pc.ps2.keyboard.key(0xB7, True)
        machine.pc.ps2.keyboard.key(0xB7, False)
        machine.run(lambda: machine.printed.count(b"\n") >= 25, 20)
        lines = machine.printed.decode("cp437").split("\r\n")
        assert [line.rstrip() for line in lines[:25]] == machine.screen.split("\n") and lines[0].startswith("xenfast BIOS")
        machine.run(lambda: machine.bios.hvm.physmem.read(0x500, 1) == b"\0", 5)
        assert machine.bios.hvm.physmem.read(0x500, 1) == b"\0"


def test_two_processors():
    """The other processor waits for SIPI; the boot screen counts both."""
    with boot("mov si, offset text; call say; jmp stop; text: .asciz \"runs\"", vcpus=2) as machine:
        assert "16 MiB of memory, 2 processors" in machine.wait("runs")


def test_keys_of_the_table_exist():
    """The harness types what it says."""
    assert KEYS["a"] == 0x1E and KEYS["z"] == 0x2C
