"""Power-on, boot order, boot menu, boot sectors."""

import pytest

from tests.cpu.asm import assemble
from tests.firmware.pc import BiosPc, disk
from xenfast.firmware.drives import CDROM, FLOPPY
from xenfast.machine import Reason

HELLO = """
    mov si, offset text
1:  lodsb
    test al, al
    jz 2f
    mov ah, 0x0E
    int 0x10
    jmp 1b
2:  cli
    hlt
text: .asciz "Hello"
"""


def boot_sector(text):
    return assemble(text, 16, 0x7C00).ljust(510, b"\0") + b"\x55\xAA"


def test_a_boot_sector_runs_within_a_few_hundred_instructions():
    """From the reset vector to the boot sector, with DL and the PnP pointer as the specifications want them."""
    pc = BiosPc(disks=[disk(boot_sector(HELLO) + bytes(1 << 20))])
    assert pc.power_on() == Reason.HLT
    assert pc.screen.text.endswith("Booting from Hard disk...\r\nHello")
    assert pc.cpu.rdx & 0xFF == 0x80
    es, di = pc.cpu.segment("es")[0], pc.cpu.rdi & 0xFFFF
    assert pc.mem.read((es << 4) + di, 4) == b"$PnP"
    assert pc.cpu.instructions < 5000


def test_the_boot_screen_says_what_there_is():
    """Product, memory, drives."""
    pc = BiosPc(disks=[disk(boot_sector(HELLO) + bytes(8 << 20))], floppies=[disk(bytes(1440 << 10), FLOPPY)], boot="c")
    pc.power_on()
    lines = pc.screen.text.splitlines()
    assert lines[0] == "xenfast BIOS" and lines[1] == "4 MiB of memory, 1 processor"
    assert "Diskette 0: 1440 KiB" in lines and "Hard disk 0: 8 MiB" in lines


@pytest.mark.parametrize(("order", "first"), [("ac", "Diskette"), ("ca", "Hard disk"), ("dca", "CD-ROM")])
def test_the_boot_order(order, first):
    """What comes first in boot= is tried first, and what does not boot is left for the next."""
    pc = BiosPc(disks=[disk(boot_sector(HELLO) + bytes(1 << 20))], floppies=[disk(boot_sector(HELLO).ljust(1440 << 10), FLOPPY)],
                cdroms=[disk(bytes(1 << 20), CDROM)], boot=order)
    pc.power_on()
    tried = [line for line in pc.screen.text.splitlines() if line.startswith("Booting")]
    assert tried[0] == f"Booting from {first}..."
    assert pc.screen.text.endswith("Hello")
    if order[0] == "d":
        assert "CD-ROM: not bootable: not a bootable disc" in pc.screen.text


def test_a_boot_sector_that_gives_up():
    """INT 18h: the next device is tried; INT 19h: the first one again."""
    pc = BiosPc(floppies=[disk(boot_sector("int 0x18").ljust(1440 << 10), FLOPPY)], disks=[disk(boot_sector(HELLO) + bytes(1 << 20))],
                boot="ac")
    pc.power_on()
    assert pc.screen.text.endswith("Hello")
    again = "cmp byte ptr [0x500], 1\n je 1f\n mov byte ptr [0x500], 1\n int 0x19\n1: cli\n hlt"
    pc = BiosPc(disks=[disk(boot_sector(again) + bytes(1 << 20))], boot="c")
    assert pc.power_on() == Reason.HLT
    assert pc.screen.text.count("Booting from Hard disk") == 2


def test_nothing_to_boot():
    """It says so, and tries again after a key or a minute."""
    pc = BiosPc(boot="cda")
    pc.power_on(budget=60_000)
    assert "No bootable device. Press a key to try again." in pc.screen.text
    drive = disk(boot_sector(HELLO) + bytes(1 << 20))
    pc.bios.drives.of["disk"].append(drive)
    assert pc.run(budget=1_000_000) == Reason.HLT
    assert pc.screen.text.endswith("Hello")


def test_a_disk_without_a_boot_sector():
    """No signature, no boot; a diskette needs none, but code."""
    pc = BiosPc(disks=[disk(bytes(1 << 20))], floppies=[disk(bytes(1440 << 10), FLOPPY)], boot="ca")
    pc.power_on(budget=20_000)
    assert "Hard disk: not bootable: it has no boot sector" in pc.screen.text
    assert "Diskette: not bootable: it has no boot sector" in pc.screen.text
    pc = BiosPc(floppies=[disk(boot_sector(HELLO)[:510].ljust(1440 << 10, b"\0"), FLOPPY)], boot="a")
    pc.power_on()
    assert pc.screen.text.endswith("Hello")


def test_the_second_disk():
    """The first disk that boots is 80h, whichever it was."""
    second = disk(boot_sector(HELLO) + bytes(2 << 20))
    pc = BiosPc(disks=[disk(bytes(1 << 20)), second], boot="c")
    pc.power_on()
    assert "Hard disk: not bootable" in pc.screen.text and "Booting from Hard disk 1...\r\nHello" in pc.screen.text
    assert pc.bios.drives.get(0x80) is second


def test_the_boot_menu():
    """Esc brings a list of everything; a digit boots it as the first of its kind."""
    second = disk(boot_sector(HELLO.replace("Hello", "second")) + bytes(2 << 20))
    pc = BiosPc(disks=[disk(boot_sector(HELLO) + bytes(1 << 20)), second], menu_seconds=2)
    keys = [0x01, 0x03]         # Esc, 2

    def on_halt(pc):
        if keys and "Press F12" in pc.screen.text and (len(keys) == 2 or "Choose" in pc.screen.text):
            call = type("Call", (), {"mem": pc.mem})
            pc.bios.keyboard.store(call, {0x01: 0x011B, 0x03: 0x0332}[keys.pop(0)])
        return pc.tick()

    pc.on_halt = on_halt
    assert pc.power_on() == Reason.HLT
    assert "  1. Hard disk (1024 KiB)\r\n  2. Hard disk 1 (2048 KiB)" in pc.screen.text
    assert pc.screen.text.endswith("second")
    assert pc.bios.drives.get(0x80) is second


def option_rom(text, head=""):
    code = assemble(f".byte 0x55, 0xAA, 4\n jmp init\n .org 0x1A\n .word pnp\n {head}\n init:\n {text}\n retf\n", 16)
    rom = bytearray(code.ljust(2048, b"\0"))
    rom[-1] = -sum(rom) & 0xFF
    return bytes(rom)


BEV = """
    pnp: .ascii "$PnP"; .byte 1, 2; .word 0; .byte 0, 0; .long 0; .word 0, name; .byte 0, 0, 0; .byte 0; .word 0, 0, bev, 0, 0
    name: .asciz "Our network card"
    bev: push cs; pop ds; mov ax, 0x0E4E; int 0x10; retf
"""


def test_option_roms_are_run_and_boot_the_network():
    """A ROM is initialised with its card's address in AX; its bootstrap entry is "n" in the boot order."""
    from xenfast.firmware.bios import OptionRom

    rom = option_rom("mov [0x500], ax; mov [0x502], es; mov [0x504], di", BEV)
    pc = BiosPc(option_roms=[OptionRom(rom, 0x0018, "net")], disks=[disk(boot_sector(HELLO) + bytes(1 << 20))], boot="nc")
    pc.power_on()
    assert pc.mem.read_int(0x500, 2) == 0x0018
    assert pc.mem.read((pc.mem.read_int(0x502, 2) << 4) + pc.mem.read_int(0x504, 2), 4) == b"$PnP"
    assert "Booting from Our network card...\r\nN" in pc.screen.text
    assert pc.screen.text.endswith("Hello")


def test_damaged_option_roms_are_left_alone():
    """A wrong sum, a length beyond the area: nothing is called."""
    from xenfast.firmware.bios import OptionRom

    bad = bytearray(option_rom("mov word ptr [0x500], 1", BEV))
    bad[-1] ^= 1
    roms = [OptionRom(bytes(bad)), OptionRom(b"\x55\xAA\xFF" + bytes(100)), OptionRom(b""), OptionRom(b"\x55\xAA\xFF".ljust(130560, b"\0"))]
    pc = BiosPc(option_roms=roms * 2, disks=[disk(boot_sector(HELLO) + bytes(1 << 20))])
    pc.power_on()
    assert pc.mem.read_int(0x500, 2) == 0 and pc.screen.text.endswith("Hello")


def test_fixed_places():
    """What programs look for at fixed addresses of the ROM."""
    pc = BiosPc()
    pc.power_on(budget=100)
    assert pc.mem.read(0xFFFF0, 5) == b"\xEA\x5B\xE0\x00\xF0"
    assert pc.mem.read(0xFFFF5, 8) == b"11/24/26" and pc.mem.read(0xFFFFE, 1) == b"\xFC"
    assert pc.mem.read(0xFFF53, 1) == b"\xCF"
    for vector, offset in {0x08: 0xFEA5, 0x09: 0xE987, 0x10: 0xF065, 0x13: 0xE3FE, 0x14: 0xE739, 0x15: 0xF859, 0x16: 0xE82E, 0x17: 0xEFD2,
                           0x19: 0xE6F2, 0x1A: 0xFE6E, 0x1E: 0xEFC7, 0x40: 0xEC59}.items():
        if vector != 0x10:
            assert pc.mem.read_int(vector * 4, 4) == 0xF0000000 | offset
        if vector not in (0x1E,):
            assert pc.mem.read(0xF0000 + offset, 1) == b"\xE9"
    rom = pc.mem.read(0xF0000, 0x10000)
    for signature, size in ((b"_32_", 16), (b"$PnP", 33), (b"$PMM", 16)):
        at = next(at for at in range(0, 0x10000, 16) if rom[at:at + 4] == signature)
        assert sum(rom[at:at + size]) & 0xFF == 0


def test_jumping_to_the_reset_vector():
    """The whole machine starts again; with shutdown codes 05h and 0Ah the processor goes on at 40:67h."""
    resets = []
    pc = BiosPc(disks=[disk(boot_sector("jmp 0xF000:0xFFF0") + bytes(1 << 20))], reset=lambda: resets.append(1))
    pc.power_on()
    assert resets == [1]
    code = """
        mov al, 0x8F; out 0x70, al; mov al, 0x0A; out 0x71, al
        mov word ptr [0x467], offset back; mov word ptr [0x469], 0
        jmp 0xF000:0xFFF0
        back: mov ax, 0x0E42; int 0x10; cli; hlt"""
    pc = BiosPc(disks=[disk(boot_sector(code) + bytes(1 << 20))], reset=lambda: resets.append(1))
    assert pc.power_on() == Reason.HLT
    assert pc.screen.text.endswith("B") and resets == [1]
