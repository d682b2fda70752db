"""Debian's kernel uses the network: a lease, HTTP both ways with sums compared, two guests on one switch."""

import hashlib
import http.server
import os
import random
import re
import shutil
import socket
import subprocess
import threading
import urllib.request

import pytest

import xenfast
from scripts import debian
from xenfast.dom0.net import slirp

pytestmark = pytest.mark.slow

TIMEOUT = 300
SIZE = 20 << 20
needs_slirp = pytest.mark.skipif(not slirp.available(), reason="libslirp is not installed (apt-get install libslirp0)")

PRELUDE = """
ip link set lo up
mkdir -p /etc /www
cat > /lease <<'X'
#!/bin/busybox sh
if [ "$1" = bound ]; then
    ip addr add $ip/$mask dev eth0
    if [ -n "$router" ]; then ip route add default via $router; fi
    echo "nameserver $dns" > /etc/resolv.conf
    echo "leased $ip by $router"
fi
X
chmod +x /lease
"""


@pytest.fixture(scope="module")
def cloud():
    try:
        return debian.kernel("cloud")
    except debian.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def server():
    """An HTTP server on the host's 127.0.0.1; (port, body, its MD5)."""
    body = random.Random(1).randbytes(SIZE)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield httpd.server_address[1], body, hashlib.md5(body).hexdigest()
        httpd.shutdown()


def guest(host, directory, kernel, name, script, **settings):
    """A domain with that script."""
    ramdisk = directory / f"{name}.initrd"
    ramdisk.write_bytes(debian.initramfs(kernel, PRELUDE + script, ("xen-netfront",)))
    base = {"name": name, "kernel": kernel.image, "ramdisk": ramdisk, "memory": 192, "extra": "console=hvc0 quiet"}
    return host.create(base | settings)


@needs_slirp
def test_http_in_both_directions(cloud, server, tmp_path):
    """The guest gets a lease, pings the router, fetches 20 MiB from the host, serves them to it by a port forward."""
    port, body, digest = server
    with socket.create_server(("127.0.0.1", 0)) as probe:
        forward = probe.getsockname()[1]
    script = f"""
ip link set eth0 up
udhcpc -q -n -i eth0 -s /lease
ping -c 2 10.0.2.2
wget -q -O /www/file http://10.0.2.2:{port}/ && echo "sum $(md5sum < /www/file)"
httpd -h /www -p 80 && echo serving
read line
poweroff -f
"""
    with xenfast.Host() as host:
        host.devices.networks.define("xenbr0", f"user,hostfwd=tcp:127.0.0.1:{forward}-:80")
        domain = guest(host, tmp_path, cloud, "web", script, vif=[""], vcpus=2)
        domain.console.expect("leased 10.0.2.15 by 10.0.2.2", timeout=TIMEOUT)
        domain.console.expect("2 packets received", timeout=TIMEOUT)
        assert domain.console.expect(r"sum (\w+)", timeout=TIMEOUT)[1] == digest
        domain.console.expect("serving", timeout=TIMEOUT)
        got = []
        client = threading.Thread(target=lambda: got.append(fetch(f"http://127.0.0.1:{forward}/file")))
        client.start()
        host.run(lambda: not client.is_alive(), TIMEOUT)
        client.join()
        assert got and hashlib.md5(got[0]).hexdigest() == digest
        domain.console.sendline()
        assert domain.wait(TIMEOUT) == "poweroff"
        counted = domain.stats()["nics"]["0"]
        assert counted["errors"] == counted["rx_dropped"] == 0 and min(counted["tx_bytes"], counted["rx_bytes"]) > SIZE
        assert not host.hypervisor.loop.failures


def fetch(url):
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        return answer.read()


def test_two_guests_on_a_switch(cloud, tmp_path):
    """Two guests ping each other and copy 20 MiB each way with TCP, with the same sums at both ends; with GSO packets,
    so in fewer frames than the MTU would take; how many depends on how busy the host is."""
    serve = f"""
ip addr add 192.168.7.1/24 dev eth0
ip link set eth0 up
dd if=/dev/urandom of=/www/file bs=64k count={SIZE >> 16} 2>/dev/null
httpd -h /www -p 80
echo "ready $(md5sum < /www/file)"
nc -l -p 99 > /www/back
echo "back $(md5sum < /www/back)"
poweroff -f
"""
    use = """
ip addr add 192.168.7.2/24 dev eth0
ip link set eth0 up
read line
ping -c 3 192.168.7.1
wget -q -O /www/file http://192.168.7.1/file && echo "sum $(md5sum < /www/file)"
nc -w 5 192.168.7.1 99 < /www/file
poweroff -f
"""
    with xenfast.Host() as host:
        one = guest(host, tmp_path, cloud, "one", serve, vif=["bridge=lan"])
        two = guest(host, tmp_path, cloud, "two", use, vif=["bridge=lan"])
        digest = one.console.expect(r"ready (\w+)", timeout=TIMEOUT)[1]
        two.console.sendline()
        two.console.expect("3 packets received", timeout=TIMEOUT)
        assert two.console.expect(r"sum (\w+)", timeout=TIMEOUT)[1] == digest
        assert one.console.expect(r"back (\w+)", timeout=TIMEOUT)[1] == digest
        assert one.wait(TIMEOUT) == two.wait(TIMEOUT) == "poweroff"
        counted = one.stats()["nics"]["0"]
        assert counted["errors"] == 0 and counted["tx_bytes"] > SIZE and counted["rx_bytes"] > SIZE
        assert counted["tx_frames"] < SIZE / 1500
        assert not host.hypervisor.loop.failures


QEMU = shutil.which("qemu-system-x86_64")


@pytest.mark.skipif(QEMU is None, reason="QEMU is not installed (apt-get install qemu-system-x86)")
def test_a_guest_of_qemu_on_our_switch(cloud, tmp_path):
    """A machine of QEMU's, linked by its stream protocol, and a guest of ours get leases from one server; ours fetches
    a file from the other."""
    lease = "ip link set eth0 up\nudhcpc -q -n -i eth0 -s /lease\n"
    serve = PRELUDE + lease + "dd if=/dev/urandom of=/www/file bs=64k count=64 2>/dev/null\nhttpd -h /www -p 80\n" \
        "echo \"sum $(md5sum < /www/file)\"\nsleep 1000\n"
    use = lease + """
read line
wget -q -O /www/file http://10.4.0.$line/file && echo "sum $(md5sum < /www/file)"
poweroff -f
"""
    (tmp_path / "theirs").write_bytes(debian.initramfs(cloud, serve, ("virtio_pci", "virtio_net")))
    with xenfast.Host() as host:
        host.devices.networks.define("xenbr0", f"stream,addr=unix:{tmp_path}/link,server=on", "dhcp,net=10.4.0.0/24")
        ours = guest(host, tmp_path, cloud, "ours", use, vif=[""])
        with subprocess.Popen(
            [QEMU, "-accel", "tcg", "-m", "192", "-kernel", cloud.image, "-initrd", tmp_path / "theirs", "-append", "console=ttyS0 quiet",
             "-nodefaults", "-display", "none", "-serial", "stdio", "-netdev",
             f"stream,id=n,server=off,addr.type=unix,addr.path={tmp_path}/link", "-device", "virtio-net-pci,netdev=n,romfile="],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        ) as qemu:  # fmt: skip
            try:
                text = bytearray()
                host.add_reader(qemu.stdout.fileno(), lambda: text.extend(os.read(qemu.stdout.fileno(), 65536)))
                assert host.run(lambda: b"sum " in text and text.endswith(b"\n"), TIMEOUT) == "until"
                address = re.search(rb"leased 10\.4\.0\.(\d+)", text)[1].decode()
                ours.console.expect("leased 10.4.0", timeout=TIMEOUT)
                ours.console.sendline(address)
                digest = ours.console.expect(r"sum (\w+)", timeout=TIMEOUT)[1]
                assert digest.encode() == re.search(rb"sum (\w+)", text)[1]
                host.remove_reader(qemu.stdout.fileno())
            finally:
                qemu.kill()
