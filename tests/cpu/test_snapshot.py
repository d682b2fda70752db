"""Snapshots: everything a program can change is put back, and only the pages it wrote are copied."""

import hashlib
import random

import pytest

from tests.cpu.test_hooks import CODE, DATA, STACK, machine
from xenfast import _core
from xenfast.machine import Reason


def state(m):
    """All a program can see: registers of every kind, and memory."""
    cpu = m.cpu
    return (cpu.general(), m.rip, m.rflags, cpu.vectors(), cpu.x87(), cpu.mxcsr, [cpu.segment(s) for s in _core.SEGMENTS], cpu.cr0, cpu.cr2,
            cpu.cr3, cpu.cr4, cpu.efer, cpu.instructions, hashlib.sha256(m.memory.view(0, m.memory.frames, readonly=True)).digest())


SCRAMBLE = """
    mov rax, 0x123456789
    mov [rdi], rax
    add qword ptr [rdi+0x1000], rax
    push rax
    lea rsi, [rdi]
    lea rdi, [rdi+0x2000]
    mov ecx, 16
    rep movsq
    movdqu xmm3, [rsi-64]
    vinsertf128 ymm4, ymm4, xmm3, 1
    fldpi
    fld1
    xor eax, eax
    mov ds, eax
    mov rax, cr4
    or eax, 0x80
    mov cr4, rax
    mov ecx, 0xC0000082
    mov edx, 0x6A0
    wrmsr
    mov eax, [0x7FFFFF00]
"""


def test_everything_is_put_back():
    """Registers, vector and x87 registers, segments, control registers, page tables, memory, the count of instructions."""
    m = machine(SCRAMBLE.replace("    vinsertf128 ymm4, ymm4, xmm3, 1\n", ""), rdi=DATA)
    before = state(m)
    snapshot = m.snapshot()
    assert state(m) == before
    for _ in range(3):
        stop = m.run()
        assert (stop.reason, stop.vector) == (Reason.EXCEPTION, 14) and state(m) != before
        written = m.restore(snapshot)
        assert state(m) == before
        assert 4 <= written <= 12                          # three pages of data, the stack, and A and D bits of page tables
    assert m.run().vector == 14


def test_only_written_pages_are_copied():
    """Ten pages written, ten pages (and the tables whose D bits were set) put back; pages only read are not."""
    m = machine("1: mov byte ptr [rdi], 1\n mov al, [rdi+0x20000]\n add rdi, 4096\n dec ecx\n jnz 1b\n hlt", rdi=DATA, rcx=10)
    m.map(DATA, 0x40000)
    m.run()
    snapshot = m.snapshot()
    m.rip, m.rdi, m.rcx = CODE, DATA, 10
    m.run()
    assert len(snapshot.dirty) == 10                        # (the tables had their bits before)
    assert m.restore(snapshot) == 10
    assert snapshot.dirty == []
    assert m.restore(snapshot) == 0


def test_code_that_was_changed_runs_as_it_was():
    """A program that writes its own code: after a restore the old code runs, decoded anew; unchanged code is not decoded again."""
    m = machine("mov byte ptr [rip+2], 5\n nop\n mov al, 1\n hlt")
    m.write(CODE + 8, bytes.fromhex("b001f4"))
    snapshot = m.snapshot()
    results = []
    for _ in range(2):
        m.run()
        results.append(m.rax)
        m.restore(snapshot)
    assert results[0] == results[1]
    m = machine("mov [rip+0x100], rax\n hlt")                # data beside the code, in its page
    m.run()
    m.rip = CODE
    snapshot = m.snapshot()
    decoded = m.cpu.statistics()["blocks_decoded"]
    for _ in range(5):
        m.run()
        assert m.restore(snapshot) == 1
    assert m.cpu.statistics()["blocks_decoded"] == decoded


def test_writes_of_the_host_are_put_back():
    """Machine.write() and map() after a snapshot are undone too."""
    m = machine("hlt")
    snapshot = m.snapshot()
    m.write(DATA, b"later")
    m.map(0x600000, 0x1000)
    m.write(0x600000, b"x")
    m.restore(snapshot)
    assert m.read(DATA, 5) == bytes(5)
    with pytest.raises(ValueError, match="not mapped"):
        m.read(0x600000, 1)
    m.map(0x600000, 0x1000)
    assert m.read(0x600000, 1) == b"\0"


def test_snapshots_are_a_stack():
    """An older snapshot can be restored over a newer one, which is then gone; discarding keeps what the older one needs."""
    m = machine("hlt")
    states = []
    snapshots = []
    for i in range(4):
        states.append(state(m))
        snapshots.append(m.snapshot())
        m.write(DATA + 0x1000 * (i % 2), bytes([i + 1]))
        m.rax = i
    m.restore(snapshots[3])
    assert state(m) == states[3]
    snapshots[1].discard()
    m.restore(snapshots[2])
    assert state(m) == states[2]
    with pytest.raises(ValueError, match="no more"):
        snapshots[3].restore()
    with pytest.raises(ValueError, match="no more"):
        snapshots[1].restore()
    m.restore(snapshots[0])
    assert state(m) == states[0]
    del snapshots[:]
    m.write(DATA, b"free")
    assert m.read(DATA, 4) == b"free"


def test_random_lives_of_snapshots():
    """Pushes, writes, restores and discards in any order, against copies of the whole memory."""
    rng = random.Random(3)
    m = machine("mov [rdi], al\n mov [rdi+0x800], rdi\n hlt")
    stack = []
    for _ in range(300):
        action = rng.randrange(6)
        if action == 0 and len(stack) < 5:
            stack.append((m.snapshot(), state(m)))
        elif action == 1 and stack:
            k = rng.randrange(len(stack))
            del stack[k + 1:]
            m.restore(stack[k][0])
            assert state(m) == stack[k][1]
        elif action == 2 and stack and rng.randrange(3) == 0:
            stack.pop(rng.randrange(len(stack)))[0].discard()
        elif action == 3:
            m.write(rng.choice([DATA, CODE + 0x1000, STACK]) + rng.randrange(4096), bytes([rng.randrange(256)]))
        else:
            m.rip, m.rdi, m.rax = CODE, DATA + rng.randrange(0x2000), rng.randrange(256)
            m.run()


def test_snapshot_in_a_hook():
    """A fuzzing loop without leaving run(): a hook at the end restores, and execution goes on at the snapshot."""
    m = machine("mov al, [rdi]\n add [rdi+1], al\n inc byte ptr [rdi+2]\n hlt", rdi=DATA)
    snapshot = m.snapshot()
    seen = []

    def end(m, address, size):
        seen.append(m.read(DATA, 3))
        m.restore(snapshot)
        if len(seen) < 5:
            m.write(DATA, bytes([len(seen)]))
        else:
            m.stop()

    m.hook_code(end, mnemonics=["HLT"])
    assert m.run().reason is Reason.STOP
    assert seen == [bytes([i, i, 1]) for i in range(5)]


def test_hot_code_does_not_write_behind_a_snapshot():
    """Translated loops that have written a page thousands of times note it again after every snapshot and restore."""
    m = machine("1: inc qword ptr [rdi]\n mov [rdi+8], rcx\n dec ecx\n jnz 1b\n hlt", rdi=DATA, rcx=5000)
    m.run()
    m.rip, m.rcx = CODE, 3000
    snapshot = m.snapshot()
    for _ in range(3):
        m.run()
        assert int.from_bytes(m.read(DATA, 8), "little") == 8000 and len(snapshot.dirty) == 1
        assert m.restore(snapshot) == 1
        assert int.from_bytes(m.read(DATA, 8), "little") == 5000


def test_misuse_is_refused():
    """Vcpus of different memories are an error."""
    with pytest.raises(ValueError, match="at least one"):
        _core.Snapshot()
    with pytest.raises(ValueError, match="share one memory"):
        _core.Snapshot(machine("hlt").cpu, machine("hlt").cpu)
