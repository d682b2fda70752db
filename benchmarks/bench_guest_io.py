"""Disk and network of a Debian guest: xenfast's blkfront and netfront against QEMU's TCG with virtio.

The disk is read and written by guest_disk.c with O_DIRECT, one request at a time, on a raw and a qcow2 image (all of it
allocated).  The network is TCP between the guest and a program on the host: to the guest by wget, from the guest by
its httpd through a port forward; both sides have user networking by libslirp.  Reached for: at least what QEMU reaches.
CPU is what the emulator's process took.  Asserted for requests of 4 KiB only: large ones and TCP depend on what else
the machine does.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.engines.base import ENGINES_DIR, compiled, first_line
from benchmarks.engines.qemu import PROGRAM as QEMU
from scripts import debian

HERE = Path(__file__).resolve().parent
PATIENCE = 240
DISK_MIB = 256
NET_MIB = 64
SLACK = 0.7             # of QEMU's figure, on a machine that does other things meanwhile

SERVER = f"""
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
data = bytes(1 << 20)
while True:
    peer, _ = listener.accept()
    peer.recv(4096)
    peer.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: {NET_MIB << 20}\\r\\n\\r\\n")
    for _ in range({NET_MIB}):
        peer.sendall(data)
    peer.close()
"""
CLIENT = """
import socket, sys, time
start = time.time()
peer, size = socket.create_connection(("127.0.0.1", int(sys.argv[1]))), 0
peer.sendall(b"GET /file HTTP/1.0\\r\\n\\r\\n")
while data := peer.recv(1 << 20):
    size += len(data)
print(size / 1e6 / (time.time() - start))
"""
GUEST_NET = """
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
mkdir /www
dd if=/dev/zero of=/www/file bs=1M count={size} 2>/dev/null
httpd -h /www -p 80
echo begin
for i in 1 2 3; do
    read before rest < /proc/uptime
    wget -q -O /dev/null http://10.0.2.2:{port}/
    read after rest < /proc/uptime
    echo "down $before $after"
done
echo serving
read line
poweroff -f
"""
RUN = """
import sys
import xenfast
kernel, ramdisk, disk, net = sys.argv[1:]
settings = {"kernel": kernel, "ramdisk": ramdisk, "memory": 256, "extra": "console=hvc0 quiet"}
with xenfast.Host() as host:
    if disk:
        settings["disk"] = [disk]
    if net:
        host.devices.networks.define("xenbr0", "user" + net)
        settings["vif"] = [""]
    domain = host.create(settings)
    domain.console.on_output(lambda data: (sys.stdout.buffer.write(data), sys.stdout.flush()))
    domain.wait()
"""


@pytest.fixture(scope="module")
def kernel():
    try:
        return debian.kernel("cloud")
    except debian.Unavailable as error:
        pytest.skip(str(error))


class Machine:
    """An emulator with a guest on its standard output."""

    def __init__(self, name: str, kernel: debian.Kernel, ramdisk: Path, disk: str = "", net: str = "") -> None:
        if name == "xenfast":
            command = [sys.executable, "-c", RUN, str(kernel.image), str(ramdisk), disk and f"{disk},xvda,w", net]
        else:
            command = [QEMU, "-accel", "tcg", "-m", "256", "-kernel", str(kernel.image), "-initrd", str(ramdisk),
                       "-append", "console=ttyS0 quiet", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]  # fmt: skip
            if disk:
                path, image_format = disk.split(",")
                command += ["-drive", f"file={path},format={image_format},if=none,id=d", "-device", "virtio-blk-pci,drive=d"]
            if net:
                command += ["-netdev", f"user,id=n{net}", "-device", "virtio-net-pci,netdev=n,romfile="]
        self.process = subprocess.Popen(command, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.text = ""

    def until(self, text: str) -> None:
        assert self.process.stdout
        end = time.monotonic() + PATIENCE
        while text not in self.text:
            ready = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                pytest.fail(f"the guest never said {text!r}:\n{self.text[-2000:]}")
            self.text += data.decode(errors="replace")

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def engines() -> list[str]:
    return ["xenfast", "qemu-system"] if shutil.which(QEMU) else ["xenfast"]


def table(report, title: str, rates: dict[str, dict[str, list[float]]], unit: str, notes: list[str]) -> None:
    """A row a test; fails where xenfast is far below QEMU."""
    middle = {name: {test: statistics.median(values) for test, values in found.items()} for name, found in rates.items()}
    rows, ratios = [], {}
    for test in middle["xenfast"]:
        row = [test, *(f"{middle[name][test]:.0f}" for name in middle)]
        if "qemu-system" in middle:
            ratios[test] = middle["xenfast"][test] / middle["qemu-system"][test]
            row.append(f"{ratios[test]:.2f}")
        rows.append(row)
    if ratios:
        notes.append(first_line([QEMU, "--version"]))
    report.add(title, [unit, *middle, *(["ratio"] if ratios else [])], rows, notes, rates=rates, ratios=ratios)
    assert all(ratio >= SLACK for test, ratio in ratios.items() if test.endswith("4k")), ratios


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def bench_disk(kernel, report, progress, request, tmp_path, image_format):
    """Requests a second of 4 KiB and of 1 MiB."""
    if image_format == "qcow2" and not shutil.which("qemu-img"):
        pytest.skip("qemu-img is not installed (apt-get install qemu-utils)")
    program = compiled("guest-disk", ["cc", "-O2", "-static"], [ENGINES_DIR.parent / "guest_disk.c"])
    rates: dict[str, dict[str, list[float]]] = {}
    for turn in range(max(2, request.config.getoption("rounds") // 3)):
        for name in engines():
            progress(f"disk {turn + 1}: {name}")
            path = tmp_path / f"disk.{image_format}"
            with path.open("wb") as file:
                for _ in range(DISK_MIB):
                    file.write(os.urandom(1 << 20))
            if image_format == "qcow2":
                path.rename(tmp_path / "raw")
                subprocess.run(["qemu-img", "convert", "-O", "qcow2", tmp_path / "raw", path], check=True)
            device, modules = ("xvda", ["xen-blkfront"]) if name == "xenfast" else ("vda", ["virtio_pci", "virtio_blk"])
            ramdisk = tmp_path / "initrd"
            script = f"guest-disk /dev/{device}\necho all done\npoweroff -f\n"
            ramdisk.write_bytes(debian.initramfs(kernel, script, modules, {"guest-disk": program.read_bytes()}))
            machine = Machine(name, kernel, ramdisk, disk=f"{path},{image_format}")
            try:
                machine.until("all done")
            finally:
                machine.close()
            for test, rate in re.findall(r"([a-z]+-[a-z]+-\w+) (\d+)/s", machine.text):
                rates.setdefault(name, {}).setdefault(test, []).append(float(rate))
    notes = ["O_DIRECT, one request at a time; interleaved rounds."]
    table(report, f"Disk of a guest, {image_format} image", rates, "requests/s", notes)


def bench_net(kernel, report, progress, request, tmp_path):
    """MB/s of one TCP connection to the guest and from it."""
    rates: dict[str, dict[str, list[float]]] = {}
    costs: dict[str, list[float]] = {}
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        try:
            for turn in range(max(2, request.config.getoption("rounds") // 3)):
                for name in engines():
                    progress(f"network {turn + 1}: {name}")
                    modules = ["xen-netfront"] if name == "xenfast" else ["virtio_pci", "virtio_net"]
                    ramdisk = tmp_path / "initrd"
                    ramdisk.write_bytes(debian.initramfs(kernel, GUEST_NET.format(size=NET_MIB, port=port), modules))
                    with socket.create_server(("127.0.0.1", 0)) as probe:
                        forward = probe.getsockname()[1]
                    machine = Machine(name, kernel, ramdisk, net=f",hostfwd=tcp:127.0.0.1:{forward}-:80")
                    try:
                        machine.until("begin")
                        start = machine.cpu()
                        machine.until("serving")
                        found = rates.setdefault(name, {})
                        for before, after in re.findall(r"down ([\d.]+) ([\d.]+)", machine.text):
                            found.setdefault("to the guest", []).append((NET_MIB << 20) / 1e6 / (float(after) - float(before)))
                        for _ in range(3):
                            command = [sys.executable, "-c", CLIENT, str(forward)]
                            client = subprocess.run(command, capture_output=True, text=True, check=True)
                            found.setdefault("from the guest", []).append(float(client.stdout))
                        costs.setdefault(name, []).append((machine.cpu() - start) / (6 * (NET_MIB << 20) / 1e9))
                    finally:
                        machine.close()
        finally:
            server.kill()
    notes = ["CPU seconds a GB: " + ", ".join(f"{name} {statistics.median(values):.1f}" for name, values in costs.items())]
    table(report, "TCP of a guest, user network", rates, "MB/s", notes)
