"""Playing a case: by the interpreter, one instruction at a time, and by the translator, which must agree on everything."""

from __future__ import annotations

import platform
import struct
import sys

from tests.fuzz.cases import CODE, FRAMES, SEGMENTS, TSS, Case
from xenfast import _core
from xenfast._core import ExitReason

ENTRIES = 10                          # of run(), for each case
WAYS = ["steps", "translated"] if platform.machine() == "x86_64" and sys.platform == "linux" else ["steps"]
ENDS = (ExitReason.EXIT_SHUTDOWN, ExitReason.EXIT_CRASH)


class Board:
    """Memory that is used for one case after the other; each gets a vcpu of its own, so that it depends on nothing before it."""

    def __init__(self) -> None:
        self.memory = _core.Memory(FRAMES)
        self.view = self.memory.view(0, FRAMES)
        self.free = self.memory.free_pages

    def load(self, case: Case, way: str) -> _core.Vcpu:
        self.view[:] = case.memory
        physmap = _core.GuestPhysMap(FRAMES * 2)
        physmap.set(0, range(FRAMES))
        for gfn in case.holes:
            physmap.clear(gfn)
        for gfn in case.readonly:
            physmap.set(gfn, [gfn], readonly=True)
        v = _core.Vcpu(self.memory, physmap, _core.MachineClock(virtual=True))
        v.set_general(case.general)
        v.set_vectors(case.vectors)
        v.set_x87(*case.x87)
        v.mxcsr = case.mxcsr & 0xFFFF
        v.efer, v.cr4, v.cr3, v.cr0 = case.efer, case.cr4, case.cr3, case.cr0
        v.rflags, v.xcr0 = case.rflags, case.xcr0
        for name, fields in case.segments.items():
            v.set_segment(name, *fields)
        v.set_segment("tr", 0x30, TSS, 0x2067, 0x8B)
        v.set_segment("ldtr", 0, 0, 0, 0)
        for name, (base, limit) in case.tables.items():
            v.set_table(name, base, limit)
        v.cpl, v.rip, v.exact = case.cpl, case.rip, True
        v.engine = "translator" if way == "translated" else "interpreter"
        if way == "translated":
            v.hot_after, v.strict_flags = 1, True
        v.flush()
        return v


def state(v: _core.Vcpu, board: Board) -> dict[str, object]:
    out: dict[str, object] = {name: getattr(v, name) for name in ("rip", "rflags", "cpl", "cr0", "cr2", "cr3", "cr4", "efer", "mxcsr")}
    out["general"] = struct.unpack("<16Q", v.general())
    out |= {name: v.segment(name) for name in (*SEGMENTS, "tr", "ldtr")}
    out["vectors"], out["x87"] = v.vectors(), v.x87()
    out["memory"] = bytes(board.view)
    return out


def slice_of(v: _core.Vcpu, budget: int, way: str) -> int:
    """Run that many instructions at once, or one after the other; returns the last reason."""
    if way != "steps":
        return v.run(budget)
    end = v.instructions + budget
    reason = ExitReason.EXIT_BUDGET
    while v.instructions < end and reason == ExitReason.EXIT_BUDGET:
        reason = v.run(1)
    return reason


def answer(v: _core.Vcpu, case: Case, entry: int, reason: int) -> bool:
    """What a machine around the vcpu would do about the exit; False when that was the end."""
    value = case.answers[entry % len(case.answers)]
    if reason == ExitReason.EXIT_PIO and not v.exit_is_write:
        v.pio_return(value)
    elif reason == ExitReason.EXIT_MMIO:
        v.mmio_return(value)
    elif reason in (ExitReason.EXIT_EXCEPTION, ExitReason.EXIT_HLT):
        v.rip = case.starts[value % len(case.starts)]
    return reason not in ENDS


def play(case: Case, board: Board, way: str = "blocks", exact: bool = True) -> tuple[list[tuple], dict[str, object]]:
    """What happened at each exit, and the state at the end."""
    v = board.load(case, way)
    v.exact = exact
    log = []
    for entry in range(ENTRIES):
        before = v.instructions
        reason = slice_of(v, case.budget, way)
        ran = v.instructions - before
        assert 0 <= ran <= case.budget + (0 if exact else 64), f"{ran} instructions of {case.budget}"
        log.append((ExitReason(reason).name, v.rip, ran, v.exit_nr, v.exit_code, v.exit_port, v.exit_address))
        if not answer(v, case, entry, reason):
            break
    assert board.memory.free_pages == board.free, "the frame table has changed"
    result = state(v, board)
    v.unknown()
    v.statistics()
    return log, result


def differences(case: Case, board: Board) -> list[str]:
    """Where the interpreter's blocks disagree with single steps or, but for undefined flags, with the translator."""
    from tests.fuzz.undefined import undefined

    log, end = play(case, board)
    if reads_the_clock(case):
        return []
    lines = []
    for way in WAYS:
        log2, end2 = play(case, board, way)
        if way == "translated":
            end["x87"], end2["x87"] = without_c1(end["x87"]), without_c1(end2["x87"])
        new = [f"exit {i}: blocks {a}, {way} {b}" for i, (a, b) in enumerate(zip(log, log2, strict=False)) if a != b][:2]
        new += [f"{name}: blocks {end[name]!r}, {way} {end2[name]!r}" for name in end if end[name] != end2[name] and name != "memory"]
        if end["memory"] != end2["memory"]:
            at = next(i for i in range(FRAMES << 12) if end["memory"][i] != end2["memory"][i])       # type: ignore[index]
            new.append(f"memory: blocks and {way} differ from {at:#x} on")
        if new and way == "translated":
            mask, seen = undefined(case, board)
            flags = int(end["rflags"]) ^ int(end2["rflags"])                                         # type: ignore[call-overload]
            if seen or (len(new) == 1 and flags and not flags & ~mask):
                new = []
        lines += new
    return lines


def without_c1(x87: object) -> object:
    """FCMOV leaves C1 undefined; FCOMI clears it (SDM) or leaves it (AMD), and translated code does as the host."""
    fcw, fsw, *rest = x87                                                                            # type: ignore[misc]
    return (fcw, fsw & ~0x200, *rest)


def reads_the_clock(case: Case) -> bool:
    """RDTSC and RDTSCP see time as of the start of a block, so that blocks and steps differ there by design."""
    return any(case.memory.find(code, CODE) >= 0 for code in (b"\x0f\x31", b"\x0f\x01\xf9"))
