"""A real system's screen: GRUB in graphics, Debian's frame buffer console, its drivers of keyboard, mouse and USB tablet, a VNC client."""

import struct

import numpy as np
import pytest

from tests.boot.hvm import grub_iso
from tests.libxl.rfbclient import Client
from xenfast.libxl.host import Host

pytestmark = pytest.mark.slow

SCRIPT = """
until busybox grep -q Explorer /proc/bus/input/devices && busybox grep -q tablet /proc/bus/input/devices; do sleep 0.2; done
sleep 0.2
cat /proc/bus/input/devices | busybox grep Name
for event in /dev/input/event*; do
    busybox head -c 72 $event >/seen.${event##*/} &
done
sleep 1
cat /proc/fb
echo "some words on the screen" >/dev/tty0
echo READY
wait
for file in /seen.*; do
    echo $(busybox od -A n -v -t x1 $file | busybox tr -d ' \\n') EVENTS $(cat /sys/class/input/${file#/seen.}/device/name)
done
echo DONE
poweroff -f
"""
GRUB = """
insmod all_video
insmod gfxterm
set gfxmode=800x600x32
set gfxpayload=keep
terminal_input console
terminal_output gfxterm
set timeout=60
menuentry First { true }
menuentry Debian {
 linux /boot/vmlinuz console=tty0 console=ttyS0
 initrd /boot/initrd
}
"""
SIZES = (600, 800, 3)


@pytest.fixture(scope="module")
def iso(tmp_path_factory):
    path = tmp_path_factory.mktemp("iso") / "debian.iso"
    return grub_iso(path, SCRIPT, flavour="generic", modules=("uhci-hcd", "usbhid", "hid-generic", "evdev", "psmouse"), grub=GRUB)


def test_graphics_input_and_vnc(iso, tmp_path):
    """The graphical menu is driven by keys; Debian has the picture GRUB has set up, finds every input device, and hears each of them."""
    settings = {"name": "screen", "type": "hvm", "memory": 256, "boot": "d", "disk": [f"{iso},raw,hdc,cdrom"], "usbdevice": ["tablet"],
                "vncdisplay": 400, "xen_platform_pci": 0}
    with Host(512) as host:
        domain = host.create(settings)
        screen = domain.screen
        screen.wait_picture(lambda picture: picture.shape == SIZES and (picture[:, 400] > 100).all(axis=1).sum() > 10, timeout=60)
        screen.png(tmp_path / "grub.png")
        menu = screen.picture()
        screen.press("down")
        screen.wait_picture(lambda picture: (picture != menu).any(), timeout=20)
        screen.press("enter")
        domain.console.expect("READY", timeout=120)
        assert screen.size == (600, 800) and screen.input.absolute
        screen.wait_still(0.5, timeout=20, tolerance=0.001)
        screen.png(tmp_path / "debian.png")
        seen = screen.picture()
        assert len(np.unique(seen.reshape(-1, 3), axis=0)) >= 2

        client = Client(domain.vnc.port, lambda: domain.run(timeout=0.005), (16, -223))
        shown = client.update(0)
        assert shown.shape == (600, 800) and (shown != 0).sum() > 1000
        client.key(ord("x"))
        client.key(ord("x"), 0)
        client.pointer(401, 300)
        client.pointer(401, 300, 1)
        with host.hypervisor.lock:
            domain.machine.pc.ps2.mouse.move(7, -3)
            domain.machine.pc.ps2.mouse.button(1, True)
        domain.console.expect("DONE", timeout=60)
        text = domain.console.text
    names = ("AT Translated Set 2 keyboard", "ImExPS/2 Generic Explorer Mouse", "xenfast USB tablet")
    for name in names:
        assert f'Name="{name}"' in text
    lines = [line.split(" EVENTS ") for line in text.splitlines() if " EVENTS " in line]
    events = {name.strip(): bytes.fromhex(data) for data, name in lines}
    keyboard, mouse, tablet = ([struct.unpack("<HHi", events[name][i + 16:i + 24]) for i in range(0, 72, 24)] for name in names)
    assert (1, 45, 1) in keyboard                                   # EV_KEY, KEY_X
    assert (2, 0, 7) in mouse and (2, 1, -3) in mouse               # EV_REL
    assert (3, 0, 401 * 0x7FFF // 799) in tablet and (3, 1, 300 * 0x7FFF // 599) in tablet      # EV_ABS
