"""Run kernels on engines and compare: interleaved rounds, medians with their spread, geometric means, ratios.

One process of one engine after the other, all in one run: absolute times of different runs cannot be compared on a
shared machine, ratios within one run can.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.blobs import Kernel, build
from benchmarks.engines import Engine, EngineFailed, Result, Session


@dataclass
class Cell:
    """One kernel on one engine."""

    results: list[Result] = field(default_factory=list)
    failure: str | None = None

    @property
    def seconds(self) -> float:
        return statistics.median(result.seconds for result in self.results)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        times = [result.seconds for result in self.results]
        return (max(times) - min(times)) / self.seconds

    @property
    def checksums(self) -> set[int]:
        return {result.checksum for result in self.results}


@dataclass
class Comparison:
    kernels: Sequence[Kernel]
    engines: Sequence[Engine]
    cells: dict[tuple[str, str], Cell]

    def cell(self, kernel: Kernel, engine: str) -> Cell | None:
        """The cell, if it was measured and succeeded."""
        cell = self.cells.get((kernel.name, engine))
        return cell if cell is not None and cell.failure is None and cell.results else None

    def instructions(self, kernel: Kernel) -> int | None:
        """Guest instructions of one call, from an engine that counts them."""
        for engine in self.engines:
            cell = self.cell(kernel, engine.name)
            if cell and cell.results[0].instructions:
                return cell.results[0].instructions
        return None

    def mips(self, kernel: Kernel, engine: str) -> float | None:
        cell, count = self.cell(kernel, engine), self.instructions(kernel)
        return count / cell.seconds / 1e6 if cell and count else None

    def ratio(self, kernel: Kernel, engine: str, to: str) -> float | None:
        """Speed of one engine as a multiple of another's."""
        mine, other = self.cell(kernel, engine), self.cell(kernel, to)
        return other.seconds / mine.seconds if mine and other else None

    def mean_ratio(self, engine: str, to: str) -> tuple[float | None, int]:
        """Geometric mean of the ratios over the kernels both ran, and how many these are."""
        ratios = [r for kernel in self.kernels if (r := self.ratio(kernel, engine, to)) is not None]
        return geometric_mean(ratios), len(ratios)

    def wrong(self) -> list[str]:
        """Engines that failed or whose checksum is not the first engine's, a sentence each."""
        out = []
        for kernel in self.kernels:
            right: set[int] = set()
            for engine in self.engines:
                cell = self.cells.get((kernel.name, engine.name))
                if cell is None:
                    continue
                if cell.failure:
                    out.append(f"{kernel.name} on {engine.name}: {cell.failure}")
                    continue
                right = right or cell.checksums
                if cell.checksums != right:
                    got, want = (", ".join(f"{sum:x}" for sum in sorted(sums)) for sums in (cell.checksums, right))
                    out.append(f"{kernel.name} on {engine.name}: checksum {got}, not {want}")
        return out


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(value) for value in values]
    return math.exp(statistics.fmean(logs)) if logs else None


def available(engines: Iterable[Engine]) -> tuple[list[Engine], list[str]]:
    """The engines that can be had here, and a sentence for each that cannot."""
    here, notes = [], []
    for engine in engines:
        why = engine.missing()
        if why:
            notes.append(f"{engine.name} left out: {why}.")
        else:
            here.append(engine)
    return here, notes


def compare(
    kernels: Sequence[Kernel],
    engines: Sequence[Engine],
    rounds: int,
    scale: float = 1.0,
    progress: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Every kernel on every engine that can run it: for each kernel, ``rounds`` rounds over the engines in turn."""
    cells: dict[tuple[str, str], Cell] = {}
    for kernel in kernels:
        progress(kernel.name)
        blob = build(kernel)
        n = max(1, round(kernel.n * scale))
        with ExitStack() as stack:
            sessions: dict[str, Session] = {}
            for engine in engines:
                if kernel.needs in engine.can:
                    cells[kernel.name, engine.name] = Cell()
                    sessions[engine.name] = stack.enter_context(engine.open(blob))
            for turn in range(-1, rounds):
                for name in list(sessions):
                    cell = cells[kernel.name, name]
                    try:
                        result = sessions[name].run(n if turn >= 0 else max(1, n // 20))
                        if turn >= 0:
                            cell.results.append(result)
                    except EngineFailed as error:
                        cell.failure = str(error)
                        del sessions[name]
    return Comparison(kernels, engines, cells)
