"""Our BIOS for a whole machine (devices/machine.py): its drives, its video card, its option ROMs, and the tables that are there.

The order of disks is that of the controllers: IDE, then PCI functions by number (AHCI, virtio).  PXE: a network card whose option
ROM is a file brings it along (``rom``), or the distribution's iPXE is taken when ``boot`` asks for the network.
"""

import logging
from pathlib import Path
from typing import Any

from xenfast.devices import font
from xenfast.devices.vga_pci import VgaCard
from xenfast.firmware import vgabios
from xenfast.firmware.bios import Bios, BiosConfig, OptionRom
from xenfast.firmware.drives import CDROM, DISK, FLOPPY, BiosDrive

log = logging.getLogger("xenfast")

IPXE_ROMS = Path("/usr/lib/ipxe/qemu")      # of Debian's ipxe-qemu: pxe-e1000.rom, by the card's device ID
CARD_ROMS = {(0x8086, 0x100E): "pxe-e1000.rom", (0x8086, 0x10D3): "efi-e1000e.rom", (0x10EC, 0x8139): "pxe-rtl8139.rom",
             (0x1AF4, 0x1000): "pxe-virtio.rom", (0x1AF4, 0x1041): "pxe-virtio.rom"}


def install(domain: Any, pc: Any, config: Any, e820: list[Any]) -> Bios:
    """Make the BIOS, put its ROM into the domain; the processor runs it from the reset vector."""
    hvm = domain.hvm
    floppies, disks, cdroms = drives_of(pc)
    bios = Bios(hvm, BiosConfig(
        boot=config.boot, floppies=floppies, disks=disks, cdroms=cdroms, e820=lambda: e820, vcpus=config.vcpus,
        option_roms=option_roms(pc, config.boot), font=font.font(8), power_off=hvm.power_off, reset=hvm.reset,
    ))
    card = next((device for device in pc.pci.functions.values() if isinstance(device, VgaCard)), None)
    if card is not None:
        bios.config.video = vgabios.install(hvm, bios.traps, card.vga).post
    return bios


def drives_of(pc: Any) -> tuple[list[BiosDrive], list[BiosDrive], list[BiosDrive]]:
    """Diskettes, disks, CD-ROMs."""
    floppies = [_named(BiosDrive(unit.drive, FLOPPY)) for unit in pc.fdc.drives if unit.drive is not None]
    disks: list[BiosDrive] = []
    cdroms: list[BiosDrive] = []
    for key, function in sorted(pc.pci.functions.items()):
        for drive, channel, unit, interface in _of_function(function):
            info = {"pci": (0, key >> 3, key & 7), "interface": interface}
            one = _named(BiosDrive(drive, CDROM if drive.cdrom else DISK, channel=channel, unit=unit, info=info))
            (cdroms if drive.cdrom else disks).append(one)
    return floppies, disks, cdroms


def _of_function(function: Any) -> list[tuple[Any, int, int, str]]:
    """Drives of a controller: drive, channel, unit, interface (EDD 3.0, device path)."""
    found = []
    for number, channel in enumerate(getattr(function, "channels", ())):       # IDE
        for which, unit in enumerate(getattr(channel, "units", ())):
            if unit is not None:
                drive = unit.device.drive
                found.append((drive, number, which, "ATAPI" if drive.cdrom else "ATA"))
    for port in _list(function, "ports"):                                       # AHCI
        if getattr(port, "device", None) is not None:
            found.append((port.device.drive, 0xFF, port.number, "SATA"))
    drive = getattr(function, "drive", None)
    if drive is not None and hasattr(drive, "readv"):                           # virtio
        found.append((drive, 0xFF, 0, "VIRTIO"))
    return found


def _list(function: Any, name: str) -> list[Any]:
    value = getattr(function, name, ())
    return value if isinstance(value, list) else []


def _named(drive: BiosDrive) -> BiosDrive:
    """For the boot screen: the file's name."""
    image = drive.drive.image
    if image is not None:
        drive.info["name"] = Path(getattr(image, "path", "")).name
    return drive


def option_roms(pc: Any, boot: str) -> list[OptionRom]:
    """Of network cards, when one is to boot."""
    found: list[OptionRom] = []
    if "n" not in boot:
        return found
    for key, function in sorted(pc.pci.functions.items()):
        if function.config_read(0x0A, 2) != 0x0200:
            continue
        name = CARD_ROMS.get((function.config_read(0, 2), function.config_read(2, 2)))
        path = getattr(function, "rom_path", None) or (IPXE_ROMS / name if name else None)
        if path is None:
            continue
        try:
            found.append(OptionRom(Path(path).read_bytes(), key, str(path)))
        except OSError as error:
            log.warning("firmware: no network boot: %s: %s (Debian: ipxe-qemu)", path, error.strerror)
        break                   # one is enough, and they are large
    return found
