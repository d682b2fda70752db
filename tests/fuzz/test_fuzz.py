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
