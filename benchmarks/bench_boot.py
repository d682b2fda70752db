"""Debian's cloud kernel with a busybox initramfs, from the command typed to the first line of user space.

xenfast boots it as a PV domain; QEMU, the reference, boots the same two files with -accel tcg.  Reached for: at most
twice QEMU's wall time.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.engines.base import first_line
from benchmarks.engines.qemu import PROGRAM as QEMU
from scripts import debian

ROOT = Path(__file__).resolve().parents[1]
MARK = b"user space is here"
SCRIPT = f"echo {MARK.decode()}\npoweroff -f\n"
GOAL, SLACK = 2.0, 1.25
PATIENCE = 300.0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The kernel and an initramfs for it, the same for both."""
    try:
        kernel = debian.kernel("cloud")
        ramdisk = tmp_path_factory.mktemp("boot") / "initrd"
        ramdisk.write_bytes(debian.initramfs(kernel, SCRIPT))
    except debian.Unavailable as error:
        pytest.skip(str(error))
    return kernel, ramdisk


def until_mark(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds from starting the command until it prints MARK."""
    start = time.perf_counter()
    child = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )  # fmt: skip
    assert child.stdout
    output, wall = b"", None
    while wall is None:
        left = PATIENCE - (time.perf_counter() - start)
        ready = select.select([child.stdout], [], [], max(left, 0))[0]
        got = os.read(child.stdout.fileno(), 65536) if ready else b""
        output += got
        # the kernel echoes its command line and initramfs never holds MARK on a line of its own
        if any(line.strip() == MARK for line in output.splitlines()):
            wall = time.perf_counter() - start
        elif not got:
            break
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    _, _, usage = os.wait4(child.pid, 0)
    child.returncode = 0
    child.stdout.close()
    if wall is None:
        pytest.fail(f"{command[0]} never reached user space:\n{output[-2000:].decode(errors='replace')}")
    return wall, usage.ru_utime + usage.ru_stime


def commands(kernel: debian.Kernel, ramdisk: Path) -> dict[str, list[str]]:
    out = {
        "xenfast": [
            sys.executable, "-m", "xenfast", "run", "--kernel", str(kernel.image), "--ramdisk", str(ramdisk),
            "--memory", "256", "--cmdline", "console=hvc0", "--timeout", str(int(PATIENCE)),
        ],
    }  # fmt: skip
    if shutil.which(QEMU):
        out["qemu-system"] = [
            QEMU, "-accel", "tcg", "-m", "256", "-kernel", str(kernel.image), "-initrd", str(ramdisk),
            "-append", "console=ttyS0", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
        ]  # fmt: skip
    return out


def bench_boot(files, report, progress, request):
    """Command to user space, in at most twice QEMU's time."""
    pytest.importorskip("xenfast._core")
    kernel, ramdisk = files
    rounds = max(3, (request.config.getoption("rounds") + 1) // 2)
    times: dict[str, list[tuple[float, float]]] = {}
    for turn in range(rounds):
        for name, command in commands(kernel, ramdisk).items():
            progress(f"boot {turn + 1}: {name}")
            times.setdefault(name, []).append(until_mark(command))
    walls = {name: statistics.median(wall for wall, _ in t) for name, t in times.items()}
    rows = [
        [name, f"{walls[name]:.2f}", f"{min(wall for wall, _ in t):.2f}", f"{statistics.median(cpu for _, cpu in t):.2f}"]
        for name, t in times.items()
    ]
    notes = [f"Debian's {kernel.image.name}, 256 MiB, one vcpu; median of {rounds} interleaved rounds."]
    ratio = walls["xenfast"] / walls["qemu-system"] if "qemu-system" in walls else None
    if ratio:
        notes += [f"xenfast needs {ratio:.2f} times QEMU's wall time (goal: at most {GOAL}).", first_line([QEMU, "--version"])]
    report.add("Boot to user space, s", ["", "wall", "least", "CPU"], rows, notes, seconds=times, ratio=ratio)
    if ratio:
        assert ratio <= GOAL * SLACK
