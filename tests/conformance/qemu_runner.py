"""A guest that makes cases of second_forms one after the other and keeps what came of each; one image, for QEMU and us.

In ring 0 it puts the tables back, loads segments and registers of the case and goes there by IRETD.  The instruction is
followed by INT3, as is everything a far transfer may lead to, so that every case ends in a handler: by the gate of
INT3, or of the exception it has raised.  The handler keeps the registers it was entered with and the frame on its
stack, CR0, LDTR and TR, and a sum over every window of memory.
"""

from __future__ import annotations

import struct
import subprocess
import tempfile
from pathlib import Path

from tests.conformance.second_oracle import (
    BASES,
    CODE,
    GDT,
    STACK0,
    TABLES_END,
    WINDOW,
    WINDOWS,
    Case,
    Environment,
    memory_image,
)
from tests.cpu.asm import assemble
from xenfast import _core

LOAD, VARIABLES, IDT, KERNEL_STACK, RESULTS, MEMORY = 0x100000, 0x9000, 0xA000, 0x8F00, 0x400000, 8 << 20
CASE_SIZE, RESULT_SIZE, FRAME = 128, 256, 26
ERROR_CODES = {8, 10, 11, 12, 13, 14, 17}
VECTORS = [*range(32), 0x21]
FIELDS = [
    "gs",
    "fs",
    "es",
    "ds",
    "edi",
    "esi",
    "ebp",
    "esp at entry",
    "ebx",
    "edx",
    "ecx",
    "eax",
    "vector",
    *(f"frame[{i}]" for i in range(FRAME - 13)),
    "esp",
    "ss",
    "cr0",
    "ldtr",
    "tr",
    *(f"memory at {at:#x}" for at, _ in WINDOWS),
]


def _source(count: int) -> str:
    """The guest.

    A case: 8 registers in PUSHAD's order, EFLAGS CS SS ES DS FS GS, where to (0: ring 0, 1: ring 3, 2: VM86),
    code, stack, data.
    """
    here, result, at = VARIABLES, VARIABLES + 4, VARIABLES + 8
    sums = "\n".join(
        f"mov esi, {start}; mov ecx, {size // 4}; call sum; mov [edi + {4 * (FRAME + 5 + i)}], eax"
        for i, (start, size) in enumerate(WINDOWS)
    )
    stubs = "\n".join(f".balign 16; push {vector}; jmp common" for vector in VECTORS)
    data = "\n".join(
        f"mov edi, {base + WINDOW}; xor eax, eax; mov ecx, 128; rep stosd;"
        f"mov eax, [ebp + 112]; mov [{base + WINDOW + 0x40}], eax;"
        f"mov eax, [ebp + 116]; mov [{base + WINDOW + 0x44}], eax"
        for base in BASES.values()
    )
    return f"""
        .long 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000), {LOAD}, {LOAD}, 0, 0, begin
    begin:
        cli; mov al, 0xff; out 0x21, al; out 0xa1, al
        cld; mov esi, offset tables; mov edi, {GDT}; mov ecx, {(TABLES_END - GDT) // 4}; rep movsd
        lgdt [gdtr]; lidt [idtr]
        .byte 0xea; .long reloaded; .word 8
    reloaded:
        mov ax, 0x10; mov ds, ax; mov es, ax; mov fs, ax; mov gs, ax; mov ss, ax; mov esp, {KERNEL_STACK}
        mov edi, {IDT}; xor ecx, ecx
    gates:
        mov eax, ecx; mov edx, 0; cmp ecx, 32; jb known; cmp ecx, 0x21; jne next_gate; mov eax, 32
    known:
        shl eax, 4; add eax, offset stubs; mov ebx, eax; and ebx, 0xffff; or ebx, 0x80000; mov [edi], ebx
        and eax, 0xffff0000; or eax, 0x8e00
        cmp ecx, 3; je user_gate; cmp ecx, 0x21; je user_gate; cmp ecx, 13; je set_gate; or eax, 0x100; jmp set_gate
    user_gate:
        or eax, 0x6000
    set_gate:
        mov [edi + 4], eax
    next_gate:
        add edi, 8; inc ecx; cmp ecx, 64; jb gates
        mov edi, 0x2000; mov ecx, 0x400; mov eax, 0xcccccccc; rep stosd
        mov dword ptr [{here}], {count}; mov dword ptr [{result}], {RESULTS}; mov dword ptr [{at}], offset cases
    next_case:
        cmp dword ptr [{here}], 0; je done
        mov eax, 0x11; mov cr0, eax
        mov esi, offset tables; mov edi, {GDT}; mov ecx, {(TABLES_END - GDT) // 4}; rep movsd
        mov edi, {STACK0 - 0x100}; xor eax, eax; mov ecx, 64; rep stosd
        mov eax, 0xa0; lldt ax; mov eax, 0x90; ltr ax
        mov ebp, [{at}]
        {data}
        lea esi, [ebp + 64]; mov edi, {CODE}; mov ecx, 4; rep movsd; mov eax, 0xcccccccc; mov ecx, 4; rep stosd
        lea esi, [ebp + 80]; mov edi, [ebp + 12]; and edi, 0xffff; add edi, {BASES["ss"]}; mov ecx, 5; rep movsd
        mov esp, {KERNEL_STACK}
        cmp dword ptr [ebp + 60], 1; je outer; ja virtual
        mov ax, [ebp + 40]; mov edx, [ebp + 12]; mov ebx, ebp
        mov ecx, [ebp + 44]; mov es, cx; mov ecx, [ebp + 52]; mov fs, cx; mov ecx, [ebp + 56]; mov gs, cx
        mov ss, ax; mov esp, edx
        push dword ptr [ebx + 32]; push dword ptr [ebx + 36]; push {CODE}
        push dword ptr [ebx + 28]; push dword ptr [ebx + 24]; push dword ptr [ebx + 20]; push dword ptr [ebx + 16]
        push 0; push dword ptr [ebx + 8]; push dword ptr [ebx + 4]; push dword ptr [ebx]
        mov ecx, [ebx + 48]; mov ds, cx
        popad; iretd
    virtual:
        push dword ptr [ebp + 56]; push dword ptr [ebp + 52]; push dword ptr [ebp + 48]; push dword ptr [ebp + 44]
    outer:
        push dword ptr [ebp + 40]; push dword ptr [ebp + 12]
        push dword ptr [ebp + 32]; push dword ptr [ebp + 36]; push {CODE}
        cmp dword ptr [ebp + 60], 1; jne loaded
        mov ecx, [ebp + 44]; mov es, cx; mov ecx, [ebp + 52]; mov fs, cx; mov ecx, [ebp + 56]; mov gs, cx
    loaded:
        push dword ptr [ebp + 28]; push dword ptr [ebp + 24]; push dword ptr [ebp + 20]; push dword ptr [ebp + 16]
        push 0; push dword ptr [ebp + 8]; push dword ptr [ebp + 4]; push dword ptr [ebp]
        cmp dword ptr [ebp + 60], 1; jne go
        mov ecx, [ebp + 48]; mov ds, cx
    go: popad; iretd
    common:
        pushad; push ds; push es; push fs; push gs
        mov ebp, esp; mov ax, 0x10; mov ds, ax; mov es, ax; cld
        mov edi, [{result}]; xor ecx, ecx
    copy:
        mov eax, ss:[ebp + ecx * 4]; mov [edi + ecx * 4], eax; inc ecx; cmp ecx, {FRAME}; jb copy
        mov ecx, ss:[ebp + 48]; mov edx, {sum(1 << vector for vector in ERROR_CODES)}
        cmp ecx, 32; jae no_error; bt edx, ecx; jnc no_error
        and byte ptr ss:[ebp + 66], 0xfe; jmp sums
    no_error:
        and byte ptr ss:[ebp + 62], 0xfe
    sums:
        mov [edi + {4 * FRAME}], ebp; xor eax, eax; mov ax, ss; mov [edi + {4 * FRAME + 4}], eax
        mov eax, cr0; mov [edi + {4 * FRAME + 8}], eax; xor eax, eax; sldt ax; mov [edi + {4 * FRAME + 12}], eax
        str ax; mov [edi + {4 * FRAME + 16}], eax
        mov ax, 0x10; mov ss, ax; mov esp, {KERNEL_STACK}
        {sums}
        add dword ptr [{result}], {RESULT_SIZE}; add dword ptr [{at}], {CASE_SIZE}
        dec dword ptr [{here}]; jmp next_case
    sum:
        xor eax, eax
    summing:
        rol eax, 5; add eax, [esi]; add esi, 4; dec ecx; jnz summing; ret
    done:
        mov esi, {RESULTS}; mov ecx, {count * RESULT_SIZE}; mov edx, 0xe9; rep outsb
        mov edx, 0xf4; mov al, 0; out dx, al
    stop: hlt; jmp stop
        .balign 4
    gdtr: .word 0x3ff; .long {GDT}
    idtr: .word 511; .long {IDT}
        .balign 16
    stubs:
        {stubs}
        .balign 16
    tables:
        .incbin "tables.bin"
    cases:
        .incbin "cases.bin"
    """


def accessed(image: bytes) -> bytes:
    """The tables with every segment's accessed bit set: QEMU's far transfers do not set it (see test_second_oracle)."""
    out = bytearray(image)
    for at in range(0, 0x800, 8):
        if out[at + 5] & 0x10:
            out[at + 5] |= 1
    return bytes(out)


def pack(case: Case, e: Environment) -> bytes:
    sel = e.selectors
    eax, ecx, edx, ebx, esp, ebp, esi, edi = case.regs
    kind = 2 if e.vm else 1 if e.ring else 0
    words = [
        edi,
        esi,
        ebp,
        esp,
        ebx,
        edx,
        ecx,
        eax,
        case.flags | e.flags,
        sel["cs"],
        sel["ss"],
        sel["es"],
        sel["ds"],
        sel["fs"],
        sel["gs"],
        kind,
    ]
    out = (
        struct.pack("<16I", *words) + case.code.ljust(16, b"\xcc") + case.stack.ljust(32, b"\0") + case.data[0x40:0x48]
    )
    return out.ljust(CASE_SIZE, b"\0")


def image(cases: list[tuple[Case, Environment]]) -> bytes:
    """The guest with its cases, for LOAD."""
    with tempfile.TemporaryDirectory() as directory:
        for name, data in (
            ("tables.bin", accessed(memory_image())),
            ("cases.bin", b"".join(pack(*case) for case in cases)),
        ):
            (Path(directory) / name).write_bytes(data)
        text = (
            _source(len(cases))
            .replace('"tables.bin"', f'"{directory}/tables.bin"')
            .replace('"cases.bin"', f'"{directory}/cases.bin"')
        )
        return assemble(text, 32, LOAD)


def in_qemu(guest: bytes) -> bytes:
    """The results as QEMU's debug console has them."""
    with tempfile.TemporaryDirectory() as directory:
        kernel, out = Path(directory) / "guest.bin", Path(directory) / "out.bin"
        kernel.write_bytes(guest)
        subprocess.run(
            [
                "qemu-system-i386",
                "-accel",
                "tcg",
                "-cpu",
                "max",
                "-m",
                "16",
                "-display",
                "none",
                "-no-reboot",
                "-kernel",
                kernel,
                "-debugcon",
                f"file:{out}",
                "-device",
                "isa-debug-exit,iobase=0xf4,iosize=4",
                "-net",
                "none",
                "-serial",
                "none",
                "-parallel",
                "none",
            ],
            timeout=120,
            check=False,
            capture_output=True,
        )
        return out.read_bytes()


def here(guest: bytes, count: int, engine: str) -> bytes:
    """The results in our memory."""
    memory = _core.Memory(MEMORY >> 12)
    physmap = _core.GuestPhysMap(MEMORY >> 12)
    physmap.set(0, range(MEMORY >> 12))
    ram = memory.view(0, MEMORY >> 12)
    ram[LOAD : LOAD + len(guest)] = guest
    cpu = _core.Vcpu(memory, physmap)
    cpu.engine = engine
    cpu.cr0 = 0x11
    cpu.set_segment("cs", 8, 0, 0xFFFFFFFF, 0xC09B)
    for name in ("ss", "ds", "es", "fs", "gs"):
        cpu.set_segment(name, 16, 0, 0xFFFFFFFF, 0xC093)
    cpu.rip = struct.unpack_from("<I", guest, 28)[0]
    while True:
        reason = cpu.run(1 << 30)
        if reason == _core.ExitReason.EXIT_PIO and cpu.exit_port == 0xE9:
            return bytes(ram[RESULTS : RESULTS + count * RESULT_SIZE])
        if reason == _core.ExitReason.EXIT_PIO:
            cpu.pio_return(0xFFFFFFFF) if not cpu.exit_is_write else None
            continue
        raise AssertionError(
            f"{_core.ExitReason(reason)!r} at {cpu.rip:#x}, after {ram[VARIABLES : VARIABLES + 4].hex()}"
        )
