"""Debian's own virtio drivers, in an HVM guest without PV drivers: a network card, and a disk put into the machine as a card."""

import hashlib
import http.server
import random
import shutil
import subprocess
import threading

import pytest

from scripts import debian
from xenfast.devices.drive import Drive
from xenfast.devices.virtio_blk import VirtioBlk
from xenfast.dom0.block import open_image
from xenfast.dom0.net import slirp
from xenfast.libxl import build_hvm
from xenfast.libxl.host import Host

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not slirp.available(), reason="libslirp is not installed (apt-get install libslirp0)")]
BODY = random.Random(1).randbytes(4 << 20)
SCRIPT = """
busybox --install -s /bin
cat > /lease <<'X'
#!/bin/busybox sh
[ "$1" = bound ] && ip addr add $ip/$mask dev eth0 && ip route add default via $router
X
chmod +x /lease
ip link set eth0 up
sleep 1
udhcpc -i eth0 -s /lease -n -q -f
wget -q -O /file http://10.0.2.2:{port}/
md5sum /file
mkdir -p /mnt
mount -t ext4 /dev/vda /mnt && echo mounted
dd if=/dev/urandom of=/mnt/file bs=1M count=8 conv=fsync
md5sum /mnt/file > /tmp/before
umount /mnt
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 /dev/vda /mnt
md5sum /mnt/file > /tmp/after
cmp /tmp/before /tmp/after && echo same
umount /mnt
grep virtio /proc/interrupts
poweroff -f
"""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *arguments):
        pass


def test_virtio(tmp_path, monkeypatch):
    """A lease, a file by HTTP, a file system that is intact afterwards; interrupts by MSI-X."""
    if not shutil.which("grub-mkrescue") or not shutil.which("xorriso") or not shutil.which("mformat"):
        pytest.skip("grub-mkrescue needs Debian's packages grub-pc-bin, grub-common, xorriso, mtools")
    try:
        kernel = debian.kernel("generic")
    except debian.Unavailable as error:
        pytest.skip(str(error))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = tmp_path / "root/boot/grub"
    root.mkdir(parents=True)
    shutil.copy(kernel.image, root.parent / "vmlinuz")
    script = SCRIPT.replace("{port}", str(server.server_port))
    (root.parent / "initrd").write_bytes(debian.initramfs(kernel, script, ("virtio_pci", "virtio_blk", "virtio_net", "ext4", "af_packet")))
    (root / "grub.cfg").write_text("linux /boot/vmlinuz console=ttyS0 nopv\ninitrd /boot/initrd\nboot\n")
    subprocess.run(["grub-mkrescue", "-o", tmp_path / "boot.img", tmp_path / "root"], check=True, capture_output=True)
    debian.ext4_image(tmp_path / "data.img")
    image = open_image(str(tmp_path / "data.img"))

    def machine(domain, config, **parts):
        return pc(domain, config, cards=[VirtioBlk(domain.hvm.physmem, Drive(image, serial="VB1"))], **parts)

    pc = build_hvm.PC
    monkeypatch.setattr(build_hvm, "PC", machine)
    with Host(384) as host:
        domain = host.create({"name": "virtio", "type": "hvm", "memory": 256, "vnc": 0, "disk": [f"{tmp_path}/boot.img,raw,hda,r"],
                              "vif": ["model=virtio"]})
        assert domain.wait(150) == "poweroff", domain.console.text[-2000:]
        text = domain.console.text
    server.shutdown()
    image.close()
    assert hashlib.md5(BODY).hexdigest() in text and "mounted" in text and "same" in text
    assert "virtio0-req.0" in text and "virtio1-input.0" in text
    assert debian.e2fs("e2fsck", "-fn", str(tmp_path / "data.img")).returncode == 0
