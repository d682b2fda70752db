"""How fast guest code runs: every kernel on every engine, the same bytes everywhere, checksums compared.

Reached for: 1.7 times the speed of QEMU's system TCG on integer code in long mode with
paging on.
"""

from __future__ import annotations

import pytest

from benchmarks.blobs import KERNELS, Unavailable, compiler
from benchmarks.engines import ENGINES
from benchmarks.measure import Comparison, available, compare, geometric_mean

REFERENCE = "qemu-system"
SUBJECT = "xenfast"
GOAL = 1.7
SLACK = 0.75                # single runs on a shared machine are this far off


@pytest.fixture(scope="module")
def setting(request):
    """The engines and kernels asked for, and what is missing."""
    try:
        compiler()
    except Unavailable as error:
        pytest.skip(str(error))
    names = [name for name in request.config.getoption("engines").split(",") if name]
    engines, notes = available(engine for engine in ENGINES if not names or engine.name in names)
    kernels = [name for name in request.config.getoption("kernels").split(",") if name]
    return engines, [kernel for kernel in KERNELS if not kernels or kernel.name in kernels], notes


def measured(setting, request, progress, floating: bool) -> tuple[Comparison, list[str]]:
    engines, kernels, notes = setting
    chosen = [kernel for kernel in kernels if (kernel.needs != "int") == floating]
    if not chosen:
        pytest.skip("no kernel of this kind was asked for")
    option = request.config.getoption
    return compare(chosen, engines, option("rounds"), option("scale"), progress), notes


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def show(report, title: str, c: Comparison, notes: list[str], rounds: int) -> None:
    """Tables of guest MIPS, and of speeds as multiples of the reference's."""
    names = [engine.name for engine in c.engines]
    total = len(c.kernels)
    others = [name for name in names if name != REFERENCE] if REFERENCE in names else []
    columns = ["kernel", "M insns", *names, *(f"{name}/{REFERENCE}" for name in others), "spread"]
    rows = []
    for kernel in c.kernels:
        count = c.instructions(kernel)
        spreads = [cell.spread for name in names if (cell := c.cell(kernel, name))]
        rows.append([
            kernel.name,
            number(count / 1e6 if count else None),
            *(number(c.mips(kernel, name)) for name in names),
            *(number(c.ratio(kernel, name, REFERENCE), 2) for name in others),
            f"{max(spreads):.0%}" if spreads else "-",
        ])  # fmt: skip
    means = [geometric_mean(m for kernel in c.kernels if (m := c.mips(kernel, name))) for name in names]
    ratios = {name: c.mean_ratio(name, REFERENCE) for name in others}
    rows.append(["geometric mean", "", *map(number, means), *(number(ratios[name][0], 2) for name in others), ""])
    remarks = [
        f"Guest MIPS by CPU time, median of {rounds} interleaved rounds; spread: the row's worst (max - min) / median.",
        *(f"{engine.name}: {engine.version()}" for engine in c.engines),
        *(f"{name}/{REFERENCE} is over {n} of {total} kernels." for name, (_, n) in ratios.items() if n < total),
        *notes,
        *c.wrong(),
    ]
    data = {
        "engines": {engine.name: engine.version() for engine in c.engines},
        "seconds": {f"{k}/{e}": [r.seconds for r in cell.results] for (k, e), cell in c.cells.items()},
        "mean_ratio": {name: ratio for name, (ratio, _) in ratios.items()},
    }
    report.add(title, columns, rows, remarks, **data)


def wrong_of_ours(c: Comparison) -> list[str]:
    return [text for text in c.wrong() if f" on {SUBJECT}" in text]


def bench_integer(setting, report, progress, request):
    """Integer code: right everywhere, and near the goal or better."""
    c, notes = measured(setting, request, progress, floating=False)
    show(report, "Integer kernels", c, notes, request.config.getoption("rounds"))
    assert not wrong_of_ours(c)
    ratio, _ = c.mean_ratio(SUBJECT, REFERENCE)
    if ratio is not None:
        assert ratio >= GOAL * SLACK, f"{ratio:.2f} times QEMU's system TCG; the goal is {GOAL}"


def bench_floating_point(setting, report, progress, request):
    """SSE2, x87 and AVX2 code, where the engine has them."""
    c, notes = measured(setting, request, progress, floating=True)
    show(report, "Floating-point and vector kernels", c, notes, request.config.getoption("rounds"))
    assert not wrong_of_ours(c)
