"""``--trace`` and the tracer behind it."""

import io
import re
import sys

import pytest

from tests.cli.test_cli import xenfast
from xenfast import trace
from xenfast.errors import XenfastError
from xenfast.machine import Machine

CODE = bytes.fromhex("b82a000000 ffc0 0f0b".replace(" ", ""))       # mov eax, 42; inc eax; ud2


@pytest.fixture
def m():
    machine = Machine(memory=1 << 20)
    machine.map(0x1000, 0x1000)
    machine.write(0x1000, CODE)
    machine.rip = 0x1000
    return machine


def traced(m: Machine, *kinds: str, **options) -> list[str]:
    stream = io.StringIO()
    tracer = m.trace(kinds, stream, **options)
    m.run(100)
    tracer.close()
    return stream.getvalue().splitlines()


def test_instructions_and_exceptions(m):
    """Each instruction is a line with its address and text, each exception one with vector and error code."""
    pytest.importorskip("capstone")
    assert traced(m, "exec", "int") == [
        "0000000000001000: mov eax, 0x2a", "0000000000001005: inc eax", "0000000000001007: ud2",
        "int 0x06 #UD error 0x0 at 0000000000001007",
    ]  # fmt: skip


def test_start_and_count(m):
    """A trace begins at an address and ends after so many lines."""
    pytest.importorskip("capstone")
    assert traced(m, "exec", start=0x1005, count=1) == ["0000000000001005: inc eax"]


def test_a_closed_trace_is_silent(m):
    """After close() nothing is written."""
    stream = io.StringIO()
    m.trace(["int"], stream).close()
    m.run(100)
    assert stream.getvalue() == ""


def test_without_the_disassembler(monkeypatch):
    """A trace of instructions without capstone is refused in one sentence that says how to get it."""
    monkeypatch.setitem(sys.modules, "capstone", None)
    with pytest.raises(XenfastError, match="needs the disassembler capstone"):
        trace.disassembler()


def test_run_traces_a_guest(tmp_path):
    """``xenfast run --trace`` writes the guest's hypercalls by name and its instructions to a file."""
    pytest.importorskip("capstone")
    out = tmp_path / "trace"
    done = xenfast("run", "--trace", "exec,hypercall", "--trace-file", out, "--trace-count", "5000", "--clock", "virtual")
    assert done.returncode == 0, done.stderr
    lines = out.read_text().splitlines()
    assert lines and all(line.startswith("d1v0 ") for line in lines) and len(lines) <= 5000
    assert any(": mov " in line for line in lines) and any(line.startswith("d1v0 hypercall ") for line in lines)


def test_mmu_results_and_symbols(tmp_path):
    """Of a guest: walks and flushes, what hypercalls return, and names of places from --symbols."""
    pytest.importorskip("capstone")
    out, names = tmp_path / "trace", tmp_path / "System.map"
    names.write_text("ffffffff80000000 T setup\nffffffff80000181 T start\n")
    done = xenfast("run", "--trace", "exec,hypercall,mmu", "--trace-file", out, "--symbols", names, "--clock", "virtual")
    assert done.returncode == 0, done.stderr
    lines = out.read_text().splitlines()
    assert any(re.fullmatch(r"d1v0 mmu fetch [0-9a-f]{16} -> [0-9a-f]{16} frame 0x[0-9a-f]+ u[w-]x[g-] 4K", line) for line in lines)
    calls = [line for line in lines if line.startswith("d1v0 hypercall console_io(")]
    results = [line for line in lines if re.fullmatch("d1v0 hypercall console_io = 0x[0-9a-f]+", line)]
    assert len(calls) == len(results) > 0
    first = next(i for i, line in enumerate(lines) if line in results)
    assert "syscall" in lines[first - 2] and lines[first - 1] == calls[0] and "<start+" in lines[first + 1]
    assert any(line.startswith("d1v0 ffffffff80000181 <start+0x0>: ") for line in lines)
    assert any(line.startswith("d1v0 ffffffff80000004 <setup+0x4>: ") for line in lines)


@pytest.mark.parametrize(("arguments", "says"), [
    (["--trace", "cache"], "there is no trace of 'cache' (exec, int, hypercall, mmu)"),
    (["--trace-count", "5"], "--trace says what to trace"),
    (["--trace", "int", "--trace-start", "here"], "--trace-start needs an address, not 'here'"),
])  # fmt: skip
def test_mistakes(arguments, says):
    """A mistake is one sentence."""
    done = xenfast("run", *arguments)
    assert done.returncode == 1 and says in done.stderr and len(done.stderr.splitlines()) == 1
