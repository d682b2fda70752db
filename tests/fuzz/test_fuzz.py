"""Random machines neither crash nor hang the host, and mean the same by decoded blocks and one instruction at a time.

XENFAST_FUZZ_CASES is the number of cases, XENFAST_SEED the seed; python -m tests.fuzz runs for as long as one likes.
"""

import os
import struct

import pytest

from tests.fuzz.__main__ import supervise
from xenfast import _core
from xenfast._core import ExitReason
from xenfast.machine import Machine, Reason

CASES = int(os.environ.get("XENFAST_FUZZ_CASES", "400"))
SEED = int(os.environ.get("XENFAST_SEED", "1"))


@pytest.mark.slow
def test_random_machines(capfd):
    """Random code in every mode, with random descriptors, page tables and registers, in a process of its own."""
    done, failures = supervise(SEED, 0, CASES, 3600, 30)
    output = capfd.readouterr().out
    assert (done, failures) == (CASES, 0), output


# -- what fuzzing has found ------------------------------------------------------------------------------------------------
def test_a_handler_that_faults_at_once_uses_up_the_budget():
    """A #UD whose handler begins with an undefined opcode retires nothing, but run() comes back when its budget is gone."""
    machine = Machine(memory=1 << 20, mode=16)
    machine.map(0x0, 0x8000)
    machine.write(6 * 4, struct.pack("<HH", 0x1000, 0))
    machine.write(0x1000, b"\x0f\x0b")
    machine.cpu.set_table("idtr", 0, 0x3FF)
    machine.rsp, machine.rip = 0x7000, 0x1000
    before = machine.cpu.instructions
    assert machine.run(1000).reason is Reason.BUDGET
    assert machine.cpu.instructions - before == 1000


def test_an_interrupt_whose_stack_is_device_memory():
    """The pushes of an interrupt reach no device, read or write; the handler runs, and run() comes back."""
    memory = _core.Memory(16)
    physmap = _core.GuestPhysMap(512)
    physmap.set(0, range(16))
    vcpu = _core.Vcpu(memory, physmap)
    vcpu.set_segment("cs", 0, 0, 0xFFFF, 0x9B)
    vcpu.set_segment("ss", 0x8000, 0x80000, 0xFFFF, 0x93)
    vcpu.set_table("idtr", 0, 0x3FF)
    memory.view(0)[6 * 4 : 6 * 4 + 4] = struct.pack("<HH", 0x2000, 0)
    memory.view(1)[:2] = b"\x0f\x0b"
    memory.view(2)[:1] = b"\xf4"
    vcpu.rsp, vcpu.rip = 0x1000, 0x1000
    assert vcpu.run(1000) == ExitReason.EXIT_HLT
    assert (vcpu.rip, vcpu.rsp) == (0x2001, 0xFFA)


@pytest.mark.parametrize("step", [False, True])
def test_a_string_instruction_that_overwrites_itself(step):
    """REP STOSB that comes down upon itself is PAUSE with its second byte gone, by blocks and by single steps."""
    machine = Machine(memory=1 << 20)
    machine.map(0x2000, 0x3000)
    machine.write(0x3800, b"\xf3\xaa" + b"\xf4" * 14)
    machine.rip, machine.rdi, machine.rcx, machine.rax, machine.rflags = 0x3800, 0x4010, 0x2000, 0x90, 0x402
    if step:
        while machine.rcx > 0x17F0 and machine.rip == 0x3800:
            machine.run(1)
        machine.run(5)
    else:
        machine.run(100)
    assert (machine.rdi, machine.rcx, machine.read(0x3800, 2)) == (0x3800, 0x17F0, b"\xf3\x90")


def test_flags_before_arpl_in_real_mode():
    """ARPL is undefined in real mode, so the flags of the instruction before it are in the frame, though the one behind sets them all."""
    machine = Machine(memory=1 << 20, mode=16)
    machine.map(0, 0x2000)
    machine.write(0x1000, bytes.fromhex("fec0" "44" "63e3" "31c0" "31c0" "f4"))            # inc al; inc sp; arpl; xor; xor; hlt
    machine.rip, machine.rax, machine.rsp = 0x1000, 0, 0x87FF
    stop = machine.run(10)
    assert (stop.reason, stop.vector, machine.rip) == (Reason.EXCEPTION, 6, 0x1003)
    assert machine.rflags & 0x8D5 == 0x94 and machine.rsp & 0xFFFF == 0x8800


@pytest.mark.parametrize("code", ["f36e", "f36f", "f36c", "f36d"])
def test_string_io_with_nothing_to_do(code):
    """REP INS and REP OUTS with a count of 0 just go on, translated too."""
    machine = Machine(memory=1 << 20)
    machine.map(0x1000, 0x1000)
    machine.write(0x1000, bytes.fromhex(code) + b"\xff\xc0\x3d\x00\x02\x00\x00\x75" + bytes([0x100 - 11]) + b"\xf4")
    machine.rip = 0x1000                                           # 1: rep ...; inc eax; cmp eax, 512; jne 1b; hlt
    machine.cpu.exact = False
    assert machine.run(100_000).reason is Reason.HLT
    assert machine.rax == 512


def test_an_alignment_check_that_cannot_be_delivered():
    """#AC whose frame is misaligned raises #AC for ever (CVE-2015-5307); run() comes back when its budget is used up."""
    machine = Machine(memory=1 << 20, mode=32, ring=3)
    machine.map(0x1000, 0x4000)
    machine.write(0x1000 + 0x18, bytes.fromhex("ffff000000fbcf00") + bytes.fromhex("ffff000000f3cf00"))     # GDT: 1Bh, 23h
    machine.write(0x2000 + 8 * 17, struct.pack("<HHHH", 0x3100, 0x1B, 0xEE00, 0))
    machine.write(0x3000, b"\xa1\x01\x40\x00\x00")                                                          # mov eax, [0x4001]
    machine.cpu.set_table("gdtr", 0x1000, 0x27)
    machine.cpu.set_table("idtr", 0x2000, 0x7FF)
    machine.cpu.set_segment("cs", 0x1B, 0, 0xFFFFFFFF, 0xC0FB)
    machine.cpu.set_segment("ss", 0x23, 0, 0xFFFFFFFF, 0xC0F3)
    machine.cpu.cr0 |= 1 << 18
    machine.rip, machine.rsp, machine.rflags = 0x3000, 0x4801, 0x40002
    assert machine.run(1000).reason is Reason.BUDGET
    assert machine.rip == 0x3000
