"""What hooks and snapshots cost: a counting block hook against Unicorn's, callbacks, restores by the number of dirty pages.

Reached for: kernels under a counting block hook at 20 times Unicorn's speed; a restore of ten dirty pages in a few microseconds.
"""

from __future__ import annotations

import importlib.util
import statistics
import time

import pytest

machine = pytest.importorskip("xenfast.machine")

CODE, DATA, LOOPS = 0x10000, 0x200000, 300_000
# a loop of three basic blocks: 1: add eax, ecx; test al, 7; jz 2f; inc ebx; 2: dec ecx; jnz 1b; hlt
BRANCHES = bytes.fromhex("01c8 a807 7402 ffc3 ffc9 75f4 f4")
# 1: mov byte [rdi], 1; add rdi, 4096; dec ecx; jnz 1b; hlt
DIRTY = bytes.fromhex("c60701 4881c700100000 ffc9 75f2 f4")


def xenfast_blocks(hooking: str):
    """(seconds, blocks) of the loop, with a hook of the kind named."""
    m = machine.Machine(memory=4 << 20)
    m.map(CODE, 0x1000)
    m.write(CODE, BRANCHES)
    options = {"count": {}, "edges": {"cover": bytearray(1 << 16)}, "callback": {"callback": lambda *_: None}, "none": None}[hooking]
    hook = m.hook_block(**options) if options is not None else None
    loops = LOOPS if hooking == "callback" else LOOPS * 30
    while True:
        m.rip, m.rcx = CODE, loops
        if hook is not None:
            hook.hits = 0
        start = time.thread_time()
        m.run()
        yield (time.thread_time() - start) / loops


def unicorn_blocks(hooking: str):
    import unicorn
    from unicorn import x86_const

    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    uc.mem_map(CODE, 0x1000)
    uc.mem_write(CODE, BRANCHES)
    count = [0]

    def block(engine, address, size, data):
        count[0] += 1

    if hooking != "none":
        uc.hook_add(unicorn.UC_HOOK_BLOCK, block)
    loops = LOOPS // 10 if hooking != "none" else LOOPS
    while True:
        uc.reg_write(x86_const.UC_X86_REG_RCX, loops)
        start = time.thread_time()
        uc.emu_start(CODE, CODE + len(BRANCHES) - 1)
        yield (time.thread_time() - start) / loops


def bench_block_hooks(report, request):
    """Time of one turn of a loop of two to three basic blocks."""
    cases = [("xenfast, no hook", xenfast_blocks("none")), ("xenfast, counting in the core", xenfast_blocks("count")),
             ("xenfast, AFL edge map in the core", xenfast_blocks("edges")), ("xenfast, Python callback", xenfast_blocks("callback"))]
    if importlib.util.find_spec("unicorn") is not None:
        cases += [("unicorn, no hook", unicorn_blocks("none")), ("unicorn, counting callback", unicorn_blocks("count"))]
    times: dict[str, list[float]] = {name: [] for name, _ in cases}
    for _ in range(request.config.getoption("rounds")):
        for name, case in cases:
            times[name].append(next(case))
    median = {name: statistics.median(values) for name, values in times.items()}
    rows = [[name, f"{t * 1e9:.1f}", f"{(max(times[name]) - min(times[name])) / t:.0%}"] for name, t in median.items()]
    ratio = median.get("unicorn, counting callback", 0) / median["xenfast, counting in the core"]
    report.add("Block hooks", ["case", "ns a turn", "spread"], rows,
               [f"Counting block hook: {ratio:.0f} times Unicorn's speed (both from Python)."] if ratio else [], seconds=times)
    assert not ratio or ratio > 20


def bench_restore(report, request):
    """Snapshot, run, restore: by the number of pages written."""
    rows, data = [], {}
    for pages in (1, 10, 100, 1000):
        m = machine.Machine(memory=16 << 20)
        m.map(CODE, 0x1000)
        m.map(DATA, pages * 4096)
        m.write(CODE, DIRTY)
        m.rip, m.rdi, m.rcx = CODE, DATA, pages
        m.run()                                           # page tables have their A and D bits from here on
        m.rip, m.rdi, m.rcx = CODE, DATA, pages
        snapshot = m.snapshot()
        restores, runs = [], []
        for _ in range(max(50, 2000 // pages)):
            start = time.perf_counter_ns()
            m.cpu.run()
            middle = time.perf_counter_ns()
            assert snapshot.restore() == pages
            restores.append((time.perf_counter_ns() - middle) / 1e3)
            runs.append((middle - start) / 1e3)
        data[str(pages)] = statistics.median(restores)
        rows.append([str(pages), f"{statistics.median(restores):.2f}", f"{statistics.median(runs):.2f}"])
    report.add("Snapshots", ["pages written", "us to restore", "us to run"], rows, ["Median; the run includes noting the pages."], **data)
    assert data["10"] < 10
