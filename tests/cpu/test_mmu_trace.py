"""What the core tells of the MMU (mmu_trace.pxi) and how the tracer writes it."""

import io

import pytest

from tests.cpu.paging_guest import CODE, DATA, OTHER, WRITABLE, Guest
from tests.cpu.paging_machine import MODES, NX, RW, P
from xenfast.errors import XenfastError
from xenfast.trace import Tracer


@pytest.mark.parametrize("mode", MODES)
def test_fills_and_flushes(mode):
    """A walk is told once until a flush, with where it leads and what is allowed there; so are INVLPG and MOV CR3."""
    g = Guest(mode)
    nx = NX if mode != "32" else 0
    g.flags(DATA, WRITABLE | nx, frame=OTHER)
    a = "rax" if g.bits == 64 else "eax"
    g.cpu.trace_mmu(lambda: None)
    g.run(f"mov [{DATA}], eax; mov eax, [{DATA + 8}]; invlpg [{DATA}]; mov eax, [{DATA + 16}]; mov {a}, cr3; mov cr3, {a}; nop")
    events, lost = g.cpu.mmu_events()
    code = ("fetch", CODE, CODE, CODE >> 12, "-wx-", 12)
    data = (DATA, OTHER, OTHER >> 12, "uw--" if nx else "uwx-", 12)
    told = [event for event in events if event[0] != "fetch"]
    assert events[0] == code and lost == 0
    assert told[0] == ("write", *data)
    assert ("flush page", DATA, 0, 0, "----", 0) in told and ("flush non-global", 0, 0, 0, "----", 0) in told
    at = told.index(("flush page", DATA, 0, 0, "----", 0))
    assert told[at + 1] == ("read", *data) and told[at + 2][0] == "flush non-global"
    assert g.cpu.mmu_events() == ([], 0)


def test_faults_are_no_fills():
    """A walk that ends in #PF is not told, and a read-only page says so."""
    g = Guest("4level")
    g.cpu.cr0 |= 1 << 16
    g.flags(DATA, P)
    g.flags(OTHER, 0)
    g.cpu.trace_mmu(lambda: None)
    assert g.run(f"mov eax, [{DATA}]; mov eax, [{OTHER}]") == (14, 0)
    events, _ = g.cpu.mmu_events()
    assert ("read", DATA, DATA, DATA >> 12, "--x-", 12) in events and not any(event[1] == OTHER for event in events)


def test_what_is_lost_is_counted():
    """The ring keeps the last 4096 events and counts the others; the reader is called when run() returns."""
    g, calls = Guest("4level"), []
    g.cpu.trace_mmu(lambda: calls.append(1))
    g.run(f"mov ecx, 5000; again: invlpg [{DATA}]; dec ecx; jnz again", count=20000)
    assert calls == [1]
    events, lost = g.cpu.mmu_events()
    assert len(events) == 4096 and 904 <= lost < 920 and events[-1][:2] == ("flush page", DATA)
    g.cpu.trace_mmu(None)
    assert g.cpu.mmu_events() == ([], 0) and not g.cpu.mmu_traced


def test_lines():
    """The tracer writes events before the exception they come before; one tracer a vcpu; nothing after close()."""
    g = Guest("4level")
    g.flags(DATA, P | RW)
    g.flags(OTHER, 0)
    stream = io.StringIO()
    tracer = Tracer(["int", "mmu"], stream)
    tracer.attach(g.cpu, "v0 ")
    with pytest.raises(XenfastError, match="once at a time"):
        Tracer(["mmu"], stream).attach(g.cpu)
    assert g.run(f"mov [{DATA}], eax; invlpg [{DATA}]; mov eax, [{OTHER}]") == (14, 0)
    tracer.close()
    lines = [line for line in stream.getvalue().splitlines() if "flush all" not in line]
    assert lines[:3] == [
        "v0 mmu fetch 0000000000001000 -> 0000000000001000 frame 0x1 -wx- 4K",
        "v0 mmu write 0000000000200000 -> 0000000000200000 frame 0x200 -wx- 4K",
        "v0 mmu flush page 0000000000200000",
    ]
    assert [line.split(" at ")[0] for line in lines if " int " in line] == [f"v0 int 0x0e #PF error 0x0 cr2 {OTHER:#x}"]
    size = len(stream.getvalue())
    g.run(f"invlpg [{DATA}]; mov [{DATA}], eax")
    assert len(stream.getvalue()) == size
