"""What paging costs: a TLB hit, a miss with its walk of four levels, a flush."""

from __future__ import annotations

import pytest

from benchmarks.blobs import MMU_KERNELS, Unavailable, compiler
from benchmarks.engines import ENGINES
from benchmarks.measure import Comparison, available, compare

PER_ROUND = {"mmu_hit": 4096, "mmu_miss": 4096, "mmu_flush": 1}


def nanoseconds(c: Comparison, kernel, engine: str, scale: float) -> float | None:
    """Time of one access (mmu_hit, mmu_miss) or of one flush with what follows."""
    cell = c.cell(kernel, engine)
    return cell.seconds * 1e9 / (max(1, round(kernel.n * scale)) * PER_ROUND[kernel.name]) if cell else None


def bench_mmu(report, progress, request):
    """Misses and flushes are right on every engine; their cost is told."""
    try:
        compiler()
    except Unavailable as error:
        pytest.skip(str(error))
    option = request.config.getoption
    engines, notes = available(ENGINES)
    scale = option("scale")
    c = compare(MMU_KERNELS, engines, option("rounds"), scale, progress)
    names = [engine.name for engine in engines]
    rows, data = [], {}
    for kernel in MMU_KERNELS:
        values = {name: nanoseconds(c, kernel, name, scale) for name in names}
        data[kernel.name] = values
        rows.append([f"{kernel.name}: {kernel.what}", *("-" if v is None else f"{v:.2f}" for v in values.values())])
    notes.insert(0, "ns of CPU time: for a load (hit, miss), for a flush with the 16 misses behind it.")
    report.add("Paging", ["kernel", *names], rows, [*notes, *c.wrong()], nanoseconds=data)
    assert not [text for text in c.wrong() if " on xenfast" in text]
