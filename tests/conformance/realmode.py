"""Runs captured real-mode cases (moo.py) on our CPU and says what differs from the hardware.

One machine of 16 MB serves every case.  RAM is all zero between cases, so that a stray write shows: what a case did not
list as read or written must still be zero afterwards (looked at once a file, for speed).
"""

from __future__ import annotations

import numpy

from tests.conformance.moo import Case
from xenfast.machine import CODE16, DATA16, Machine, Reason

RAM = 16 << 20
BUDGET = 2000                          # instructions; a REP of 65535 iterations is begun some dozen times
GENERAL = {"ax": "rax", "bx": "rbx", "cx": "rcx", "dx": "rdx", "sp": "rsp", "bp": "rbp", "si": "rsi", "di": "rdi"}
SEGMENTS = ("cs", "ss", "ds", "es")
FLAGS_286 = 0x0FFF                     # rule "flags 12-15" of test_singlestep.RULES


class Hardware:
    """Our CPU in the seat of the 80286."""

    def __init__(self) -> None:
        self.machine = Machine(memory=RAM, mode=16)
        self.cpu = self.machine.cpu
        self.ram = self.machine.memory.view(0, RAM >> 12)

    def poke(self, cells: dict[int, int]) -> None:
        for address, value in cells.items():
            self.ram[address] = value
        for frame in {address >> 12 for address in cells}:
            self.machine.memory.wrote(frame)

    def clear(self, cells: dict[int, int]) -> None:
        for address in cells:
            self.ram[address] = 0

    def stray(self) -> int | None:
        """The first address that is not zero, after clear()."""
        data = numpy.frombuffer(self.ram, dtype=numpy.uint64)
        return int(data.nonzero()[0][0]) * 8 if data.any() else None

    def wipe(self) -> None:
        self.ram[:] = bytes(len(self.ram))

    def start(self, case: Case) -> None:
        cpu, regs = self.cpu, case.initial.regs
        cpu.cr0 = 0x10
        cpu.cpl = 0
        cpu.set_table("idtr", 0, 0x3FF)
        for name in SEGMENTS:
            cpu.set_segment(name, regs[name], regs[name] << 4, 0xFFFF, CODE16 if name == "cs" else DATA16)
        for name, ours in GENERAL.items():
            setattr(cpu, ours, regs[name])
        cpu.rflags = regs["flags"] & FLAGS_286 | 2
        cpu.rip = regs["ip"]
        self.poke(case.initial.ram)

    def registers(self) -> dict[str, int]:
        cpu = self.cpu
        out = {name: getattr(cpu, ours) for name, ours in GENERAL.items()}
        for name in SEGMENTS:
            out[name] = cpu.segment(name)[0]
        out["ip"] = cpu.rip
        out["flags"] = cpu.rflags
        return out

    def run(self) -> str:
        """Until the HLT behind the instruction or at its target; empty when it got there."""
        stop = self.machine.run(BUDGET)
        while stop.reason is Reason.PIO:                     # nobody answers on this bus
            if not stop.is_write:
                self.cpu.pio_return((1 << 8 * stop.size) - 1)
            stop = self.machine.run(BUDGET)
        return "" if stop.reason is Reason.HLT else f"ended with {stop.reason.name}"


def compare(hw: Hardware, case: Case, flags_mask: int, ignore: tuple[str, ...] = ()) -> list[str]:
    """What differs from the final state of the case."""
    out = []
    got = hw.registers()
    want = case.initial.regs | case.final.regs
    for name, value in want.items():
        mask = case.masks.get(name, 0xFFFF)
        if name in ignore:
            continue
        if name == "flags":
            mask &= flags_mask & FLAGS_286
        if (value ^ got[name]) & mask:
            out.append(f"{name} {got[name]:04x}, not {value:04x}" + (f" (mask {mask:04x})" if mask != 0xFFFF else ""))
    cells = case.initial.ram | case.final.ram
    masks = {}
    if case.vector is not None:
        # Of an odd stack pointer EXCP gives the address rounded down: it comes from SS:SP here.
        pushed = (want["ss"] << 4) + (want["sp"] + 4 & 0xFFFF)
        masks = {pushed: flags_mask & 0xFF, pushed + 1: flags_mask >> 8 & FLAGS_286 >> 8}
    for address, value in cells.items():
        if (hw.ram[address] ^ value) & masks.get(address, 0xFF):
            out.append(f"[{address:06x}] {hw.ram[address]:02x}, not {value:02x}")
    return out


def difference(hw: Hardware, case: Case, flags_mask: int, ignore: tuple[str, ...] = ()) -> list[str]:
    """Run one case; what comes out otherwise than on the hardware."""
    hw.start(case)
    moved = dict(zip(range(4 * 12, 4 * 13), (hw.ram[4 * 13 + i] for i in range(4)), strict=True))
    if case.vector == 13 and not moved.keys() & case.initial.ram.keys():
        hw.poke(moved)                  # rule "stack fault": vector 12 leads where 13 does
    ended = hw.run()
    out = ([ended] if ended else []) + compare(hw, case, flags_mask, ignore)
    hw.clear(case.initial.ram | case.final.ram)
    if case.vector == 13:
        hw.clear(moved)
    return out


def exception_of(hw: Hardware, case: Case) -> int | None:
    """The vector of the exception the instruction raises before it has done anything else; None when there is none."""
    hw.start(case)
    hw.cpu.set_table("idtr", 0, 0)
    stop = hw.machine.run(1)
    changed = any(hw.ram[address] != value for address, value in case.initial.ram.items())
    raised = stop.reason is Reason.EXCEPTION and not changed and hw.cpu.rip == case.initial.regs["ip"]
    if raised:
        hw.clear(case.initial.ram)
        return stop.vector
    hw.wipe()                           # it has written who knows where
    return None
