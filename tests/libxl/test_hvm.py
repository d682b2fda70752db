"""HVM guests by the toolstack: boot from disks, CD-ROMs and diskettes, the serial console, screen, buttons, what is refused."""

import pytest

from tests.cpu.asm import assemble
from xenfast.errors import XenfastError
from xenfast.libxl import config
from xenfast.libxl.host import Host

# A boot sector: says what BIOS drive it is from on COM1 and the screen, then echoes what is typed until "q".
BOOT = """
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7000
    push dx
    mov dx, 0x3FB
    mov al, 3
    out dx, al
    mov dx, 0x3F8
    mov al, 0x64                # "d", and the drive's number as a letter: A for 0, a for 80h
    out dx, al
    pop ax
    and al, 0xA0
    shr al, 2
    or al, 0x41
    out dx, al
    mov ah, 0x0E
    mov al, 0x21                # "!" on the screen
    int 0x10
again:
    mov dx, 0x3FD
    in al, dx
    test al, 1
    jz again
    mov dx, 0x3F8
    in al, dx
    cmp al, 0x71
    je done
    inc al
    out dx, al
    jmp again
done:
    mov ax, 0x5301              # APM: connect, version 1.2, power off
    xor bx, bx
    int 0x15
    mov ax, 0x530E
    xor bx, bx
    mov cx, 0x0102
    int 0x15
    mov ax, 0x5307
    mov bx, 1
    mov cx, 3
    int 0x15
1:  hlt
    jmp 1b
"""


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "boot.img"
    path.write_bytes(assemble(BOOT, 16, 0x7C00).ljust(510, b"\0") + b"\x55\xaa" + bytes((2 << 20) - 512))
    return path


def settings(*disks, **more):
    return {"name": "pc", "type": "hvm", "memory": 16, "vnc": 0, "disk": [str(each) for each in disks]} | more


@pytest.mark.parametrize(("vdev", "boot", "shows", "more"), [
    ("hda", "c", "da", {}), ("xvda", "c", "da", {}), ("fda", "a", "dA", {}), ("xvda", "c", "da", {"hdtype": "ahci"}),
])  # fmt: skip
def test_a_boot_sector_runs(disk, vdev, boot, shows, more):
    """The first sector of the disk or diskette starts, and has the serial port as its console and the screen."""
    with Host(96) as host:
        domain = host.create(settings(f"{disk},raw,{vdev},w", boot=boot, **more))
        domain.console.expect_exact(shows, timeout=20)
        domain.console.send("HAL")
        domain.console.expect_exact("IBM", timeout=20)
        assert any("!" in line for line in domain.screen.text)
        domain.console.send("q")
        assert domain.wait(20) == "poweroff"


def test_triggers(disk):
    """Buttons and interrupts from outside; reset ends it as a reboot does; a PV guest has none."""
    with Host(96) as host:
        domain = host.create(settings(f"{disk},raw,hda,w"))
        domain.console.expect_exact("da", timeout=20)
        domain.trigger("power")
        assert domain.machine.pc.pm.status & 0x100
        with pytest.raises(XenfastError, match="cannot be triggered"):
            domain.trigger("fire")
        domain.trigger("reset")
        assert domain.wait(20) == "reboot"


def test_serial_ports(disk, tmp_path):
    """serial= may be several: files, nothing, and one console."""
    with Host(96) as host:
        log = tmp_path / "com1.log"
        domain = host.create(settings(f"{disk},raw,hda,w", serial=[f"file:{log}", "pty"]))
        domain.run(lambda: log.read_bytes() == b"da", 20)
        assert log.read_bytes() == b"da" and domain.console.text == ""
        with pytest.raises(XenfastError, match="serial="):
            host.create(settings(serial="tcp:1.2.3.4:5", name="two"))


def test_what_is_refused(disk, tmp_path):
    """Two disks at one place and a kernel for an HVM guest are refused in a sentence."""
    other = tmp_path / "other.img"
    other.write_bytes(bytes(512))
    with Host(96) as host:
        with pytest.raises(XenfastError, match="another disk"):
            host.create(settings(f"{disk},raw,hda,w", f"{other},raw,xvda,r"))
        with pytest.raises(XenfastError, match="firmware"):
            host.create(config.from_dict(settings(f"{disk},raw,hda,w", kernel=str(disk))))
        assert not host.domains


def test_the_screen_by_vnc_and_usb():
    """An HVM domain has a VNC server that the store names, a picture, and the USB devices it was given."""
    with Host(96) as host:
        domain = host.create({"name": "vnc", "type": "hvm", "memory": 16, "vncdisplay": 300, "vncpasswd": "pw", "usbdevice": ["tablet"]})
        client = host.store.client()
        assert client.read(f"{domain.path}/console/vnc-port") == str(domain.vnc.port) and domain.vnc.port >= 6200
        assert client.read(f"{domain.path}/console/vnc-pass") == "pw" and domain.vnc.name == "vnc"
        domain.screen.wait_text("(?i)boot", timeout=20)
        assert domain.screen.picture().any() and domain.machine.pc.pci.functions[1 << 3 | 2].name == "usb"
        domain.destroy()
        assert domain.vnc is None
        quiet = host.create({"name": "quiet", "type": "hvm", "memory": 16, "vnc": 0, "vga": "none"})
        assert quiet.vnc is None
        with pytest.raises(XenfastError, match="'quiet' has no screen"):
            _ = quiet.screen
        quiet.destroy()
        with pytest.raises(XenfastError, match="usbdevice 'host:1234' is not supported"):
            host.create({"name": "usb", "type": "hvm", "memory": 16, "usbdevice": ["host:1234"]})
        assert not host.domains
