"""What firmware made for QEMU (OVMF) is given by fw_cfg: memory map, ACPI tables with the script that links them, SMBIOS.

Specified in QEMU's docs/specs/fw_cfg.rst and in the head of hw/acpi/bios-linker-loader.c.  The tables are ours, written as if they
lay at 0; the script has the firmware add the address where it puts them, and make the checksums.  Processors cannot be plugged
in there, because the firmware copies the MADT to a place that the DSDT does not know.
"""

import re
from dataclasses import replace
from struct import pack

from xenfast.devices import fw_cfg
from xenfast.firmware import e820, smbios
from xenfast.firmware.acpi import build as acpi_build
from xenfast.firmware.acpi.machine import Machine

TABLES_FILE, RSDP_FILE, LOADER_FILE = "etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"
ALLOCATE, ADD_POINTER, ADD_CHECKSUM = 1, 2, 3
HIGH, FSEG = 1, 2
COMMAND_SIZE = 128
FADT_POINTERS = ((36, 4), (40, 4), (132, 8), (140, 8))      # FACS, DSDT, and both again


def fill(device: fw_cfg.FwCfg, machine: Machine, firmware_info: smbios.Smbios, ram: list[tuple[int, int]],
         boot: list[str] | None = None, *, acpi: bool = True) -> None:
    """Everything that a machine's firmware asks for.  ``ram``: (first byte, bytes) of each range; ``boot``: Open Firmware paths."""
    device.add_int(fw_cfg.NB_CPUS, 2, machine.processors)      # those not plugged in yet answer SIPI as well, as under Xen
    device.add_int(fw_cfg.MAX_CPUS, 2, machine.processors)
    device.add_int(fw_cfg.RAM_SIZE, 8, sum(size for _, size in ram))
    device.add(fw_cfg.UUID, firmware_info.uuid)
    device.add_int(fw_cfg.BOOT_MENU, 2, 0)
    device.add_int(fw_cfg.NOGRAPHIC, 2, 0 if machine.vga else 1)
    device.add_file("etc/e820", e820.packed([e820.Range(start, size, e820.RAM) for start, size in ram]))
    if acpi:
        add_acpi(device, machine)
    found = smbios.structures(firmware_info)
    device.add_file("etc/smbios/smbios-tables", b"".join(found))
    device.add_file("etc/smbios/smbios-anchor", smbios.entry_point(found, 0))
    if boot:
        device.add_file("bootorder", "\n".join(boot).encode() + b"\0")


def add_acpi(device: fw_cfg.FwCfg, machine: Machine) -> None:
    built = acpi_build.build(replace(machine, hot_plug=False), 0)
    data, rsdp = bytearray(built.data), bytearray(built.rsdp)
    script = [_allocate(RSDP_FILE, 16, FSEG), _allocate(TABLES_FILE, acpi_build.ALIGN, HIGH)]
    at = built.where["FACP"]
    for offset, size in FADT_POINTERS:
        script.append(_pointer(TABLES_FILE, at + offset, size))
    script.append(_checksum(data, at, TABLES_FILE, at + 9, _length(data, at)))
    for root, size in (("RSDT", 4), ("XSDT", 8)):
        at = built.where[root]
        script += [_pointer(TABLES_FILE, where, size) for where in range(at + 36, at + _length(data, at), size)]
        script.append(_checksum(data, at, TABLES_FILE, at + 9, _length(data, at)))
    script += [_pointer(RSDP_FILE, 16, 4), _pointer(RSDP_FILE, 24, 8)]
    script += [_checksum(rsdp, 0, RSDP_FILE, 8, 20), _checksum(rsdp, 0, RSDP_FILE, 32, 36)]
    device.add_file(TABLES_FILE, bytes(data))
    device.add_file(RSDP_FILE, bytes(rsdp))
    device.add_file(LOADER_FILE, b"".join(script))


def _length(data: bytes | bytearray, at: int) -> int:
    return int.from_bytes(data[at + 4:at + 8], "little")


def _command(number: int, body: bytes) -> bytes:
    return (pack("<I", number) + body).ljust(COMMAND_SIZE, b"\0")


def _allocate(name: str, align: int, zone: int) -> bytes:
    return _command(ALLOCATE, pack("<56sIB", name.encode(), align, zone))


def _pointer(target: str, offset: int, size: int) -> bytes:
    """A pointer of the target into the tables: it holds the offset, to which their address is added."""
    return _command(ADD_POINTER, pack("<56s56sIB", target.encode(), TABLES_FILE.encode(), offset, size))


def _checksum(data: bytearray, start: int, name: str, where: int, length: int) -> bytes:
    """The byte at ``where`` is zeroed here and made there, so that ``length`` bytes from ``start`` on sum to zero."""
    data[where] = 0
    return _command(ADD_CHECKSUM, pack("<56sIII", name.encode(), where, start, length))


# --- boot order --------------------------------------------------------------------------------------------------------------


def boot_paths(order: str, disks: list[tuple[str, bool]], nics: list[int]) -> list[str]:
    """``boot=`` as Open Firmware paths.  ``disks``: (vdev, is a CD-ROM), ``nics``: PCI slots of network cards."""
    found = []
    for letter in order:
        if letter == "a":
            found.append("/pci@i0cf8/isa@1/fdc@03f0/floppy@0")
        elif letter in "cd":
            found += [path for vdev, cdrom in disks if cdrom == (letter == "d") and (path := disk_path(vdev))]
        elif letter == "n":
            found += [f"/pci@i0cf8/ethernet@{slot:x}/ethernet-phy@0" for slot in nics]
    return found


def disk_path(vdev: str) -> str:
    """Of hda to hdd, and of xvda to xvdd, which are the same drives; "" for others."""
    match = re.fullmatch(r"(?:hd|xvd)([a-d])", vdev)
    if not match:
        return ""
    number = ord(match[1]) - ord("a")
    return f"/pci@i0cf8/ide@1,1/drive@{number >> 1}/disk@{number & 1}"
