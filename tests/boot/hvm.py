"""An HVM guest put together by hand: a domain, its PC, firmware; what it sends by COM1 and to the firmware's debug port is kept."""

import shutil
import subprocess
import time

import pytest

from scripts import debian
from xenfast.devices.drive import Drive
from xenfast.devices.machine import PC
from xenfast.dom0.block.raw import RawImage
from xenfast.firmware import hvmloader
from xenfast.libxl import config
from xenfast.libxl.build_pvh import special_pages
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import Clock
from xenfast.xenstore.xenstored import XenStored

SPARE = 12 << 8             # frames for ROMs, tables and what else is not RAM
FLAT_DATA, FLAT_CODE = 0xC093, 0xC09B


class Guest:
    """``settings`` are keys of xl.cfg; ``cdrom`` a path."""

    def __init__(self, cdrom=None, clock=Clock, **settings):
        self.config = config.from_dict({"type": "hvm", "name": "guest", "memory": 64, "serial": "pty", "boot": "d", **settings})
        mib = self.config.memory
        self.hv = Hypervisor(mib + 64, clock=clock())
        self.domain = self.hv.create_domain(
            "guest", kind="hvm", vcpus=self.config.maxvcpus, max_pages=(mib << 8) + SPARE + 4096, uuid=bytes(16),
        )
        self.domain.hvm.populate_ram(mib << 8)
        drives = [None, None, Drive(RawImage(str(cdrom), readonly=True), cdrom=True) if cdrom else None, None]
        self.serial, self.debug = bytearray(), bytearray()
        self.pc = PC(self.domain, self.config, ide=drives, serial=[self.serial.extend], debug=self.debug.extend)
        built = special_pages(self.domain)
        self.store = XenStored(self.hv)
        self.store.introduce(self.domain, built.store_mfn, built.store_port)
        self._nodes()
        start = time.perf_counter()
        self.loaded = hvmloader.load(self.domain, self.pc, self.config)
        self.load_seconds = time.perf_counter() - start
        self.domain.start_hvm()
        if self.loaded.start.entry is not None:
            self._flat(self.loaded.start)

    def _nodes(self):
        """What libxl tells hvmloader."""
        client = self.store.client()
        for name, value in hvmloader.store_nodes(self.config).items():
            path = f"/local/domain/{self.domain.domid}/{name}"
            client.write(path, value)
            client.set_perms(path, [f"b{self.domain.domid}"])

    def _flat(self, start):
        """Flat protected mode, as Xen's toolstack starts hvmloader."""
        core = self.domain.vcpus[0].core
        core.cr0 = 0x11
        for name in ("ds", "es", "ss", "fs", "gs"):
            core.set_segment(name, 0, 0, 0xFFFFFFFF, FLAT_DATA)
        core.set_segment("cs", 0, 0, 0xFFFFFFFF, FLAT_CODE)
        core.rip, core.rbx, core.rflags = start.entry, start.ebx, 2

    def run(self, until=None, timeout=120):
        """Until the text has come by COM1 or the debug port, or the guest has ended; all that came by COM1."""
        wanted = until.encode() if until else None
        self.hv.run(lambda: wanted and (wanted in self.serial or wanted in self.debug), timeout=timeout)
        return self.serial.decode("latin-1").replace("\r", "")

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.hv.close()


def grub_iso(path, script, cmdline="", flavour="cloud", modules=(), grub=None):
    """A CD-ROM that GRUB boots from, by BIOS and by UEFI where its modules are installed, with Debian's kernel.

    ``grub`` is a configuration of one's own instead of the one that boots it on the serial console.
    """
    if not shutil.which("grub-mkrescue") or not shutil.which("xorriso") or not shutil.which("mformat"):
        pytest.skip("grub-mkrescue (grub-common, grub-pc-bin), xorriso or mtools is not installed")
    try:
        kernel = debian.kernel(flavour)
        initrd = debian.initramfs(kernel, script, modules=modules)
    except debian.Unavailable as why:
        pytest.skip(str(why))
    root = path.with_suffix(".root")
    (root / "boot/grub").mkdir(parents=True)
    shutil.copy(kernel.image, root / "boot/vmlinuz")
    (root / "boot/initrd").write_bytes(initrd)
    (root / "boot/grub/grub.cfg").write_text(
        grub if grub is not None else
        "serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\nset timeout=0\n"
        f"menuentry Debian {{\n linux /boot/vmlinuz console=ttyS0 {cmdline}\n initrd /boot/initrd\n}}\n"
    )
    subprocess.run(["grub-mkrescue", "-o", str(path), str(root)], check=True, capture_output=True)
    return path


def package_file(package, name):
    """A file of a Debian package that need not be installed: downloaded with apt-get and unpacked into .cache."""
    directory = debian.CACHE / "packages" / package
    found = directory / name
    if not found.exists():
        debs = directory / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        if not shutil.which("apt-get"):
            pytest.skip("there is no apt-get")
        done = subprocess.run(["apt-get", "download", "-q", package], cwd=debs, capture_output=True, text=True, check=False)
        files = sorted(debs.glob("*.deb"))
        if done.returncode or not files:
            pytest.skip(f"Debian's package {package} cannot be downloaded")
        subprocess.run(["dpkg-deb", "-x", str(files[-1]), str(directory)], check=True)
    return found
