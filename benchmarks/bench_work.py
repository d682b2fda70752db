"""Real work inside a Debian guest: compression, hashing, processes, page faults, floating point.

The same cloud kernel with the same initramfs runs as a PV domain of xenfast and, as the reference, in QEMU with -accel tcg.
Each task prints a line before and after; what is compared is the CPU time of the whole emulator's process in between, as
wall time says little on a shared machine.  The programs are those of this machine's Debian, with their libraries, or
built here from benchmarks/guest.
"""

from __future__ import annotations

import os
import re
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
from benchmarks.measure import geometric_mean
from scripts import debian
from scripts.cpio import Archive

ROOT = Path(__file__).resolve().parents[1]
MINE = ("faults", "floats")
DEBIANS = ("gzip", "xz", "sha256sum")
MEMORY = 512
PATIENCE = 1800.0
GOAL_MEAN, GOAL_WORST = 0.33, 1.0

# task -> the command; {n} grows with --scale, 1 being what takes QEMU some seconds
TASKS = {
    "gzip": ("/bin/gzip -c < /tmp/data{gzip} > /tmp/out", {"gzip": 8}),
    "xz": ("/bin/xz -6 -T1 -c < /tmp/data{xz} > /tmp/out", {"xz": 1}),
    "sha256sum": ("/bin/sha256sum /tmp/data{sha256sum}", {"sha256sum": 16}),
    "processes": ("i=0; while [ $i -lt {n} ]; do (:); /bin/true; i=$((i+1)); done", {"n": 1000}),
    "faults": ("/bin/faults {n}", {"n": 30}),
    "floats": ("/bin/floats {n}", {"n": 50}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, request):
    """The kernel and an initramfs with the programs and the script."""
    scale = request.config.getoption("scale")
    directory = tmp_path_factory.mktemp("work")
    try:
        kernel = debian.kernel("cloud")
        data = debian.initramfs(kernel, script(scale), ())
    except debian.Unavailable as error:
        pytest.skip(str(error))
    ramdisk = directory / "initrd"
    ramdisk.write_bytes(data + extra(directory))
    return kernel, ramdisk


def script(scale: float) -> str:
    """What init does: the data, then each task between its lines."""
    sizes = {name: max(1, round(n * scale)) for _, numbers in TASKS.values() for name, n in numbers.items() if name != "n"}
    lines = ["mount -t tmpfs tmpfs /tmp", "stty -echo 2>/dev/null"]
    lines += [
        f"while [ $(stat -c %s /tmp/all 2>/dev/null || echo 0) -lt {max(sizes.values()) << 20} ]; do "
        "cat /bin/busybox /lib/x86_64-linux-gnu/* >> /tmp/all; done"
    ]
    lines += [f"head -c {size}m /tmp/all > /tmp/data{size}" for size in sorted(set(sizes.values()))]
    for name, (command, numbers) in TASKS.items():
        values = {key: sizes[key] if key in sizes else max(1, round(n * scale)) for key, n in numbers.items()}
        lines += [f"echo 'begin {name} .'", command.format(**values), f"echo 'end {name} .'"]
    return "\n".join([*lines, "echo 'all done .'", "poweroff -f", ""])


def extra(directory: Path) -> bytes:
    """A second archive: busybox applets, Debian's programs with their libraries, ours."""
    archive = Archive()
    for applet in ("head", "stat", "stty", "true"):
        archive.symlink(f"bin/{applet}", "busybox")
    libraries: set[str] = set()
    for name in DEBIANS:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed")
        archive.file(f"bin/{name}", Path(path).read_bytes(), 0o755)
        listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        libraries |= set(re.findall(r"(/\S+) \(0x", listed))
    for folder in ("lib", "lib64", "lib/x86_64-linux-gnu"):
        archive.directory(folder)
    for library in sorted(libraries):
        where = "lib64" if "ld-linux" in library else "lib/x86_64-linux-gnu"
        archive.file(f"{where}/{Path(library).name}", Path(library).read_bytes(), 0o755)
    for name in MINE:
        out = directory / name
        subprocess.run(["gcc", "-O2", "-static", "-o", str(out), str(ROOT / f"benchmarks/guest/{name}.c"), "-lm"], check=True)
        archive.file(f"bin/{name}", out.read_bytes(), 0o755)
    return archive.bytes()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(command: list[str], name: str) -> dict[str, float]:
    """Task -> CPU seconds."""
    deadline = time.monotonic() + PATIENCE
    child = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )  # fmt: skip
    assert child.stdout
    output, done, begun, times = b"", 0, 0.0, {}
    try:
        while b"all done ." not in output[done:]:
            ready = select.select([child.stdout], [], [], max(0, deadline - time.monotonic()))[0]
            got = os.read(child.stdout.fileno(), 65536) if ready else b""
            if not got:
                pytest.fail(f"{name} did not finish:\n{output[-2000:].decode(errors='replace')}")
            output += got
            for match in re.finditer(rb"^(begin|end) (\w+) \.", output[done:], re.M):
                now = cpu_seconds(child.pid)
                if match[1] == b"begin":
                    begun = now
                else:
                    times[match[2].decode()] = now - begun
            done = output.rfind(b"\n") + 1 if b"all done ." not in output[done:] else done
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    return times


def commands(kernel: debian.Kernel, ramdisk: Path) -> dict[str, list[str]]:
    out = {
        "xenfast": [
            sys.executable, "-m", "xenfast", "run", "--kernel", str(kernel.image), "--ramdisk", str(ramdisk),
            "--memory", str(MEMORY), "--cmdline", "console=hvc0 quiet", "--timeout", str(int(PATIENCE)),
        ],
    }  # fmt: skip
    if shutil.which(QEMU):
        out["qemu-system"] = [
            QEMU, "-accel", "tcg", "-cpu", "max", "-m", str(MEMORY), "-kernel", str(kernel.image), "-initrd", str(ramdisk),
            "-append", "console=ttyS0 quiet", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
        ]  # fmt: skip
    return out


def bench_work(files, report, progress, request):
    """Each task in at most QEMU's time, a third of it in the geometric mean."""
    pytest.importorskip("xenfast._core")
    rounds = max(1, request.config.getoption("rounds") // 2)
    times: dict[str, list[dict[str, float]]] = {}
    for turn in range(rounds):
        for name, command in commands(*files).items():
            progress(f"work {turn + 1}: {name}")
            times.setdefault(name, []).append(run(command, name))
    medians = {name: {task: statistics.median(t[task] for t in runs) for task in TASKS} for name, runs in times.items()}
    mine, theirs = medians["xenfast"], medians.get("qemu-system")
    ratios = {task: mine[task] / theirs[task] for task in TASKS} if theirs else {}
    rows = [
        [task, f"{mine[task]:.2f}", *([f"{theirs[task]:.2f}", f"{ratios[task]:.2f}"] if theirs else ["-", "-"])] for task in TASKS
    ]
    mean = geometric_mean(ratios.values()) if ratios else None
    notes = [f"Debian's {files[0].image.name}, {MEMORY} MiB, one vcpu; median of {rounds} interleaved rounds."]
    if mean:
        notes += [f"Geometric mean {mean:.2f} of QEMU's time (goal: {GOAL_MEAN}, none above {GOAL_WORST})."]
        notes += [first_line([QEMU, "--version"])]
    report.add("Work inside a guest, CPU s", ["task", "xenfast", "QEMU TCG", "x QEMU's time"], rows, notes, seconds=times, mean=mean)
