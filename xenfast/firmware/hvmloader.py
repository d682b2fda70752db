"""What happens between power-on and the BIOS: PCI, interrupts, the tables in memory, and the firmware that goes on from there.

Follows Xen's tools/firmware/hvmloader, which does it in the guest; here it is done by Python before the first instruction, in a
few milliseconds.  Memory, as there::

    001000            what SeaBIOS is told (fw_images.py)
    0C0000            video BIOS; option ROMs behind it
    0F0000 - 0FDFFF   tables that are found by their signature: SMBIOS, MP table, $PIR, RSDP
    0FE000 - 0FFFFF   BIOS
    F0000000          PCI memory, as far down as is needed; RAM that was there goes above 4 GiB
    FC000000          generation ID; FC001000 ACPI tables; for SeaBIOS the other tables behind them

Application processors wait for SIPI, as after INIT; they are not woken here, since there is nothing to set up in them: MTRRs
are the same in all (mtrr.py), APIC IDs are given.
"""

import logging
import uuid
from dataclasses import dataclass, field
from typing import Any

from xenfast.devices.fw_cfg import BOOT_MENU
from xenfast.errors import XenfastError
from xenfast.firmware import bios_machine, e820, fw_images, mptable, mtrr, numa, pci_setup, pirq, qemu_tables, smbios
from xenfast.firmware.acpi import build as acpi_build
from xenfast.firmware.acpi.machine import GENERATION_ID, IO_APIC, IO_APIC_ID, PCI_IRQS, TABLES, Machine

log = logging.getLogger("xenfast")

PAGE = 4096
FOUR_GIB = 1 << 32
ROM_TABLES = range(0xF0000, 0xFE000)
ELCR = 0x4D0                        # edge/level control of the two PICs
CMOS_INDEX, CMOS_DATA = 0x70, 0x71
CMOS_BOOT_1, CMOS_BOOT_2 = 0x38, 0x3D
LAPIC_SVR, LAPIC_LINT0, LAPIC_LINT1 = 0x0F, 0x35, 0x36
LAPIC_EXTINT, LAPIC_NMI, LAPIC_MASKED = 7 << 8, 4 << 8, 1 << 16
CLASS_ETHERNET = 0x0200
OVMF_LOW_WINDOW = 2 << 30           # it puts PCI memory from here on, or behind RAM below 4 GiB
OVMF_HIGH_WINDOW = 32 << 30         # and so much above 4 GiB, at a multiple of its size
BOOT_CODES = {"a": 1, "c": 2, "d": 3, "n": 4}


@dataclass
class Loaded:
    """What was made.  ``tables``: name -> (address, bytes) of those found by signature."""

    e820: list[e820.Range]
    placement: pci_setup.Placement | None = None
    acpi: acpi_build.Acpi | None = None
    tables: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    start: fw_images.Start = field(default_factory=fw_images.Start)
    bios: Any = None                # of our own firmware: its object


def load(domain: Any, pc: Any, config: Any) -> Loaded:
    """Set up the machine ``pc`` (devices/machine.py) of a domain whose RAM is populated, as ``config`` says.

    XenfastError for a file that is not there or an option that cannot be.
    """
    if config.firmware_override:
        return _override(domain, pc, config)
    loader = {"": _own, "seabios": _seabios, "ovmf": _ovmf}.get(config.bios)
    if loader is None:
        raise XenfastError(f"bios={config.bios!r} is not supported (seabios, ovmf, or our own)")
    return loader(domain, pc, config)


# --- the kinds of firmware ---------------------------------------------------------------------------------------------------


def _own(domain: Any, pc: Any, config: Any) -> Loaded:
    """Our BIOS, with the tables in its ROM."""
    loaded = prepare(domain, pc, config, ROM_TABLES.start)
    loaded.bios = bios_machine.install(domain, pc, config, loaded.e820)
    for address, data in loaded.tables.values():
        domain.hvm.physmem.write(address, data, rom=True)
    pc.i440fx.preset()
    return loaded


def _seabios(domain: Any, pc: Any, config: Any) -> Loaded:
    image = fw_images.find("seabios", config.bios_path_override)
    loaded = prepare(domain, pc, config, None, rom_start=fw_images.ONE_MIB - len(image))
    hvm = domain.hvm
    fw_images.install_seabios(hvm, image)
    at = max(address + len(data) for address, data in loaded.tables.values()) + 15 & -16
    pointers = [address for address, _ in loaded.tables.values()]
    listing = b"".join(pointer.to_bytes(4, "little") for pointer in pointers)
    put(hvm, at, listing + e820.packed(loaded.e820))
    hvm.physmem.write(
        fw_images.SEABIOS_INFO, fw_images.seabios_info(at, len(pointers), at + len(listing), len(loaded.e820))
    )
    virtual_wire(domain)
    boot_order(hvm.ports, config.boot)
    seabios_files(pc, config)
    return loaded


def virtual_wire(domain: Any) -> None:
    """The first processor gets the PICs' interrupts by input 0 of the I/O APIC and NMI at LINT1 (our BIOS does it at power-on)."""
    core, mmio = domain.vcpus[0].core, domain.hvm.mmio
    for register, value in ((LAPIC_SVR, 0x1FF), (LAPIC_LINT0, LAPIC_MASKED | LAPIC_EXTINT), (LAPIC_LINT1, LAPIC_NMI)):
        core.set_lapic_register(register, value)
    for register, value in ((0x00, IO_APIC_ID << 24), (0x11, core.apic_id << 24), (0x10, LAPIC_EXTINT)):
        mmio.write(IO_APIC, 4, register)
        mmio.write(IO_APIC + 0x10, 4, value)


def seabios_files(pc: Any, config: Any) -> None:
    """What SeaBIOS asks fw_cfg for: video BIOS and network cards' ROMs, by their PCI IDs; that there is no boot menu."""
    fw_cfg = pc.fw_cfg()
    fw_cfg.add_int(BOOT_MENU, 2, 0)
    if config.vga != "none":
        fw_cfg.add_file("pci1234,1111.rom", fw_images.read(fw_images.SEABIOS_VGA, "VGA BIOS"))
    for rom in bios_machine.option_roms(pc, config.boot):
        slot, function = rom.bdf >> 3 & 31, rom.bdf & 7
        vendor, device = (pc.pci.config_read(slot, function, register, 2) for register in (0, 2))
        fw_cfg.add_file(f"pci{vendor:04x},{device:04x}.rom", rom.data)


def _ovmf(domain: Any, pc: Any, config: Any) -> Loaded:
    """It sets up PCI itself, within the hole that there is below 4 GiB, and puts tables where it likes."""
    hvm = domain.hvm
    image = fw_images.find("ovmf", config.bios_path_override)
    move_ram(hvm, FOUR_GIB - (config.mmio_hole << 20) if config.mmio_hole else pci_setup.MEMORY_START)
    fw_images.install_rom(hvm, image, "the OVMF image")
    low, high = ram_ends(hvm)
    first = -(-high // OVMF_HIGH_WINDOW) * OVMF_HIGH_WINDOW
    windows = (max(low, OVMF_LOW_WINDOW), pci_setup.MEMORY_END), (first, first + OVMF_HIGH_WINDOW)
    placement = pci_setup.Placement([], *windows, pirq.links())
    cmos_memory(hvm.ports, low, high)
    ram = [(first, end - first) for first, end in ((0, low), (FOUR_GIB, high)) if end > first]
    disks = [(spec.vdev, spec.cdrom) for spec in config.disks]
    qemu_tables.fill(
        pc.fw_cfg(), describe(config, placement, low, high), describe_smbios(domain, config, cpu_signature(domain)), ram,
        qemu_tables.boot_paths(config.boot, disks, network_slots(pc.pci)), acpi=bool(config.acpi),
    )
    if config.ms_vm_genid:
        put(hvm, GENERATION_ID, smbios.wire_uuid(generation(config)))
    return Loaded(e820.hvm(low, high), placement)


def _override(domain: Any, pc: Any, config: Any) -> Loaded:
    """An hvmloader, or a ROM; both find the machine as after reset, and set it up themselves."""
    hvm = domain.hvm
    image = fw_images.read(config.firmware_override, "firmware image")
    low, high = ram_ends(hvm)
    loaded = Loaded(e820.hvm(low, high))
    domain.e820 = [(start, end - start, e820.RAM) for start, end in ((e820.HIGH_MEMORY, low), (FOUR_GIB, high)) if end > start]
    if not fw_images.is_elf(image):
        fw_images.install_rom(hvm, image, config.firmware_override)
        boot_order(hvm.ports, config.boot)
        return loaded
    entry, end = fw_images.load_elf(hvm, image, config.firmware_override)
    at = -(-max(end, fw_images.MODULES) // PAGE) * PAGE
    modules = []
    name = config.bios or "seabios"
    if name in fw_images.PACKAGES:
        bios = fw_images.find(name, config.bios_path_override)
        if at + len(bios) + PAGE > low:
            raise XenfastError(f"{low >> 20} MiB of memory are too few for {config.firmware_override} and a BIOS")
        hvm.physmem.write(at, bios)
        modules.append(("firmware", at, len(bios)))
        seabios_files(pc, config)
        at += -(-len(bios) // PAGE) * PAGE
    hvm.physmem.write(at, fw_images.start_info(at, modules))
    count = max(config.maxvcpus, config.vcpus)
    reserved = min((gfn << 12 for gfn in special_pages(hvm)), default=0xFEFF8000)
    hvm.physmem.write(fw_images.INFO_TABLE, fw_images.info_table(count, low, high, bool(config.apic), reserved, config.vcpus))
    boot_order(hvm.ports, config.boot)
    loaded.start = fw_images.Start(entry, at)
    return loaded


def store_nodes(config: Any) -> dict[str, str]:
    """What libxl writes into xenstore for Xen's hvmloader, below the domain's path (tools/libs/light/libxl_dom.c)."""
    found = {
        "hvmloader": "", "hvmloader/bios": config.bios or "seabios", "hvmloader/allow-memory-relocate": "0", "platform": "",
        "platform/device-model": "qemu-xen", "platform/acpi": str(int(bool(config.acpi))), "platform/acpi_s3": "0",
        "platform/acpi_s4": str(int(bool(config.acpi_s4))), "platform/acpi_laptop_slate": str(int(bool(config.acpi_laptop_slate))),
    }
    if config.mmio_hole:
        found["platform/mmio_hole_size"] = str(config.mmio_hole << 20)
    if config.ms_vm_genid:
        wire = smbios.wire_uuid(generation(config))
        low, high = int.from_bytes(wire[:8], "little"), int.from_bytes(wire[8:], "little")
        found["platform/generation-id"] = f"{low}:{high}"
    if config.smbios:
        found["bios-strings"] = ""
    count = 0
    for key, value in smbios.strings_of(config.smbios):
        if key == "oem":
            count += 1
            key = f"oem-{count}"
        found[f"bios-strings/{key.replace('_', '-')}"] = value
    return found


def network_slots(pci: Any) -> list[int]:
    return [slot for slot in range(32) if pci.config_read(slot, 0, pci_setup.CLASS, 2) == CLASS_ETHERNET]


# --- the parts ---------------------------------------------------------------------------------------------------------------


def prepare(domain: Any, pc: Any, config: Any, tables_at: int | None, *, rom_start: int = e820.BIOS_ROM) -> Loaded:
    """PCI, interrupts, memory types, memory map and tables, for a BIOS that finds them made; ``tables_at`` None: behind ACPI's."""
    hvm = domain.hvm
    placement = pci_setup.place(pc.pci, hole_mib=config.mmio_hole, high_start=max(FOUR_GIB, ram_ends(hvm)[1]))
    if move_ram(hvm, placement.window[0]) and placement.window_high:
        placement = pci_setup.place(pc.pci, hole_mib=(FOUR_GIB - placement.window[0]) >> 20, high_start=ram_ends(hvm)[1])
    level_triggered(hvm.ports, PCI_IRQS)
    memory_types(domain, placement)
    low, high = ram_ends(hvm)
    acpi = None
    end = TABLES
    if config.acpi:
        acpi = acpi_build.build(describe(config, placement, low, high))
        put(hvm, acpi.base, acpi.data)
        end = acpi.end
        if config.ms_vm_genid:
            put(hvm, GENERATION_ID, smbios.wire_uuid(generation(config)))
    slots = sorted({one.slot for one in placement.functions if one.slot})
    tables = legacy_tables(domain, config, acpi, (end + 15 & -16) if tables_at is None else tables_at, slots)
    if tables_at is None:
        for address, data in tables.values():
            put(hvm, address, data)
        end = max(address + len(data) for address, data in tables.values()) + PAGE      # and room for a list of them
    elif max(address + len(data) for address, data in tables.values()) > ROM_TABLES.stop:
        raise XenfastError("the SMBIOS structures do not fit into the BIOS")
    found = e820.hvm(low, high, tables_end=end if config.acpi or tables_at is None else 0, rom_start=rom_start)
    domain.e820 = [tuple(one) for one in found]
    return Loaded(found, placement, acpi, tables)


def describe(config: Any, placement: pci_setup.Placement, low: int, high: int) -> Machine:
    """The machine as the ACPI tables see it."""
    serial = [text for text in config.serial if text != "none"] if config.serial else []
    return Machine(
        vcpus=config.vcpus, max_vcpus=config.maxvcpus, apic=bool(config.apic), hpet=bool(config.hpet),
        vga=config.vga != "none", com=(len(serial) > 0, len(serial) > 1), s4=bool(config.acpi_s4),
        laptop_slate=bool(config.acpi_laptop_slate), pci_window=placement.window, pci_window_high=placement.window_high,
        generation_id=bool(config.ms_vm_genid), numa=numa.place(config.vnuma, low, high),
        extra=acpi_build.split_tables(fw_images.read(config.acpi_firmware, "ACPI tables")) if config.acpi_firmware else (),
    )


def generation(config: Any) -> bytes:
    return uuid.uuid4().bytes if config.ms_vm_genid == "generate" else uuid.UUID(config.ms_vm_genid).bytes


def legacy_tables(domain: Any, config: Any, acpi: acpi_build.Acpi | None, at: int,
                  slots: list[int]) -> dict[str, tuple[int, bytes]]:
    """What is found by its signature, one behind the other from ``at`` on.  The MP table is of the slots in use: SeaBIOS
    leaves a large one alone."""
    found: dict[str, tuple[int, bytes]] = {}

    def add(name: str, make: Any) -> None:
        nonlocal at
        data = make(at)
        found[name] = (at, data)
        at += len(data) + 15 & -16

    signature = cpu_signature(domain)
    add("smbios", lambda where: smbios.build(describe_smbios(domain, config, signature), where))
    add("pir", lambda where: pirq.build())
    if config.apic:
        add("mp", lambda where: mptable.build(where, [2 * n for n in range(config.vcpus)], signature, slots))
    if acpi is not None:
        add("rsdp", lambda where: acpi.rsdp)
    return found


def describe_smbios(domain: Any, config: Any, signature: tuple[int, int]) -> smbios.Smbios:
    low, high = ram_ends(domain.hvm)
    passed: tuple[bytes, ...] = ()
    if config.smbios_firmware:
        passed = smbios.split_structures(fw_images.read(config.smbios_firmware, "SMBIOS structures"))
    return smbios.Smbios(
        uuid=uuid.UUID(config.uuid).bytes if config.uuid else bytes(16), vcpus=config.vcpus,
        memory=tuple((first, end - first) for first, end in ((0, low), (FOUR_GIB, high)) if end > first),
        signature=signature, strings=smbios.strings_of(config.smbios), passed=passed,
    )


def cpu_signature(domain: Any) -> tuple[int, int]:
    core = domain.vcpus[0].core if domain.vcpus else None
    if core is None:
        return 0, 0
    eax, _, _, edx = core.cpuid(1)
    return eax, edx


def ram_ends(hvm: Any) -> tuple[int, int]:
    """End of RAM below 4 GiB, and above it; the latter is 4 GiB if there is none."""
    return hvm.low_pages << 12, FOUR_GIB + (hvm.high_pages << 12)


def special_pages(hvm: Any) -> list[int]:
    """Frames below FF000h that the toolstack has put there."""
    return [gfn for gfn in range(0xFEFF8, 0xFF000) if hvm.physmap.get(gfn) is not None]


def move_ram(hvm: Any, hole: int) -> bool:
    """RAM where the hole for PCI begins goes above 4 GiB; was there any?"""
    first = hole >> 12
    count = hvm.low_pages - first
    if count <= 0:
        return False
    mfns = [hvm.physmap.get(gfn) for gfn in range(first, hvm.low_pages)]
    hvm.remove(first, count)
    hvm.place((FOUR_GIB >> 12) + hvm.high_pages, mfns)
    hvm.low_pages, hvm.high_pages = first, hvm.high_pages + count
    return True


def put(hvm: Any, address: int, data: bytes) -> None:
    """Bytes into reserved memory, which is populated as it is needed."""
    fw_images.populate(hvm, address, len(data))
    hvm.physmem.write(address, data)


def level_triggered(ports: Any, irqs: tuple[int, ...]) -> None:
    mask = sum(1 << irq for irq in irqs)
    ports.write(ELCR, 1, mask & 0xFF)
    ports.write(ELCR + 1, 1, mask >> 8)


def memory_types(domain: Any, placement: pci_setup.Placement) -> None:
    for vcpu in domain.vcpus:
        try:
            for number, value in mtrr.registers(placement.window, placement.window_high):
                vcpu.core.wrmsr(number, value)
        except ValueError:          # a processor without MTRRs, or with fewer address bits: everything stays write-back
            log.debug("firmware: vcpu %d keeps its memory types", vcpu.vcpu_id)


def boot_order(ports: Any, order: str) -> None:
    """``boot=`` as SeaBIOS reads it from the CMOS: three digits, the first device lowest."""
    codes = [BOOT_CODES[letter] for letter in order if letter in BOOT_CODES][:3] + [0, 0, 0]
    cmos(ports, CMOS_BOOT_2, codes[1] << 4 | codes[0])
    cmos(ports, CMOS_BOOT_1, codes[2] << 4)


def cmos_memory(ports: Any, low: int, high: int) -> None:
    """Sizes of memory as firmware for QEMU reads them: KiB from 1 MiB on, 64 KiB from 16 MiB on and from 4 GiB on."""
    above_1m = min(max(low - (1 << 20), 0) >> 10, 0xFFFF)
    above_16m = min(max(low - (16 << 20), 0) >> 16, 0xFFFF)
    above_4g = high - FOUR_GIB >> 16
    for first, value, size in ((0x15, 640, 2), (0x17, above_1m, 2), (0x30, above_1m, 2), (0x34, above_16m, 2), (0x5B, above_4g, 3)):
        for n in range(size):
            cmos(ports, first + n, value >> 8 * n & 0xFF)


def cmos(ports: Any, register: int, value: int) -> None:
    ports.write(CMOS_INDEX, 1, register)
    ports.write(CMOS_DATA, 1, value)
