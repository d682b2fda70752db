"""Debian's installer from a CD-ROM made of the distribution's netboot package: text and graphical, up to the first question."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from scripts import debian
from xenfast.libxl.host import Host

pytestmark = pytest.mark.slow

PACKAGE = "debian-installer-12-netboot-amd64"
IMAGES = "usr/lib/debian-installer/images/12/amd64/{kind}/debian-installer/amd64/{name}"
ISOLINUX, MODULES = Path("/usr/lib/ISOLINUX/isolinux.bin"), Path("/usr/lib/syslinux/modules/bios")
CONFIG = "PROMPT 0\nDEFAULT install\nLABEL install\n KERNEL /linux\n APPEND initrd=/initrd.gz {options}\n"


def cdrom(directory, kind, options):
    """A CD-ROM of one of the installers."""
    if not ISOLINUX.exists() or not MODULES.exists() or not shutil.which("xorriso"):
        pytest.skip("isolinux, syslinux-common or xorriso is not installed")
    root = directory / "cd"
    (root / "isolinux").mkdir(parents=True)
    try:
        for name in ("linux", "initrd.gz"):
            shutil.copy(debian.package_file(PACKAGE, IMAGES.format(kind=kind, name=name)), root)
    except debian.Unavailable as why:
        pytest.skip(str(why))
    shutil.copy(ISOLINUX, root / "isolinux")
    shutil.copy(MODULES / "ldlinux.c32", root / "isolinux")
    (root / "isolinux/isolinux.cfg").write_text(CONFIG.format(options=options))
    iso = directory / "installer.iso"
    subprocess.run(["xorriso", "-as", "mkisofs", "-o", iso, "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot",
                    "-boot-load-size", "4", "-boot-info-table", root], check=True, capture_output=True)
    return iso


def start(host, iso, memory):
    return host.create({"name": "installer", "type": "hvm", "memory": memory, "boot": "d", "disk": [f"{iso},raw,hdc,cdrom"], "vnc": 0,
                        "usbdevice": ["tablet"]})


def test_the_text_installer(tmp_path):
    """It asks for a language in text mode, and goes on to the next question when one is chosen."""
    with Host(1024) as host:
        screen = start(host, cdrom(tmp_path, "text", "vga=normal fb=false nomodeset"), 896).screen
        screen.wait_text("Select a language", timeout=240)
        screen.wait_text("English", timeout=30)
        screen.png(tmp_path / "language.png")
        screen.press("enter")
        screen.wait_text("Select your location", timeout=120)
        screen.png(tmp_path / "location.png")


def test_the_graphical_installer(tmp_path):
    """From the mode of 800 x 600 that the kernel asks the video BIOS for to its own driver's, X, and a first question that hears keys."""
    with Host(1024) as host:
        screen = start(host, cdrom(tmp_path, "gtk", "vga=788 ---"), 896).screen
        screen.wait_picture(lambda picture: picture.shape[:2] == (600, 800), timeout=60)
        # the list of languages, black on white below a coloured head
        screen.wait_picture(lambda picture: (picture >= 250).all(axis=2).mean() > 0.4, timeout=500)
        before = screen.wait_still(1.0, timeout=60, tolerance=0.001)
        screen.png(tmp_path / "language.png")
        assert len(np.unique(before.reshape(-1, 3), axis=0)) > 50
        screen.press("up")
        screen.wait_picture(lambda picture: (picture != before).any(axis=2).mean() > 0.01, timeout=60)
        screen.png(tmp_path / "moved.png")
