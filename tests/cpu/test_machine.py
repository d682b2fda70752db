"""The tools API: map, write, run, and why it stopped; blocks under writes, page ends and counts."""

import doctest

import pytest

from xenfast import machine
from xenfast.machine import Machine, Reason

CODE, DATA = 0x100000, 0x200000


def program(code, **registers):
    m = Machine(8 << 20)
    m.map(CODE, 0x3000)
    m.map(DATA, 0x2000)
    m.write(CODE, code)
    m.rip, m.rsp = CODE, DATA + 0x1000
    for name, value in registers.items():
        setattr(m, name, value)
    return m


def test_example_of_the_module():
    """The example in the module's docstring does what it says."""
    assert doctest.testmod(machine).failed == 0


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200, 1001])
def test_runs_for_exactly_so_many_instructions(count):
    """run(N) retires N instructions, whatever the blocks are."""
    m = program(bytes.fromhex("48ffc0 ebfb"))               # 1: inc rax; jmp 1b
    assert m.run(count).reason is Reason.BUDGET
    assert m.cpu.instructions == count
    assert m.rax == (count + 1) // 2


def test_stops_before_the_address_asked_for():
    """run(until=...) stops there, with the flags of the compare in front of it."""
    m = program(bytes.fromhex("4839d8 7400 48ffc0 f4"), rax=1, rbx=2)        # cmp rax, rbx; je +0; inc rax; hlt
    assert m.run(until=CODE + 5).reason is Reason.UNTIL
    assert (m.rip, m.rax, m.rflags & 0x8D5) == (CODE + 5, 1, 0x95)           # CF PF AF SF
    assert m.run().reason is Reason.HLT


def test_page_fault_leaves_everything_as_it_was():
    """A write to a page that is not there: vector 14, its error code and address, and no register changed."""
    m = program(bytes.fromhex("48ffc0 50 f4"), rax=5, rsp=0x5000)            # inc rax; push rax
    stop = m.run()
    assert (stop.reason, stop.vector, stop.error, stop.address) == (Reason.EXCEPTION, 14, 2, 0x4FF8)
    assert (m.rip, m.rsp, m.rax) == (CODE + 3, 0x5000, 6)


def test_read_only_and_no_execute_pages():
    """The rights given to map() hold: a write fault, a fetch fault."""
    m = program(bytes.fromhex("8907 f4"), rdi=DATA)                          # mov [rdi], eax
    m.map(DATA, 0x1000, writable=False)
    assert (m.run().error, m.rip) == (3, CODE)
    m.map(CODE, 0x1000, executable=False)
    assert m.run().error == 0x11


def test_code_that_writes_the_next_instruction():
    """A store into the running block takes effect at the next instruction."""
    m = program(bytes.fromhex("c7050000000029c09090 01c09090 f4"), rax=3)    # mov dword [rip+0], 9090c029h; add eax, eax
    assert m.run().reason is Reason.HLT
    assert m.rax == 0                                                        # sub eax, eax was there by then


def test_code_written_from_outside():
    """Machine.write() over code that has run: the new code runs."""
    m = program(bytes.fromhex("b801000000 f4"))
    m.run()
    m.write(CODE, bytes.fromhex("b802000000 f4"))
    m.rip = CODE
    m.run()
    assert m.rax == 2


def test_instruction_across_two_pages():
    """An instruction that crosses into the next page runs; when that page goes, it faults at the page's first byte."""
    m = program(b"")
    m.write(CODE + 0xFFD, bytes.fromhex("b878563412 f4"))                    # mov eax, 12345678h
    m.rip = CODE + 0xFFD
    assert m.run().reason is Reason.HLT and m.rax == 0x12345678
    m.map(CODE + 0x1000, 0x1000, executable=False)
    m.rip = CODE + 0xFFD
    stop = m.run()
    assert (stop.vector, stop.address, m.rip) == (14, CODE + 0x1000, CODE + 0xFFD)


def test_ports_end_the_run_and_take_a_value():
    """OUT tells port, size and value; IN waits for its value."""
    m = program(bytes.fromhex("e680 e560 f4"), rax=0xAB)                     # out 80h, al; in eax, 60h
    stop = m.run()
    assert (stop.reason, stop.port, stop.size, stop.is_write, stop.value & 0xFF) == (Reason.PIO, 0x80, 1, True, 0xAB)
    stop = m.run()
    assert (stop.port, stop.size, stop.is_write) == (0x60, 4, False)
    m.cpu.pio_return(0x12345678)
    assert m.run().reason is Reason.HLT and m.rax == 0x12345678


def test_memory_that_is_not_mapped_is_a_clear_error():
    """Reading what nobody mapped, or an odd size, is a ValueError that says what."""
    m = Machine(1 << 20)
    with pytest.raises(ValueError, match="0x5000 is not mapped"):
        m.read(0x5000, 1)
    with pytest.raises(ValueError, match="multiples of 4096"):
        m.map(1, 4096)
    with pytest.raises(MemoryError, match="larger memory"):
        m.map(0, 2 << 20)
