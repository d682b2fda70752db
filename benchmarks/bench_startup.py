"""What a short run costs: importing, a guest of a few instructions from the shell, the memory of a 256 MiB guest.

Reached for: ``import xenfast`` at most 0.05 s beyond numpy; the shipped PV guest, which prints and exits, under 0.4 s
from the shell; at most 150 MiB of host memory for a 256 MiB guest that touches next to nothing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SLACK = 2.0                 # of absolute goals on machines that are shared
IMPORT_GOAL, GUEST_GOAL, MEMORY_GOAL = 0.05, 0.4, 150.0

IMPORTS = {
    "import xenfast beyond numpy": "import numpy, time; t = time.perf_counter(); import xenfast; print(time.perf_counter() - t)",
    "... and Host used": "import numpy, time; t = time.perf_counter(); import xenfast; xenfast.Host; print(time.perf_counter() - t)",
    "import numpy, for comparison": "import time; t = time.perf_counter(); import numpy; print(time.perf_counter() - t)",
}  # fmt: skip


def python(code: str) -> float:
    return float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def shipped_guest(memory: int) -> tuple[float, float, str]:
    """Seconds from the shell and the most MiB resident, of the shipped PV guest run as a user would."""
    command = [sys.executable, "-m", "xenfast", "run", "--memory", str(memory)]
    start = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert child.stdout
    output = child.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    if child.returncode:
        pytest.fail(f"the shipped guest did not end cleanly: {output[-500:]}")
    return seconds, usage.ru_maxrss / 1024, output


def bench_import(report, request):
    """Importing the package costs next to nothing beyond numpy."""
    pytest.importorskip("xenfast._core")
    rounds = 2 * request.config.getoption("rounds")
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, code in IMPORTS.items():
            times[name].append(python(code))
    rows = [[name, f"{min(t) * 1000:.1f}", f"{statistics.median(t) * 1000:.1f}"] for name, t in times.items()]
    report.add("Imports, ms", ["", "least", "median"], rows, [f"{rounds} fresh processes each"], seconds=times)
    assert min(times["import xenfast beyond numpy"]) <= IMPORT_GOAL * SLACK


def bench_guest(report, request):
    """The shipped guest prints and ends in a blink, and 256 MiB that are not touched are not paid for."""
    pytest.importorskip("xenfast._core")
    runs = [shipped_guest(256) for _ in range(2 * request.config.getoption("rounds") + 1)][1:]
    times, memory = [seconds for seconds, _, _ in runs], [mib for _, mib, _ in runs]
    rows = [
        ["shell to exit, s", f"{min(times):.3f}", f"{statistics.median(times):.3f}", f"under {GUEST_GOAL}"],
        ["resident, MiB", f"{min(memory):.0f}", f"{statistics.median(memory):.0f}", f"at most {MEMORY_GOAL:.0f}"],
    ]
    report.add("The shipped PV guest with 256 MiB", ["", "least", "median", "goal"], rows, seconds=times, mib=memory)
    assert min(times) <= GUEST_GOAL * SLACK
    assert min(memory) <= MEMORY_GOAL
