"""Two sides of a page table: the walk's A and D, and a processor that takes the page away (SDM Vol. 3, 4.8)."""

import struct
import threading
import time

import pytest

from tests.cpu.asm import assemble
from xenfast import _core

MEMORY, CODE, ROOT, DATA, PTE = 8 << 20, 0x1000, 0x100000, 0x200000, 0x103000


def guest():
    """Ring 0 of 64-bit mode; the first 2 MBytes large, DATA by an entry of its own at PTE."""
    memory = _core.Memory(MEMORY >> 12)
    physmap = _core.GuestPhysMap(MEMORY >> 12)
    physmap.set(0, range(MEMORY >> 12))
    ram = memory.view(0, MEMORY >> 12)
    for at, value in ((ROOT, 0x101003), (0x101000, 0x102003), (0x102000, 0x83), (0x102008, PTE | 3)):
        ram[at : at + 8] = struct.pack("<Q", value)
    cpu = _core.Vcpu(memory, physmap)
    cpu.set_table("idtr", 0, 0)
    cpu.cr4, cpu.efer, cpu.cr3 = 0x20, 0xD00, ROOT
    cpu.cr0 = 0x80010011
    cpu.set_segment("cs", 8, 0, 0xFFFFFFFF, 0xA09B)
    for name in ("ss", "ds", "es"):
        cpu.set_segment(name, 16, 0, 0xFFFFFFFF, 0xC093)
    return cpu, ram, _core.SharedWords(memory.view(PTE >> 12))


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
def test_an_entry_that_is_taken_away_stays_away(engine):
    """A guest writes through an entry that another processor clears: it faults, and its A and D stay clear."""
    cpu, ram, entry = guest()
    cpu.engine = engine
    code = assemble(f"1: invlpg [{DATA}]; mov [{DATA}], eax; jmp 1b", 64, CODE)
    ram[CODE : CODE + len(code)] = code
    for _ in range(40):
        entry.store32(0, DATA | 3)
        cpu.rip = CODE
        done = []
        thread = threading.Thread(target=lambda done=done: done.append(cpu.run()))
        thread.start()
        while not entry.load32(0) & 0x40:
            time.sleep(0)
        for _ in range(20):  # clear D, as a system that writes pages out does
            value = entry.load32(0)
            if entry.cas32(0, value, value & ~0x60):
                assert entry.load32(0) & ~0x60 == DATA | 3
        value = entry.load32(0)
        while not entry.cas32(0, value, 0):
            value = entry.load32(0)
        thread.join()
        assert done == [_core.ExitReason.EXIT_EXCEPTION] and cpu.exit_nr == 14
        assert entry.load32(0) == 0
