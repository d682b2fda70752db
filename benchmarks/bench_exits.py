"""What it costs to leave the guest: a call of run() that returns at once, a port access that Python answers."""

from __future__ import annotations

import importlib.util
import statistics
import time

import pytest

CODE, COUNT = 0x10000, 5000
OUT_LOOP = bytes.fromhex("e6 80 eb fc")          # 1: out 0x80, al; jmp 1b
NOP_LOOP = bytes.fromhex("90 eb fd")             # 1: nop; jmp 1b


def xenfast_machine(code: bytes):
    machine = pytest.importorskip("xenfast.machine").Machine(memory=1 << 20)
    machine.map(CODE, 0x1000)
    machine.write(CODE, code)
    machine.rip = CODE
    return machine


def xenfast_pio() -> None:
    machine = xenfast_machine(OUT_LOOP)
    run = machine.cpu.run
    yield
    while True:
        for _ in range(COUNT):
            run()
        yield


def xenfast_run() -> None:
    machine = xenfast_machine(NOP_LOOP)
    run = machine.cpu.run
    yield
    while True:
        for _ in range(COUNT):
            run(1)
        yield


def unicorn_pio() -> None:
    import unicorn
    from unicorn import x86_const

    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    uc.mem_map(CODE, 0x1000)
    uc.mem_write(CODE, OUT_LOOP)
    left = [0]

    def out(engine, port, size, value, data):
        left[0] -= 1
        if left[0] <= 0:
            engine.emu_stop()

    uc.hook_add(unicorn.UC_HOOK_INSN, out, None, 1, 0, x86_const.UC_X86_INS_OUT)
    yield
    while True:
        left[0] = COUNT
        uc.emu_start(CODE, 0)
        yield


def unicorn_run() -> None:
    import unicorn

    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    uc.mem_map(CODE, 0x1000)
    uc.mem_write(CODE, NOP_LOOP)
    yield
    while True:
        for _ in range(COUNT):
            uc.emu_start(CODE, 0, count=1)
        yield


CASES = {
    "run() of one instruction": {"xenfast": xenfast_run, "unicorn": unicorn_run},
    "OUT answered in Python": {"xenfast": xenfast_pio, "unicorn": unicorn_pio},
}


def bench_exits(report, progress, request):
    """ns of CPU time for each way out, median of interleaved rounds."""
    names = ["xenfast", *(["unicorn"] if importlib.util.find_spec("unicorn") else [])]
    rows, data = [], {}
    for label, makers in CASES.items():
        progress(label)
        loops = {name: makers[name]() for name in names}
        for loop in loops.values():
            next(loop)
            next(loop)
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(request.config.getoption("rounds")):
            for name, loop in loops.items():
                start = time.thread_time_ns()
                next(loop)
                times[name].append((time.thread_time_ns() - start) / COUNT)
        data[label] = {name: statistics.median(times[name]) for name in names}
        rows.append([label, *(f"{data[label][name]:.0f}" for name in names)])
    report.add("Exits, ns of CPU time", ["exit", *names], rows, nanoseconds=data)
