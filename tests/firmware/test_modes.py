"""The BIOS called from virtual-8086 mode with paging, as EMM386 has it, and from big real mode; what DOS uses of it."""

import shutil
import subprocess

import pytest

from tests.cpu.asm import assemble
from tests.firmware.machine import Machine
from tests.firmware.pc import BiosPc, disk
from tests.firmware.test_int13 import numbered
from xenfast.firmware.traps import Call
from xenfast.machine import Reason

PAGES, TSS, MOVED = 0x300000, 0x308000, 0x200000
VM, IOPL3, IF = 1 << 17, 3 << 12, 1 << 9


def enter_v86(pc, code):
    """Virtual-8086 mode with VME, all ports open, 1 MiB mapped as it is but for D0000h, which is memory above 1 MiB."""
    mem, cpu = pc.mem, pc.cpu
    mem.write_int(PAGES, 4, PAGES + 0x1000 | 7)
    for page in range(0x110):
        target = MOVED if page == 0xD0 else page << 12
        mem.write_int(PAGES + 0x1000 + page * 4, 4, target | 7)
    for page in range(TSS >> 12, (TSS >> 12) + 5):
        mem.write_int(PAGES + 0x1000 + page * 4, 4, page << 12 | 7)
    mem.write(TSS, bytes(0x5000))
    mem.write_int(TSS + 0x66, 2, 0x88)              # the I/O map; the 32 bytes before it redirect interrupts
    cpu.cr4 = 1
    cpu.cr3 = PAGES
    cpu.cr0 = 0x80000011
    cpu.set_segment("tr", 0x28, TSS, 0x2FFF, 0x8B)
    cpu.set_table("idtr", TSS + 0x4000, 0x7FF)      # no gate is present
    cpu.rflags = VM | IOPL3 | IF | 2
    for name, selector in (("cs", 0), ("ss", 0), ("ds", 0), ("es", 0xD000), ("fs", 0), ("gs", 0)):
        cpu.set_segment(name, selector, selector << 4, 0xFFFF, 0xF3)
    cpu.cpl = 3
    cpu.rsp, cpu.rip = 0x7000, 0x7C00
    cpu.flush()
    mem.write(0x7C00, code + b"\xF4")               # HLT: #GP, and nobody to take it


def run_v86(pc, budget=100_000):
    cpu = pc.cpu
    end = cpu.instructions + budget
    while cpu.instructions < end:
        reason = Reason(cpu.run(end - cpu.instructions))
        if reason != Reason.PIO:
            return reason
        if cpu.exit_is_write:
            pc.hvm.ports.write(cpu.exit_port, cpu.exit_size, cpu.exit_value)
        else:
            cpu.pio_return(pc.hvm.ports.read(cpu.exit_port, cpu.exit_size))
    return None


@pytest.mark.parametrize(("code", "check"), [
    # int 13h: into a page that lies elsewhere
    ("mov ax, 0x0201; xor bx, bx; mov cx, 5; mov dx, 0x80; int 0x13", lambda pc: pc.mem.read_int(MOVED, 4) == 4),
    ("mov ax, 0x4100; mov bx, 0x55AA; mov dx, 0x80; int 0x13", lambda pc: pc.cpu.rbx & 0xFFFF == 0xAA55),
    ("mov ax, 0x0500; mov cx, 0x1E61; int 0x16; xor ax, ax; int 0x16", lambda pc: pc.cpu.rax & 0xFFFF == 0x1E61),
    ("mov eax, 0xE820; mov edx, 0x534D4150; xor ebx, ebx; mov ecx, 20; xor di, di; int 0x15",
     lambda pc: pc.mem.read_int(MOVED + 8, 8) == 0x9FC00),
    ("mov ax, 0x0E56; int 0x10", lambda pc: pc.screen.text.endswith("V")),
    ("mov ah, 2; int 0x1A", lambda pc: pc.cpu.rcx & 0xFFFF == 0x1234),
    ("int 0x08; xor ax, ax; int 0x1A", lambda pc: pc.cpu.segment("ds")[:2] == (0, 0)),
    ("mov ax, 0xC000; int 0x15", lambda pc: pc.cpu.segment("es")[:2] == (0xF000, 0xF0000)),
])   # fmt: skip
def test_virtual_8086_mode(code, check):
    """Services see memory as the caller does, and answer in its registers and flags."""
    pc = BiosPc.started(disks=[disk(numbered(200))])
    enter_v86(pc, assemble(code, 16, 0x7C00))
    assert run_v86(pc) == Reason.SHUTDOWN
    assert not pc.cpu.rflags & 1 and pc.cpu.rflags & VM and check(pc)


def test_big_real_mode():
    """Limits of 4 GiB outlive a service that loads segment registers; flat buffers above 1 MiB work."""
    pc = BiosPc.started(disks=[disk(numbered(200))])
    for name in ("ds", "es"):
        pc.cpu.set_segment(name, 0, 0, 0xFFFFFFFF, 0x8093)
    pc.mem.write(0x600, bytes((16, 0, 1, 0)) + (0x8000).to_bytes(4, "little") + (7).to_bytes(8, "little"))
    pc.mem.write(0x7C00, assemble("""
        mov ax, 0xC000; int 0x15                # ES is changed
        mov ah, 8; mov dl, 0; int 0x13
        xor ax, ax; mov es, ax
        mov ah, 0x42; mov dl, 0x80; mov si, 0x600; int 0x13
        mov esi, 0x8000; mov edi, 0x210000; mov eax, [esi]; mov es:[edi], eax
        cli; hlt""", 16, 0x7C00))
    pc.cpu.rsp = 0x7000
    assert pc.run(0, 0x7C00) == Reason.HLT and pc.mem.read_int(0x210000, 4) == 7


# What MS-DOS, FreeDOS and their like call while they start and run: (interrupt, registers, what comes back).
DOS = [
    (0x11, {}, lambda r: r.ax & 1),
    (0x12, {}, lambda r: r.ax == 639),
    (0x13, {"ax": 0x0000, "dl": 0}, lambda r: not r.cf),
    (0x13, {"ax": 0x0800, "dl": 0}, lambda r: not r.cf and r.dl == 1 and r.bl == 4),
    (0x13, {"ax": 0x0800, "dl": 0x80}, lambda r: not r.cf and r.dl == 1),
    (0x13, {"ax": 0x1500, "dl": 0}, lambda r: r.ah == 2 and not r.cf),
    (0x13, {"ax": 0x1500, "dl": 0x80}, lambda r: r.ah == 3 and not r.cf),
    (0x13, {"ax": 0x1600, "dl": 0}, lambda r: not r.cf),
    (0x13, {"ax": 0x0201, "bx": 0x8000, "cx": 1, "dx": 0x80}, lambda r: not r.cf),
    (0x13, {"ax": 0x0201, "bx": 0x8000, "cx": 1, "dx": 0x00}, lambda r: not r.cf),
    (0x13, {"ax": 0x0401, "bx": 0x8000, "cx": 1, "dx": 0x00}, lambda r: not r.cf),
    (0x13, {"ax": 0x4100, "bx": 0x55AA, "dx": 0x80}, lambda r: r.bx == 0xAA55 and r.cx & 1),
    (0x13, {"ax": 0x4800, "si": 0x600, "dx": 0x80}, lambda r: not r.cf),
    (0x13, {"ax": 0x4B01, "si": 0x600, "dx": 0x80}, lambda r: r.cf),            # not booted from CD-ROM
    (0x14, {"ax": 0x0300, "dx": 3}, lambda r: r.ah == 0x80),
    (0x15, {"ax": 0x2403}, lambda r: not r.cf),
    (0x15, {"ax": 0x4100}, lambda r: r.cf),
    (0x15, {"ax": 0x5300}, lambda r: r.bx == 0x504D),
    (0x15, {"ax": 0x8800}, lambda r: r.ax >= 3 << 10 and not r.cf),
    (0x15, {"ax": 0x9001}, lambda r: not r.cf),
    (0x15, {"ax": 0xC000}, lambda r: not r.cf),
    (0x15, {"ax": 0xE801}, lambda r: not r.cf and r.ax == r.cx),
    (0x15, {"eax": 0xE820, "edx": 0x534D4150, "ecx": 20, "di": 0x8000}, lambda r: r.eax == 0x534D4150),
    (0x16, {"ax": 0x0100}, lambda r: r.zf),
    (0x16, {"ax": 0x0200}, lambda r: r.al == 0),
    (0x16, {"ax": 0x0500, "cx": 0x1C0D}, lambda r: r.al == 0),
    (0x16, {"ax": 0x1100}, lambda r: not r.zf and r.ax == 0x1C0D),
    (0x16, {"ax": 0x1200}, lambda r: r.al == 0),
    (0x16, {"ax": 0x0000}, lambda r: r.ax == 0x1C0D),
    (0x17, {"ax": 0x0200}, lambda r: r.ah & 1),
    (0x1A, {"ax": 0x0000}, lambda r: r.cx << 16 | r.dx > 0),
    (0x1A, {"ax": 0x0200}, lambda r: not r.cf and r.ch == 0x12),
    (0x1A, {"ax": 0x0400}, lambda r: not r.cf and r.ch == 0x20),
    (0x1A, {"ax": 0x0100, "cx": 1, "dx": 2}, lambda r: not r.cf),
    (0x1A, {"ax": 0xB101}, lambda r: r.cf),
    (0x40, {"ax": 0x0000, "dl": 0}, lambda r: not r.cf),
]


def test_what_dos_uses():
    """Every call of the list, and the places of the data area and of the vectors that DOS reads itself."""
    pc = BiosPc.started(disks=[disk(numbered(20000))], floppies=[disk(numbered(2880), "floppy")])
    for number, registers, check in DOS:
        if registers.get("ax") == 0x4800:
            pc.mem.write(0x600, (30).to_bytes(2, "little"))
        after = pc.interrupt(number, **registers)
        assert after is not None and check(after), (hex(number), registers, vars(after) if after else None)
    read = pc.mem.read_int
    assert read(0x475, 1) == 1 and read(0x413, 2) == 639 and read(0x40E, 2) == 0x9FC0
    assert read(0x41A, 2) == read(0x41C, 2) and (read(0x480, 2), read(0x482, 2)) == (0x1E, 0x3E)
    assert read(0x496, 1) & 0x10                    # 101 keys: DOS then uses INT 16h/10h
    table = read(0x1E * 4, 4)
    assert pc.mem.read((table >> 16 << 4) + (table & 0xFFFF) + 3, 2) == b"\x02\x12"     # DOS makes itself a copy
    disk_table = read(0x41 * 4, 4)
    assert read((disk_table >> 16 << 4) + (disk_table & 0xFFFF), 2) == pc.bios.drives.get(0x80).geometry.cylinders
    assert Call.ax is not None


PROGRAM = """
    # Makes HELLO.TXT of one cluster on the FAT12 diskette in drive A, by INT 13h.
    .equ BPB, 0x8000
    .equ FAT, 0x8200
    .equ ROOT, 0x8400
    xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax; mov sp, 0x7C00
    mov ax, 0x0201; mov bx, 0x7E00; mov cx, 2; mov dx, 0x80; int 0x13       # the rest of this program
    jmp rest
    .org 0x200
rest:
    mov ah, 8; xor dl, dl; int 0x13; and cx, 0x3F; mov per_track, cx; movzx dx, dh; inc dx; mov heads, dx
    xor ax, ax; mov es, ax
    mov bx, BPB; mov si, 2; call sector
    movzx ax, byte ptr [BPB + 0x10]; mul word ptr [BPB + 0x16]; add ax, [BPB + 0x0E]; mov root, ax
    mov ax, [BPB + 0x0E]; mov bx, FAT; mov si, 2; call sector
    mov byte ptr [FAT + 3], 0xFF; or byte ptr [FAT + 4], 0x0F
    mov ax, [BPB + 0x0E]; mov bx, FAT; mov si, 3; call sector
    mov ax, [BPB + 0x0E]; add ax, [BPB + 0x16]; mov bx, FAT; mov si, 3; call sector
    mov ax, root; mov bx, ROOT; mov si, 2; call sector
    mov di, ROOT
1:  cmp byte ptr [di], 0; je 2f; add di, 32; jmp 1b
2:  mov si, offset entry; mov cx, 16; rep movsw
    mov ax, root; mov bx, ROOT; mov si, 3; call sector
    mov ax, [BPB + 0x11]; shr ax, 4; add ax, root; mov bx, offset text; mov si, 3; call sector
    mov ax, 0x5301; xor bx, bx; int 0x15; mov ax, 0x5307; mov bx, 1; mov cx, 3; int 0x15
    cli; hlt
sector:                             # AX: number, BX: where, SI: 2 read, 3 write
    xor dx, dx; div word ptr per_track; mov cl, dl; inc cl; xor dx, dx; div word ptr heads; mov ch, al; mov dh, dl; xor dl, dl
    mov ax, si; mov ah, al; mov al, 1; int 0x13
    jc 3f; ret
3:  cli; hlt
per_track: .word 0
heads: .word 0
root: .word 0
entry: .ascii "HELLO   TXT"; .byte 0x20, 0, 0; .word 0, 0x5D78, 0x5D78, 0, 0, 0x5D78, 2; .long 23
text: .ascii "Written through int 13h"; .fill 489, 1, 0
"""


@pytest.mark.parametrize("kib", [360, 1440])
def test_a_file_written_by_a_16_bit_program(tmp_path, kib):
    """A program writes a file to a FAT diskette through INT 13h; mtools reads it on the host."""
    if not shutil.which("mformat"):
        pytest.skip("mtools is not installed")
    floppy = tmp_path / "floppy.img"
    subprocess.run(["mformat", "-C", "-f", str(kib), "-i", floppy, "::"], check=True)
    code = bytearray(assemble(PROGRAM, 16, 0x7C00).ljust(2048, b"\0"))
    code[510:512] = b"\x55\xAA"
    with Machine(16, disks=[bytes(code).ljust(1 << 20, b"\0")], floppies=[floppy], boot="c") as machine:
        assert str(machine.run(None, 10)) == "ended"
    out = subprocess.run(["mtype", "-i", floppy, "::HELLO.TXT"], check=True, capture_output=True).stdout
    assert out == b"Written through int 13h"
