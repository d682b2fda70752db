"""Where the time of guests goes: places in the guest (sampled in the core), hypercalls in the core and in Python, other exits.

Set ``hypervisor.profiler`` before domains are created; ``report()`` at the end.  Off, it costs nothing.
"""

import bisect
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

from xenfast._core import ExitReason
from xenfast.xen import hypercall

if TYPE_CHECKING:
    from xenfast.xen.hypervisor import Hypervisor
    from xenfast.xen.vcpu import Vcpu


class Symbols:
    """Names of addresses."""

    def __init__(self, pairs: Iterable[tuple[int, str]]) -> None:
        table = sorted(pairs)
        self.addresses = [address for address, _ in table]
        self.names = [name for _, name in table]

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The form of System.map and /proc/kallsyms."""
        rows = (line.split() for line in text.splitlines())
        return cls((int(row[0], 16), row[2]) for row in rows if len(row) >= 3 and row[1] in "tTwW")

    def name(self, address: int) -> str:
        i = bisect.bisect_right(self.addresses, address) - 1
        if i < 0 or address - self.addresses[i] > 1 << 20:
            return ""
        return self.names[i]

    def place(self, address: int) -> str:
        """name+offset, or nothing."""
        name = self.name(address)
        return f"{name}+{address - self.addresses[bisect.bisect_right(self.addresses, address) - 1]:#x}" if name else ""


class Profiler:
    """Counts for all domains of a hypervisor."""

    def __init__(self, symbols: Symbols | None = None) -> None:
        self.symbols = symbols
        self.places: Counter[tuple[int, bool, bool]] = Counter()        # (rip, user, translated) -> ns
        self.samples: Counter[tuple[int, bool, bool]] = Counter()
        self.core_calls: Counter[int] = Counter()
        self.core_ns: Counter[int] = Counter()
        self.exits: Counter[str] = Counter()
        self.exit_ns: Counter[str] = Counter()
        self.statistics: Counter[str] = Counter()
        self.elsewhere = 0

    def timed(self, vcpu: "Vcpu", reason: int, answer: Callable[[int], None]) -> None:
        """Python answers an exit."""
        name = ExitReason(reason).name or str(reason)
        if reason == ExitReason.EXIT_HYPERCALL:
            name = hypercall.name_of(vcpu.core.exit_nr)
        start = time.perf_counter_ns()
        answer(reason)
        self.exit_ns[name] += time.perf_counter_ns() - start
        self.exits[name] += 1

    def collect(self, core: Any) -> None:
        """A vcpu is about to go: keep what it has seen."""
        if not core.profiling:
            return
        samples, calls, lost = core.profile()
        for rip, ns, count, user, translated in samples:
            self.places[rip, user, translated] += ns
            self.samples[rip, user, translated] += count
        for nr, (count, ns) in calls.items():
            self.core_calls[nr] += count
            self.core_ns[nr] += ns
        self.statistics.update(core.statistics())
        self.elsewhere += lost
        core.profiling = False

    def report(self, hypervisor: "Hypervisor", top: int = 25) -> dict[str, Any]:
        """All of it, for ``--json``; times in seconds.  Ends the profile."""
        for domain in hypervisor.domains.values():
            for vcpu in domain.vcpus:
                if vcpu.core is not None and vcpu.core.profiling:
                    self.collect(vcpu.core)

        def seconds(ns: int) -> float:
            return round(ns / 1e9, 6)

        tiers: Counter[str] = Counter()
        names: Counter[str] = Counter()
        for (rip, user, translated), ns in self.places.items():
            where = "user" if user else "kernel"
            tiers[f"{where}, {'translated' if translated else 'interpreted or between blocks'}"] += ns
            symbol = self.symbols.name(rip) if self.symbols is not None and not user else ""
            names["(user)" if user else symbol or f"{rip & ~0xFFF:#x}+"] += ns
        return {
            "guest_seconds": seconds(sum(self.places.values()) + self.elsewhere),
            "python_seconds": seconds(sum(self.exit_ns.values())),
            "tiers": {name: seconds(ns) for name, ns in tiers.most_common()},
            "symbols": {name: seconds(ns) for name, ns in names.most_common(top)},
            "blocks": [
                {"rip": f"{rip:#x}", "user": user, "translated": translated, "seconds": seconds(ns), "samples": self.samples[key]}
                for key, ns in self.places.most_common(top) for rip, user, translated in [key]
            ],
            "hypercalls_in_core": {
                hypercall.name_of(nr): {"calls": self.core_calls[nr], "seconds": seconds(ns)} for nr, ns in self.core_ns.most_common(top)
            },
            "exits": {name: {"exits": self.exits[name], "seconds": seconds(ns)} for name, ns in self.exit_ns.most_common(top)},
            "counters": dict(self.statistics),
        }


def table(report: dict[str, Any], rows: int = 12) -> str:
    """The report to be read, for standard error."""
    guest, python = report["guest_seconds"], report["python_seconds"]
    whole = guest + python or 1
    lines = [f"profile: {guest:.3f} s in the guest and the core, {python:.3f} s answering exits in Python"]

    def section(title: str, entries: list[tuple[str, float, str]]) -> None:
        lines.append(f"  {title}")
        lines.extend(f"    {seconds:9.4f} s {seconds / whole:6.1%}  {name}{more}" for name, seconds, more in entries[:rows])

    section("by tier", [(name, s, "") for name, s in report["tiers"].items()])
    section("by place in the guest", [(name, s, "") for name, s in report["symbols"].items()])
    section("by block", [(b["rip"], b["seconds"], f"  {b['samples']} samples") for b in report["blocks"]])
    section("hypercalls in the core (part of the guest's time)",
            [(name, c["seconds"], f"  {c['calls']} calls") for name, c in report["hypercalls_in_core"].items()])
    section("exits to Python", [(name, c["seconds"], f"  {c['exits']} exits") for name, c in report["exits"].items()])
    lines.append("  counters: " + ", ".join(f"{name} {n}" for name, n in report["counters"].items() if n))
    return "\n".join(lines)
