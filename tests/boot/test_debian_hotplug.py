"""Debian's kernel while devices come and go: disks of every format plugged in, grown and unplugged, networks as well."""

import random

import pytest

import xenfast
from scripts import debian
from xenfast.dom0.block import qcow2_snapshot, vhd
from xenfast.libxl import disk, images, network

pytestmark = pytest.mark.slow

TIMEOUT = 120
SCRIPT = """
echo ready
while read line; do eval "$line"; echo "end of command"; done
"""


@pytest.fixture(scope="module")
def cloud():
    try:
        return debian.kernel("cloud")
    except debian.Unavailable as error:
        pytest.skip(str(error))


def say(domain, command):
    """Run a command in the guest; what it printed."""
    before = len(domain.console.text)
    domain.console.sendline(command)
    domain.console.expect("end of command\r?\n", timeout=TIMEOUT)
    return domain.console.text[before:]


def test_devices_come_and_go(cloud, tmp_path):
    """A raw disk grows under the guest; disks of each format are plugged in, written, unplugged, and hold what was
    written; an interface is plugged in, gets a lease and goes again."""
    data = random.Random(1).randbytes(1 << 20)
    (tmp_path / "raw").write_bytes(data * 4)
    (tmp_path / "initrd").write_bytes(debian.initramfs(cloud, SCRIPT, ("xen-blkfront", "xen-netfront")))
    qcow2_snapshot.create(str(tmp_path / "qcow2"), 4 << 20, backing="raw", backing_format="raw")
    vhd.create(str(tmp_path / "vhd"), 4 << 20)
    settings = {"kernel": cloud.image, "ramdisk": tmp_path / "initrd", "extra": "console=hvc0 quiet", "memory": 192,
                "disk": [f"{tmp_path}/grows,raw,xvda,w"]}  # fmt: skip
    (tmp_path / "grows").write_bytes(bytes(1 << 20))
    with xenfast.Host() as host:
        devices = host.devices
        domain = host.create(settings)
        xen = domain.xen
        domain.console.expect("ready", timeout=TIMEOUT)
        assert "2048" in say(domain, "cat /sys/block/xvda/size")
        with open(tmp_path / "grows", "r+b") as file:          # as a volume manager would
            file.truncate(3 << 20)
        assert devices.disk_resized(xen, "xvda") == 3 << 20
        assert "6144" in say(domain, "sleep 0.3; cat /sys/block/xvda/size")
        for image_format in ("qcow2", "vhd"):
            devices.attach_disk(xen, disk.parse(f"{tmp_path}/{image_format},{image_format},xvdb,w"))
            say(domain, "while [ ! -b /dev/xvdb ]; do sleep 0.1; done")
            say(domain, "dd if=/dev/zero of=/dev/xvdb bs=64k count=3 seek=5 2>/dev/null; sync")
            done = []
            devices.detach_disk(xen, "xvdb", lambda done=done: done.append(True))
            assert host.run(lambda done=done: done, TIMEOUT) == "until"
            assert "gone" in say(domain, "sleep 0.2; [ -b /dev/xvdb ] || echo gone")
            image = images.open_image(str(tmp_path / image_format), image_format, True)
            got = bytearray(512 << 10)
            image.readv(0, [memoryview(got)])
            image.close()
            base = data if image_format == "qcow2" else bytes(1 << 20)
            assert got == base[: 5 << 16] + bytes(3 << 16)
        assert not images.check_image(str(tmp_path / "qcow2")).errors
        host.devices.networks.define("lan", "dhcp,net=10.7.0.0/24")
        for _ in range(2):
            devices.attach_nic(xen, network.settle([network.parse("bridge=lan,mac=00:16:3e:00:00:07")], "seed")[0])
            text = say(domain, "while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done; ip link set eth0 up; udhcpc -q -n -i eth0")
            assert "lease of 10.7.0.2" in text
            done = []
            devices.detach_nic(xen, 0, lambda done=done: done.append(True))
            assert host.run(lambda done=done: done, TIMEOUT) == "until"
            assert "gone" in say(domain, "sleep 0.2; ip link show eth0 >/dev/null 2>&1 || echo gone")
        assert [port.name for port in devices.networks.switch("lan").ports] == ["dhcp"]
        domain.console.sendline("poweroff -f")
        assert domain.wait(TIMEOUT) == "poweroff"
        assert not host.hypervisor.loop.failures
