"""The BIOS's ROM, F0000h to FFFFFh: the stubs that lead to Python, and what software expects at fixed places.

The stubs live in the last 8 KiB; F0000h to FDFFFh is left for tables (SMBIOS, MP, $PIR, RSDP), which whoever makes them writes there
(``TABLES``).  Fixed places are those of the IBM PC/AT (compatibility segment, as listed in the PnP and BBS era's "compatibility
table"): programs jump there or compare bytes there.
"""

from dataclasses import dataclass

from xenfast.firmware.asm import Assembler

SEGMENT, BASE, SIZE = 0xF000, 0xF0000, 0x10000
TABLES = range(0xF0000, 0xFE000)        # of the ROM, for tables
DATE = "11/24/26"                       # of the BIOS, at FFFF:0005
MODEL, SUBMODEL, REVISION = 0xFC, 0x01, 0x00    # an AT

# Interrupts whose stub is "call Python, return"; those that may have to wait do so with interrupts on.
SIMPLE = ("int02", "int11", "int12", "int13", "int17", "int1a", "int40")
WAITING = ("int14", "int15", "int16")

STUBS = """
; --- power-on, boot: Python drives the processor by routine.py ----------------------------------------------------------------
post:       cli
            cld
            trap apic
            jc post_go
            mov dword [0x0F0], 0x1FF        ; the local APIC on; INTR of the PICs and NMI go through it (MP Specification, 3.6.2.2)
            mov dword [0x350], 0x700
            mov dword [0x360], 0x400
post_go:    trap post
post_halt:  cli                     ; only after a mistake
            hlt
            jmp post_halt

int18:      trap int18
            jmp post_halt
int19:      trap int19
            jmp post_halt

; where an interrupt or a far call that a routine makes comes back
routine_poll:
            sti
            nop
            nop
            cli
            jmp routine_back
routine_idle:
            sti
            hlt
            cli
routine_back:
            trap routine
            iret                    ; nobody has called: a stray jump

int05:      pushad
            push ds
            push es
            trap int05
            jmp int05_end           ; busy: at it already
int05_end:  pop es
            pop ds
            popad
            iret

; --- IRQ 0: timer. DS is 40h in INT 1Ch, as programs have come to expect ------------------------------------------------------
int08:      push ax
            push dx
            push ds
            trap tick
            int 0x1C
            cli
            mov al, 0x20
            out 0x20, al
            pop ds
            pop dx
            pop ax
            iret

; --- IRQ 1: keyboard. AH of "key" says what is to be done besides -------------------------------------------------------------
int09:      push ax
            in al, 0x64
            and al, 0x21
            cmp al, 0x01
            jnz int09_eoi           ; nothing there, or the mouse's
            in al, 0x60
            mov ah, 0x4F
            stc
            int 0x15                ; keyboard intercept: the scan code may be changed or dropped
            jnc int09_eoi
            cli
            trap key
            cmp ah, 0
            jnz int09_more
int09_eoi:  cli
            mov al, 0x20
            out 0x20, al
            pop ax
            iret
int09_more: push ax
            mov al, 0x20
            out 0x20, al
            pop ax
            cmp ah, 1
            jz int09_print
            cmp ah, 2
            jz int09_break
            cmp ah, 3
            jz int09_pause
            cmp ah, 4
            jz int09_reboot
            mov ah, 0x85            ; SysRq: AL is 0 pressed, 1 released
            int 0x15
            jmp int09_end
int09_print:
            int 0x05
            jmp int09_end
int09_break:
            int 0x1B
            jmp int09_end
int09_pause:
            sti
            hlt
            cli
            trap paused
            jc int09_pause
int09_end:  pop ax
            iret
int09_reboot:
            jmp far 0xF000:post

; --- IRQ 6: diskette; IRQ 14, 15: disks --------------------------------------------------------------------------------------
int0e:      push ax
            trap fdd_irq
            mov al, 0x20
            out 0x20, al
            mov ax, 0x9101
            int 0x15
            pop ax
            iret
int76:      push ax
            trap hdd_irq
            mov al, 0x20
            out 0xA0, al
            out 0x20, al
            mov ax, 0x9100
            int 0x15
            pop ax
            iret

; --- IRQ 8: real-time clock ---------------------------------------------------------------------------------------------------
int70:      push ax
            trap rtc_irq
            jnc int70_end
            sti
            int 0x4A                ; the alarm
            cli
int70_end:  mov al, 0x20
            out 0xA0, al
            out 0x20, al
            pop ax
            iret

; --- IRQ 9 (2 of the XT), 13 (coprocessor), 12 (mouse), others ---------------------------------------------------------------
int71:      push ax
            mov al, 0x20
            out 0xA0, al
            pop ax
            int 0x0A
            iret
int75:      push ax
            mov al, 0
            out 0xF0, al
            mov al, 0x20
            out 0xA0, al
            out 0x20, al
            pop ax
            int 0x02
            iret
int74:      pusha
            push ds
            push es
            in al, 0x64
            and al, 0x21
            cmp al, 0x21
            jnz int74_eoi
            in al, 0x60
            trap mouse              ; CF: a packet is complete, AX BX CX DX for the handler at [ES:22h]
            jnc int74_eoi
            push ax
            push bx
            push cx
            push dx
            call far es:[0x22]
            cli
            add sp, 8
int74_eoi:  mov al, 0x20
            out 0xA0, al
            out 0x20, al
            pop es
            pop ds
            popa
            iret
irq_slave:  push ax
            mov al, 0x20
            out 0xA0, al
            out 0x20, al
            pop ax
            iret
irq_master: push ax
            mov al, 0x20
            out 0x20, al
            pop ax
            iret

; --- far and 32-bit entries: flags are live ----------------------------------------------------------------------------------
bios32:     trap bios32
            retf
pcibios32:  trap pcibios32
            retf
apm:        trap apm_far
            retf
pnp:        trap pnp
            retf
pmm:        trap pmm
            retf
"""

# offset -> what is there: where programs go directly
FIXED = {
    0xE05B: "post", 0xE2C3: "int02", 0xE3FE: "int13", 0xE6F2: "int19", 0xE739: "int14", 0xE82E: "int16", 0xE987: "int09",
    0xEC59: "int40", 0xEF57: "int0e", 0xEFD2: "int17", 0xF065: "int10", 0xF841: "int12", 0xF84D: "int11", 0xF859: "int15",
    0xFE6E: "int1a", 0xFEA5: "int08", 0xFF54: "int05",
}   # fmt: skip

# The interrupt vectors after power-on: number -> label; the rest of 00h to 77h is an IRET, 78h to FFh are 0:0.
VECTORS: dict[int, int | str] = {
    0x02: 0xE2C3, 0x05: 0xFF54, 0x08: 0xFEA5, 0x09: 0xE987, 0x0A: "irq_master", 0x0B: "irq_master", 0x0C: "irq_master",
    0x0D: "irq_master", 0x0E: 0xEF57, 0x0F: "irq_master", 0x10: 0xF065, 0x11: 0xF84D, 0x12: 0xF841, 0x13: 0xE3FE, 0x14: 0xE739,
    0x15: 0xF859, 0x16: 0xE82E, 0x17: 0xEFD2, 0x18: "int18", 0x19: 0xE6F2, 0x1A: 0xFE6E, 0x1D: 0xF0A4, 0x1E: 0xEFC7,
    0x40: 0xEC59, 0x70: "int70", 0x71: "int71", 0x72: "irq_slave", 0x73: "irq_slave", 0x74: "int74", 0x75: "int75",
    0x76: "int76", 0x77: "int76",
}   # fmt: skip
DUMMY_IRET = 0xFF53
FONT = 0xFA6E               # 8x8, characters 0 to 127
CONFIGURATION = 0xE6F5      # table of int 15h/C0h
DISKETTE_TABLE = 0xEFC7

# Diskette parameters (int 1Eh): step and head times, motor off after 37 ticks, 512-byte sectors, 18 a track, gaps, F6h for format
DPT = bytes((0xAF, 0x02, 0x25, 0x02, 18, 0x1B, 0xFF, 0x6C, 0xF6, 0x0F, 0x08))

# int 15h/C0h: 2nd PIC, RTC, int 15h/4Fh called, EBDA there; second byte: int 16h/09h there
FEATURES = bytes((0x74, 0x40, 0, 0, 0))


@dataclass(frozen=True)
class Rom:
    image: bytes
    labels: dict[str, int]              # offsets in segment F000h
    traps: list[tuple[int, str]]        # where Python is called

    def vector(self, number: int) -> int:
        """Offset in segment F000h that an interrupt vector has after power-on."""
        target = VECTORS.get(number, DUMMY_IRET)
        return self.labels[target] if isinstance(target, str) else target


def checksummed(data: bytes, at: int) -> bytes:
    """The bytes with the one at ``at`` such that all add up to 0."""
    out = bytearray(data)
    out[at] = 0
    out[at] = -sum(out) & 0xFF
    return bytes(out)


def build() -> Rom:
    """The ROM as it is at power-on."""
    asm = Assembler(SIZE, fill=0)
    asm.org(0xE000)
    # From here to E05Bh, then between the fixed places: what has no place of its own goes where there is room.
    asm.put(b"xenfast BIOS\0")
    _fixed(asm)
    asm.org(0xE100)
    for name in SIMPLE:
        asm.code(f"{name}: trap {name}\n iret")
    for name in WAITING:
        asm.code(f"{name}: trap {name}\n jc {name}_wait\n iret\n{name}_wait: sti\n hlt\n cli\n jmp {name}")
    # a wait too short for a tick: some 5,000 instructions with interrupts on
    asm.code("int15_poll: sti\n push cx\n mov cx, 5000\nint15_spin: loop int15_spin\n pop cx\n cli\n near jmp int15")
    asm.code("int10: iret")                                          # until a video BIOS takes it
    asm.org(0xF100)
    asm.code(STUBS)
    _headers(asm)
    return Rom(asm.finish(), dict(asm.labels), list(asm.traps))


def _fixed(asm: Assembler) -> None:
    for offset, label in FIXED.items():
        asm.org(offset)
        asm.code(f"near jmp {label}")
    asm.org(DUMMY_IRET)
    asm.code("iret")
    asm.org(CONFIGURATION)
    asm.put(bytes((8, 0, MODEL, SUBMODEL, REVISION)) + FEATURES)
    asm.org(DISKETTE_TABLE)
    asm.put(DPT)
    asm.org(0xFFF0)
    asm.code("jmp far 0xF000:0xE05B")
    asm.put(DATE.encode())
    asm.org(0xFFFE)
    asm.put(bytes((MODEL, 0)))


def _headers(asm: Assembler) -> None:
    """Structures that are found by their signature, each on a paragraph."""
    asm.align(16)
    # BIOS32 service directory (Standard BIOS 32-bit Service Directory Proposal 0.4)
    entry = BASE + asm.labels["bios32"]
    asm.labels["bios32_header"] = asm.here
    asm.put(checksummed(b"_32_" + entry.to_bytes(4, "little") + bytes((0, 1, 0, 0, 0, 0, 0, 0)), 10))
    # PnP installation check (Plug and Play BIOS Specification 1.0A, 4.4)
    asm.align(16)
    real = asm.labels["pnp"]
    asm.labels["pnp_header"] = asm.here
    asm.put(checksummed(
        b"$PnP" + bytes((0x10, 0x21)) + bytes(2) + bytes(1) + bytes(4)          # version, length, control, checksum, event flag
        + real.to_bytes(2, "little") + SEGMENT.to_bytes(2, "little")            # real mode entry
        + real.to_bytes(2, "little") + BASE.to_bytes(4, "little")               # protected mode entry
        + bytes(4) + SEGMENT.to_bytes(2, "little") + BASE.to_bytes(4, "little"), 8))    # OEM id, data segments
    # POST memory manager (1.01, 3.1)
    asm.align(16)
    asm.labels["pmm_header"] = asm.here
    asm.put(checksummed(
        b"$PMM" + bytes((1, 16, 0)) + asm.labels["pmm"].to_bytes(2, "little") + SEGMENT.to_bytes(2, "little") + bytes(5), 6))
