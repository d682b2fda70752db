"""The firmware's port, and the assembler of its stubs."""

import shutil

import pytest

from tests.cpu.asm import assemble
from tests.firmware.pc import Pc
from xenfast.errors import XenfastError
from xenfast.firmware.asm import FORMS, Assembler
from xenfast.firmware.traps import TRAP_PORT, Traps


def stub(pc, text, at=0x8000):
    """Assembled stubs at an address, and the vector 60h to the first byte."""
    asm = Assembler(0x200)
    asm.code(text)
    pc.mem.write(at, asm.finish())
    pc.mem.write_int(0x60 * 4, 4, at >> 4 << 16)
    return asm


def int60(pc, **registers):
    """INT 60h from 0:7C00, then HLT."""
    pc.mem.write(0x7C00, bytes.fromhex("CD60 F4"))
    pc.cpu.rsp = 0x7000
    for name, value in registers.items():
        setattr(pc.cpu, name, value)
    return pc.run(0, 0x7C00)


def test_a_service_sees_registers_and_answers_by_them():
    """A part of a register is written without touching the rest of it."""
    pc = Pc()
    asm = stub(pc, "trap service\niret")

    def service(call):
        assert (call.ah, call.al, call.cx, call.es) == (0x12, 0x34, 0x5678, 0)
        call.ah, call.bx, call.es = 0, 0xBEEF, 0x1234

    Traps(pc.hvm).bind(0x8000 + asm.traps[0][0], service)
    int60(pc, rax=0xAABB1234, rcx=0x5678, rbx=0xFFFF0000)
    assert (pc.cpu.rax, pc.cpu.rbx) == (0xAABB0034, 0xFFFFBEEF)
    assert pc.cpu.segment("es")[:2] == (0x1234, 0x12340)


@pytest.mark.parametrize("carry", [False, True])
def test_flags_come_back_through_the_frame(carry):
    """CF and ZF are changed in the FLAGS image of the INT; interrupts are as the caller had them."""
    pc = Pc()
    asm = stub(pc, "trap service\niret")

    def service(call):
        call.cf, call.zf = carry, not carry

    Traps(pc.hvm).bind(0x8000 + asm.traps[0][0], service)
    int60(pc, rflags=0x202 | (0 if carry else 1))
    assert pc.cpu.rflags & 0x241 == (0x201 if carry else 0x240)


def test_a_service_that_waits_is_asked_again():
    """wait() makes the stub let interrupts in and ask again; its registers are as they were."""
    pc = Pc()
    asm = stub(pc, "again: trap service\njc wait\niret\nwait: sti\nhlt\ncli\njmp again")
    asked = []

    def service(call):
        asked.append(call.ax)
        if len(asked) < 3:
            call.wait()

    Traps(pc.hvm).bind(0x8000 + asm.traps[0][0], service)
    pc.on_halt = lambda pc: len(asked) < 3
    int60(pc, rax=7)
    assert asked == [7, 7, 7]


def test_only_the_stub_is_obeyed():
    """A write to the port from any other place does nothing."""
    pc = Pc()
    asm = stub(pc, "trap service\niret")
    called = []
    Traps(pc.hvm).bind(0x8000 + asm.traps[0][0], called.append)
    pc.mem.write(0x7C00, bytes((0xE6, TRAP_PORT, 0xE4, TRAP_PORT, 0xF4)))
    pc.run(0, 0x7C00)
    assert called == [] and pc.cpu.rax & 0xFF == 0xFF


def test_memory_that_is_not_there():
    """A pointer beyond memory reads as ones and swallows writes."""
    pc = Pc(memory=1 << 20)
    asm = stub(pc, "trap service\niret")
    seen = []

    def service(call):
        call.mem.write(0xFFFFFFF0, b"0123456789ABCDEF0123")
        seen.append(call.mem.read(0x40000000, 5000))

    Traps(pc.hvm).bind(0x8000 + asm.traps[0][0], service)
    int60(pc)
    assert seen == [b"\xff" * 5000]


def test_every_form_is_what_the_gnu_assembler_makes_of_it():
    """The table of instruction forms, against GNU as."""
    if not shutil.which("as"):
        pytest.skip("there is no assembler")
    for form in FORMS:
        if form.endswith("*") or form == "near jmp rw":
            continue
        line = form.replace("iw:iw", "iw, iw").replace("es:[iw]", "es:[0x1234]").replace("[iw], id", "[0x1234], 0x12345678")
        for slot, value in {"ib": "0x21", "iw": "0x4321", "rb": "_start", "rw": "_start"}.items():
            line = line.replace(slot, value)
        asm = Assembler(64)
        asm.code("_start: " + line.replace("jmp far 0x4321, 0x4321", "jmp far 0x4321:0x4321"))
        ours = asm.finish()[:asm.here]
        line = line.replace("call far es:", "call dword ptr es:").replace("jmp far", "jmp").replace("mov dword", "mov dword ptr")
        theirs = assemble(line, 16)
        assert theirs.startswith(ours), line


@pytest.mark.parametrize("text", ["mov eax, 5", "jmp nowhere", "a:\na:", "dw b c"])
def test_mistakes_in_stubs_are_named(text):
    """An unknown instruction or label is one sentence."""
    asm = Assembler(64)
    with pytest.raises(XenfastError, match="firmware"):
        asm.code(text)
        asm.finish()


def test_labels_and_places():
    """Labels are offsets from the origin; nothing is written twice."""
    asm = Assembler(0x20, fill=0xFF)
    asm.code("here: dw here+3, end\nds \"abc\"\nend:")
    assert asm.finish()[:8] == b"\x03\x00\x07\x00abc\xff"
    asm.org(2)
    with pytest.raises(XenfastError, match="do not fit"):
        asm.put(b"x")
