"""A whole HVM machine with our BIOS: hypervisor, chips, screen, drives on images in memory or files."""

from types import SimpleNamespace

from tests.firmware.pc import Memory
from xenfast.devices.drive import Drive
from xenfast.devices.machine import PC
from xenfast.devices.vga_picture import text
from xenfast.dom0.block.raw import RawImage
from xenfast.firmware import hvmloader
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import Clock, VirtualClock

CONFIG = {
    "firmware_override": "", "bios": "", "bios_path_override": "", "boot": "cda", "acpi": 1, "apic": 1, "hpet": 1, "vga": "stdvga",
    "acpi_s3": 1, "acpi_s4": 1, "acpi_laptop_slate": 0, "acpi_firmware": "", "smbios_firmware": "", "smbios": {}, "ms_vm_genid": "",
    "vnuma": (),
    "mmio_hole": 0, "vcpus": 1, "maxvcpus": 1, "serial": ["pty"], "uuid": "00112233-4455-6677-8899-aabbccddeeff", "disks": [],
    "xen_platform_pci": 1, "timer_mode": "no_delay_for_missed_ticks", "localtime": 0, "rtc_timeoffset": 0, "videoram": 0,
}

# set 1 numbers of keys, for typing
KEYS = {
    "\r": 0x1C, "\x1b": 0x01, " ": 0x39, "\t": 0x0F, "UP": 0xC8, "DOWN": 0xD0, "F12": 0x58,
    **dict(zip("1234567890-=", range(0x02, 0x0E))), **dict(zip("qwertyuiop", range(0x10, 0x1A))),
    **dict(zip("asdfghjkl", range(0x1E, 0x27))), **dict(zip("zxcvbnm", range(0x2C, 0x33))), ".": 0x34, "/": 0x35, ",": 0x33,
}   # fmt: skip


class Machine:
    """``disks``, ``cdroms``, ``floppies``: bytes or paths.  ``wait(text)`` runs until it stands on the screen."""

    def __init__(self, mib=16, *, disks=(), cdroms=(), floppies=(), cards=(), make_cards=None, clock=VirtualClock, vcpus=1,
                 engine="auto", **changes):
        config = SimpleNamespace(**CONFIG | {"vcpus": vcpus, "maxvcpus": vcpus} | changes)
        self.hv = Hypervisor(mib + 32, clock=clock(), **({} if engine == "auto" else {"engine": engine}))
        pages = mib << 8
        self.domain = self.hv.create_domain("guest", kind="hvm", vcpus=vcpus, max_pages=pages + 8192)
        self.domain.hvm.populate_ram(pages)
        self.serial, self.printed = bytearray(), bytearray()
        self.images = []
        cards = make_cards(self.domain.hvm) if make_cards is not None else cards
        drives = [Drive(self.open(one)) for one in disks]
        drives += [None] * (2 - len(drives)) + [Drive(self.open(one), cdrom=True) for one in cdroms]
        self.pc = PC(self.domain, config, ide=drives, floppies=[Drive(self.open(one)) for one in floppies],
                     serial=[lambda data: self.hv.loop.call_soon(self.serial.extend, data)],
                     parallel=self.printed.extend, cards=cards)
        self.loaded = hvmloader.load(self.domain, self.pc, config)
        self.bios = self.loaded.bios
        self.domain.start_hvm()

    def open(self, thing):
        """Bytes or a path as an image."""
        self.images.append(Memory(thing) if isinstance(thing, (bytes, bytearray)) else RawImage(str(thing)))
        return self.images[-1]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.hv.__exit__(*exc)
        for one in self.images:
            one.close()

    @property
    def screen(self):
        return "\n".join(text(self.pc.vga.vga)) if self.pc.vga is not None else ""

    def run(self, until=None, timeout=20):
        return self.hv.run(until, timeout)

    def wait(self, what, timeout=20, where=None):
        """Until a text stands on the screen; AssertionError with the screen when it does not come."""
        self.run(lambda: what in (where() if where else self.screen), timeout)
        seen = where() if where else self.screen
        assert what in seen, f"no {what!r} on:\n{seen}"
        return seen

    def type(self, *keys):
        """Press and release keys."""
        for key in keys:
            for one in ([key] if key in KEYS else key):
                with self.hv.lock:
                    self.pc.ps2.keyboard.key(KEYS[one], True)
                    self.pc.ps2.keyboard.key(KEYS[one], False)
                start = self.hv.clock.now()
                self.run(lambda start=start: self.hv.clock.now() > start + 2_000_000, 5)


__all__ = ["Clock", "Machine", "VirtualClock"]
