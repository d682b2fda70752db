"""Debian's kernels as HVM guests, from a disk with GRUB in its MBR: emulated IDE, PV drivers, the timers and interrupt controllers of a PC,
the power button, every way to reboot.
"""

import hashlib
import http.server
import random
import shutil
import subprocess
import threading

import pytest

from scripts import debian
from xenfast.dom0.net import slirp
from xenfast.libxl.host import Host

pytestmark = pytest.mark.slow
MODULES = {"generic": ("ata_piix", "ahci", "sd_mod", "xen-blkfront", "xen-netfront", "ext4", "evdev", "af_packet", "e1000", "8139too"),
           "cloud": ("xen-blkfront", "ext4", "evdev")}
DISK = """
busybox --install -s /bin
mkdir -p /mnt
for i in $(seq 50); do test -b /dev/{device} && break; sleep 0.1; done
mount -t ext4 /dev/{device} /mnt && echo mounted
dd if=/dev/urandom of=/mnt/file bs=1M count=8 conv=fsync
md5sum /mnt/file > /tmp/before
umount /mnt
echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 /dev/{device} /mnt
md5sum /mnt/file > /tmp/after
cmp /tmp/before /tmp/after && echo same
umount /mnt
echo cpus $(grep -c ^processor /proc/cpuinfo)
grep -E "blkif|ata_piix|ahci" /proc/interrupts
poweroff -f
"""
BUTTON = """
busybox --install -s /bin
echo ready
for i in /sys/class/input/input*; do grep -q "Power Button" $i/name && e=$(ls -d $i/event*); done
dd if=/dev/input/$(basename $e) bs=24 count=1 > /dev/null
echo pressed
poweroff -f
"""
NETWORK = """
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
grep -E "eth0|vif" /proc/interrupts
poweroff -f
"""
ECHO = """
busybox --install -s /bin
cat /proc/interrupts | head -4
cat /sys/devices/system/clocksource/clocksource0/current_clocksource
echo type
read line
echo got: $line
{end}
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """``image(flavour, script, extra)``: a disk that boots this kernel with this script, through GRUB."""
    if not shutil.which("grub-mkrescue") or not shutil.which("xorriso") or not shutil.which("mformat"):
        pytest.skip("grub-mkrescue needs Debian's packages grub-pc-bin, grub-common, xorriso, mtools")
    directory = tmp_path_factory.mktemp("disks")

    def make(flavour, script, extra=""):
        try:
            kernel = debian.kernel(flavour)
        except debian.Unavailable as error:
            pytest.skip(str(error))
        root, path = directory / "root", directory / f"disk{len(list(directory.iterdir()))}.img"
        shutil.rmtree(root, ignore_errors=True)
        (root / "boot/grub").mkdir(parents=True)
        shutil.copy(kernel.image, root / "boot/vmlinuz")
        (root / "boot/initrd").write_bytes(debian.initramfs(kernel, script, MODULES[flavour]))
        (root / "boot/grub/grub.cfg").write_text(
            "serial --unit=0\nterminal_input console serial\nterminal_output console serial\nset timeout=0\n"
            f'menuentry "Debian" {{\n linux /boot/vmlinuz console=ttyS0 {extra}\n initrd /boot/initrd\n}}\n')
        subprocess.run(["grub-mkrescue", "-o", path, root], check=True, capture_output=True)
        return path

    return make


def settings(*disks, **more):
    return {"name": "debian", "type": "hvm", "memory": 256, "vnc": 0, "disk": [str(disk) for disk in disks]} | more


@pytest.mark.parametrize(("vcpus", "extra", "device", "shows", "more"), [
    (1, "xen_emul_unplug=never", "sdb", "ata_piix", {}), (2, "xen_emul_unplug=never", "sdb", "ata_piix", {}), (2, "", "xvdb", "blkif", {}),
    (1, "xen_emul_unplug=never", "sdb", "ahci", {"hdtype": "ahci"}),
])  # fmt: skip
def test_disks(image, tmp_path, vcpus, extra, device, shows, more):
    """Files on a disk are what was written: by the emulated IDE and AHCI controllers with DMA, and by PV drivers, the default."""
    debian.ext4_image(tmp_path / "data.img")
    boot = image("generic", DISK.format(device=device), extra)
    with Host(384) as host:
        domain = host.create(settings(f"{boot},raw,hda,r", f"{tmp_path}/data.img,raw,hdb,w", vcpus=vcpus, **more))
        assert domain.wait(120) == "poweroff", domain.console.text[-2000:]
        text = domain.console.text
        assert "mounted" in text and "same" in text and f"cpus {vcpus}" in text
        lines = [line for line in text.splitlines() if shows in line and ":" in line and not line.startswith("[")]
        assert sum(int(count) for line in lines for count in line.split()[1:1 + vcpus]) > 10, lines      # a line for each disk and queue
    assert debian.e2fs("e2fsck", "-fn", str(tmp_path / "data.img")).returncode == 0


@pytest.mark.skipif(not slirp.available(), reason="libslirp is not installed (apt-get install libslirp0)")
@pytest.mark.parametrize(("model", "extra", "shows"), [
    ("e1000", "xen_emul_unplug=never", "IO-APIC"), ("rtl8139", "xen_emul_unplug=never", "IO-APIC"), ("e1000", "", "xen-dyn"),
])  # fmt: skip
def test_network_cards(image, model, extra, shows):
    """A lease and a file by HTTP come through the emulated cards, and through the PV device when the card has been unplugged."""
    body = random.Random(1).randbytes(3 << 20)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, Host(384) as host:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        boot = image("generic", NETWORK.format(port=server.server_address[1]), extra)
        domain = host.create(settings(f"{boot},raw,hda,r", vif=[f"model={model}"]))
        assert domain.wait(120) == "poweroff", domain.console.text[-2000:]
        server.shutdown()
        assert hashlib.md5(body).hexdigest() in domain.console.text
        assert any(shows in line and ("eth0" in line or "vif" in line) for line in domain.console.text.splitlines())


def test_the_power_button_shuts_it_down(image):
    """The ACPI power button is an event of an input device; the system ends itself by S5."""
    with Host(384) as host:
        domain = host.create(settings(f"{image('cloud', BUTTON)},raw,hda,r"))
        domain.console.expect_exact("ready", timeout=90)
        domain.run(None, 1)
        domain.trigger("power")
        domain.console.expect_exact("pressed", timeout=30)
        assert domain.wait(30) == "poweroff"


@pytest.mark.parametrize(("extra", "controller", "clocksource", "end", "ended"), [
    ("nopv", "IO-APIC", "tsc", "poweroff -f", "poweroff"),
    ("nopv noapic reboot=k", "XT-PIC", "tsc", "reboot -f", "reboot"),
    ("nopv nolapic noapic acpi=off reboot=t", "XT-PIC", "", "reboot -f", "reboot"),
    ("nopv nohpet notsc clocksource=acpi_pm nolapic_timer reboot=p", "IO-APIC", "acpi_pm", "reboot -f", "reboot"),
    ("nopv clocksource=hpet tsc=unstable reboot=a", "IO-APIC", "hpet", "reboot -f", "reboot"),
    ("nopv reboot=b", "IO-APIC", "tsc", "reboot -f", "reboot"),
    ("", "IO-APIC", "xen", "reboot -f", "reboot"),
])  # fmt: skip
def test_interrupts_clocks_and_reboots(image, extra, controller, clocksource, end, ended):
    """With each interrupt controller and clock a system works: it sleeps, prints, is typed to, and ends in each way."""
    with Host(384) as host:
        domain = host.create(settings(f"{image('cloud', ECHO.format(end=end), 'quiet ' + extra)},raw,hda,r"))
        domain.console.expect_exact("type\r\n", timeout=90)
        assert controller in domain.console.text and clocksource in domain.console.text
        domain.console.sendline("hello, world")
        domain.console.expect_exact("got: hello, world", timeout=30)
        assert domain.wait(60) == ended
