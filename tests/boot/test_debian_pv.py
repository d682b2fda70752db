"""The issue's real input: Debian's own kernels, unmodified, boot as PV guests and use a disk through domain 0.

Each test is a sentence of that paragraph.  Kernels come from the machine's Debian release (scripts/debian.py); the
initramfs and the disk are made here.
"""

import json
import re
import subprocess
import sys

import pytest

from scripts import debian

pytest.importorskip("xenfast._core")
pytest.importorskip("xenfast.libxl.device")
pytestmark = pytest.mark.slow

TIMEOUT = 600
MESSAGE = "the quick brown fox"


@pytest.fixture(scope="module", params=["cloud", "generic"])
def kernel(request):
    """Debian's linux-image-cloud-amd64 and linux-image-amd64."""
    try:
        return debian.kernel(request.param)
    except debian.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cloud():
    try:
        return debian.kernel("cloud")
    except debian.Unavailable as error:
        pytest.skip(str(error))


def files(directory, kernel, script):
    """A configuration file with an initramfs and a fresh ext4 disk beside it."""
    (directory / "initrd").write_bytes(debian.initramfs(kernel, script))
    debian.ext4_image(directory / "root.img")
    return directory / "root.img"


def config(directory, kernel, vcpus):
    path = directory / "guest.cfg"
    path.write_text(
        f"""
name = "debian"
kernel = "{kernel.image}"
ramdisk = "{directory}/initrd"
memory = 256
vcpus = {vcpus}
extra = "console=hvc0"
disk = [ '{directory}/root.img,raw,xvda,w' ]
"""
    )
    return path


def run(*arguments, timeout=TIMEOUT):
    """The command, as a user types it; returns (exit status, what it printed)."""
    command = [sys.executable, "-m", "xenfast", "run", *map(str, arguments), "--timeout", str(timeout)]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout + 60
    )
    return result.returncode, result.stdout.decode("utf-8", "replace").replace("\r", "")


SCRIPT = f"""
echo "uname: $(uname -r) cpus: $(nproc) type: $(cat /sys/hypervisor/type)"
mount -t ext4 /dev/xvda /mnt && echo mounted
echo "{MESSAGE}" > /mnt/file
dd if=/dev/urandom of=/mnt/random bs=64k count=32 2>/dev/null
md5sum < /mnt/random > /mnt/sum
sync
echo 3 > /proc/sys/vm/drop_caches
echo "read back: $(cat /mnt/file)"
[ "$(md5sum < /mnt/random)" = "$(cat /mnt/sum)" ] && echo "sums agree"
umount /mnt && echo "all done"
poweroff -f
"""


@pytest.mark.parametrize("vcpus", [1, 4])
def test_boots_to_user_space_and_uses_its_disk(kernel, vcpus, tmp_path):
    """Boots with 1 and 4 vcpus, is a Xen guest, mounts, writes, syncs, reads back, powers off; the image is clean."""
    image = files(tmp_path, kernel, SCRIPT)
    report = tmp_path / "report.json"
    status, output = run(config(tmp_path, kernel, vcpus), "--json", report)
    assert status == 0, output[-3000:]
    assert f"uname: {kernel.version} cpus: {vcpus} type: xen" in output
    for line in ("mounted", f"read back: {MESSAGE}", "sums agree", "all done"):
        assert line in output
    check = debian.e2fs("e2fsck", "-fn", str(image))
    assert check.returncode == 0, check.stdout
    assert debian.e2fs("debugfs", "-R", "cat /file", str(image)).stdout.strip() == MESSAGE
    counted = json.loads(report.read_text())
    assert counted["ended"] == "poweroff" and counted["exit_status"] == 0
    assert counted["instructions"] > 10_000_000
    assert counted["disks"]["xvda"]["bytes_written"] > 2 << 20
    assert counted["disks"]["xvda"]["flushes"] > 0 and counted["hypercalls"]["sched_op"] > 0


FLUSHER = """
mount -t ext4 /dev/xvda /mnt
i=0
while true; do
    i=$((i + 1))
    dd if=/dev/urandom of=/mnt/part.$i bs=4k count=16 2>/dev/null
    md5sum < /mnt/part.$i > /mnt/sum.$i
    sync
    echo "flushed $i"
done
"""


def test_killed_while_writing_loses_nothing_flushed(cloud, tmp_path):
    """The process is killed in the middle of writing; every file whose sync had returned is on the image, intact."""
    image = files(tmp_path, cloud, FLUSHER)
    command = [sys.executable, "-m", "xenfast", "run", str(config(tmp_path, cloud, 1)), "--timeout", str(TIMEOUT)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet) as process:
        flushed = 0
        for line in process.stdout:
            match = re.search(rb"flushed (\d+)", line)
            if match:
                flushed = int(match[1])
                if flushed >= 12:
                    process.kill()
    assert flushed >= 12
    debian.e2fs("e2fsck", "-fy", str(image))                    # replays the journal, as a mount would
    assert debian.e2fs("e2fsck", "-fn", str(image)).returncode == 0
    for number in range(1, flushed + 1):
        part, expected = tmp_path / "part", tmp_path / "sum"
        debian.e2fs("debugfs", "-R", f"dump /part.{number} {part}", str(image))
        debian.e2fs("debugfs", "-R", f"dump /sum.{number} {expected}", str(image))
        got = subprocess.run(["md5sum"], stdin=part.open("rb"), capture_output=True, text=True).stdout
        assert got == expected.read_text(), f"file {number} of {flushed}"


def test_virtual_time_repeats_to_the_bit(cloud, tmp_path):
    """Under virtual time two boots retire the same instructions, make the same hypercalls and print the same bytes."""
    runs = []
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        (tmp_path / "initrd").write_bytes(debian.initramfs(cloud, "cat /proc/interrupts /proc/uptime\npoweroff -f\n"))
        debian.ext4_image(tmp_path / "root.img")
        report = directory / "report.json"
        status, output = run(config(tmp_path, cloud, 2), "--clock", "virtual", "--seed", "11", "--json", report)
        assert status == 0, output[-3000:]
        counted = json.loads(report.read_text())
        runs.append([output, *(counted[name] for name in ("instructions", "guest_seconds", "hypercalls"))])
    assert runs[0] == runs[1]


def test_from_python(cloud, tmp_path):
    """The Python way is as short: host, domain from a dict, expect on the console, wait."""
    import xenfast

    (tmp_path / "initrd").write_bytes(debian.initramfs(cloud, "echo ready\nread line\necho got: $line\npoweroff -f\n"))
    settings = {"kernel": cloud.image, "ramdisk": tmp_path / "initrd", "extra": "console=hvc0", "memory": 128}
    with xenfast.Host() as host:
        domain = host.create(settings)
        domain.console.expect("ready", timeout=TIMEOUT)
        domain.console.sendline("hello")
        assert domain.console.expect(r"got: (\w+)", timeout=TIMEOUT)[1] == "hello"
        assert domain.wait(TIMEOUT) == "poweroff"
