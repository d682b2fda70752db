"""What is done between power-on and the BIOS, on a domain's own memory."""

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.firmware.board import Pc, config
from xenfast.devices.pci import PciDevice
from xenfast.errors import XenfastError
from xenfast.firmware import e820, fw_images, hvmloader, qemu_tables
from xenfast.firmware.acpi import build
from xenfast.firmware.acpi.machine import Machine
from xenfast.firmware.smbios import Smbios

MIB, GIB = 1 << 20, 1 << 30


def prepared(pc, settings, at=0xF0000):
    return hvmloader.prepare(pc.domain, pc, settings, at)


def test_tables_are_in_memory_where_they_say():
    """ACPI tables lie in reserved memory at FC001000h, the others where they were asked for; E820 covers them; CMOS, ELCR are set."""
    pc = Pc()
    with pc.hv:
        settings = config(ms_vm_genid="generate")
        loaded = prepared(pc, settings)
        physmem = pc.hvm.physmem
        assert physmem.read(loaded.acpi.base, len(loaded.acpi.data)) == loaded.acpi.data
        assert set(loaded.tables) == {"smbios", "pir", "mp", "rsdp"}
        assert all(address % 16 == 0 and 0xF0000 <= address < 0xFE000 for address, _ in loaded.tables.values())
        assert loaded.tables["rsdp"][1] == loaded.acpi.rsdp
        assert any(physmem.read(0xFC000000, 16)) and b"VM_Gen_Counter" in loaded.acpi.data
        nvs = next(one for one in loaded.e820 if one.type == e820.NVS)
        assert nvs.start == 0xFC000000 and nvs.end >= loaded.acpi.end
        assert pc.domain.e820[0] == (0, 0x9FC00, 1)
        assert pc.elcr == [(0, 0x20), (1, 0x0C)]
        uuid = bytes.fromhex("33221100554477668899aabbccddeeff")
        assert uuid in loaded.tables["smbios"][1]


def test_memory_types_of_every_vcpu():
    """All have the same MTRRs when they start: write-back, but for the hole from F0000000h to 4 GiB."""
    pc = Pc()
    with pc.hv:
        prepared(pc, config())
        pc.domain.start_hvm()
        for vcpu in pc.domain.vcpus:
            found = [vcpu.core.rdmsr(number) for number in (0x2FF, 0x200, 0x201, 0x259)]
            assert found == [0xC06, 0xF0000000, (1 << 46) - 0x10000000 | 0x800, 0]


def test_without_acpi_and_apic():
    """acpi=0 leaves out ACPI's tables and their memory, apic=0 the MP table and the MADT."""
    pc = Pc()
    with pc.hv:
        loaded = prepared(pc, config(acpi=0, apic=0))
        assert loaded.acpi is None and set(loaded.tables) == {"smbios", "pir"}
        assert not any(one.type == e820.NVS for one in loaded.e820) and pc.hvm.physmap.get(0xFC001) is None


@pytest.mark.slow
def test_memory_moves_out_of_the_hole_with_its_content():
    """RAM that is where cards need their memory goes above 4 GiB, in the map and in truth."""
    pc = Pc(mib=32)
    with pc.hv:
        pc.hvm.physmem.write(31 * MIB, b"content")
        assert hvmloader.move_ram(pc.hvm, 24 * MIB) and not hvmloader.move_ram(pc.hvm, 24 * MIB)
        assert hvmloader.ram_ends(pc.hvm) == (24 * MIB, 4 * GIB + 8 * MIB)
        assert pc.hvm.physmem.read(4 * GIB + 7 * MIB, 7) == b"content" and pc.hvm.physmap.get(24 << 8) is None


def test_the_hole_follows_the_cards():
    """A card of 512 MiB makes the hole begin at C0000000h, and the DSDT says so."""
    pc = Pc(extra=[(5, 512 * MIB)])
    with pc.hv:
        loaded = prepared(pc, config())
        assert loaded.placement.window == (0xC0000000, 0xFC000000)
        assert struct.pack("<II", 0xC0000000, 0xFBFFFFFF) in loaded.acpi.data


def test_seabios_is_told_where_everything_is(tmp_path):
    """The place at 1000h sums to zero and leads to the tables and the map; CMOS has the boot order, fw_cfg the VGA BIOS."""
    image = tmp_path / "bios.bin"
    image.write_bytes(bytes(0x20000 - 16) + b"\xea\x5b\xe0\x00\xf0" + bytes(11))
    pc = Pc()
    with pc.hv:
        settings = config(bios_path_override=str(image), vga="none")
        loaded = hvmloader.load(pc.domain, pc, settings)
        info = pc.hvm.physmem.read(0x1000, 32)
        pointers, count, table, entries = struct.unpack_from("<IIII", info, 16)
        assert info[:16].startswith(b"XenHVMSeaBIOS\0 ") and sum(info) % 256 == 0
        listed = struct.unpack(f"<{count}I", pc.hvm.physmem.read(pointers, 4 * count))
        signatures = {pc.hvm.physmem.read(where, 4) for where in listed}
        assert signatures == {b"_SM_", b"$PIR", b"_MP_", b"RSD "}
        assert pc.hvm.physmem.read(table, 20 * entries) == e820.packed(loaded.e820)
        assert e820.Range(0xE0000, 0x20000, e820.RESERVED) in loaded.e820
        assert pc.hvm.physmem.read(0xFFFFFFF0, 5) == pc.hvm.physmem.read(0xFFFF0, 5) == b"\xea\x5b\xe0\x00\xf0"
        assert (pc.cmos.data[0x3D], pc.cmos.data[0x38]) == (0x23, 0x00)     # d, then c
        assert loaded.start.entry is None


def test_network_boot(tmp_path):
    """boot=n: SeaBIOS finds the card's ROM by its PCI IDs, OVMF the card's slot in the boot order."""
    rom = tmp_path / "rom"
    rom.write_bytes(b"\x55\xaa\x01" + bytes(509))
    image = tmp_path / "bios.bin"
    image.write_bytes(bytes(0x20000))
    for bios in ("seabios", "ovmf"):
        pc = Pc()
        with pc.hv:
            card = PciDevice("e1000", 0x8086, 0x100E, 0x020000, pin=1)
            card.rom_path = str(rom)
            pc.pci.attach(card, 5)
            hvmloader.load(pc.domain, pc, config(bios=bios, bios_path_override=str(image), boot="n", vga="none"))
            files = pc.fw_cfg().files
            assert ("pci8086,100e.rom" in files) == (bios == "seabios")
            if bios == "ovmf":
                assert pc.fw_cfg().items[files["bootorder"]] == b"/pci@i0cf8/ethernet@5/ethernet-phy@0\0"


def test_hvmloader_finds_its_modules(tmp_path):
    """An ELF image is put where it says; EBX leads to hvm_start_info with the BIOS as a module; 9F800h has the info table."""
    elf = tmp_path / "hvmloader"
    head = b"\x7fELF\x01\x01\x01".ljust(16, b"\0") + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x100000, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    elf.write_bytes(head + struct.pack("<8I", 1, 84, 0x100000, 0x100000, 4, 0x1000, 7, 32) + b"code")
    bios = tmp_path / "bios.bin"
    bios.write_bytes(b"B" * 0x20000)
    pc = Pc()
    with pc.hv:
        loaded = hvmloader.load(pc.domain, pc, config(firmware_override=str(elf), bios_path_override=str(bios)))
        read = pc.hvm.physmem.read
        assert loaded.start.entry == 0x100000 and read(0x100000, 4) == b"code"
        info = read(loaded.start.ebx, 200)
        magic, version, _, modules, table = struct.unpack_from("<IIIIQ", info)
        assert (magic, version, modules) == (0x336EC578, 1, 1)
        address, size, name, _ = struct.unpack_from("<QQQQ", read(table, 32))
        assert read(address, size) == bios.read_bytes() and read(name, 9) == b"firmware\0"
        info = read(0x9F800, 48)
        assert sum(info) % 256 == 0 and info[:8] == b"HVM INFO" and info[32] == 3
        assert struct.unpack_from("<IIII", info, 16) == (4, 32 << 8, 0xFEFF8, 0)


def test_what_hvmloader_finds_in_xenstore():
    """The nodes that libxl writes: BIOS, ACPI, the hole's size in bytes, the generation ID as two numbers, strings of SMBIOS."""
    nodes = hvmloader.store_nodes(config(
        bios="", mmio_hole=1024, ms_vm_genid="00112233-4455-6677-8899-aabbccddeeff",
        smbios={"bios_vendor": "ACME", "oem": ["one", "two"]},
    ))
    assert nodes["hvmloader/bios"] == "seabios" and nodes["platform/mmio_hole_size"] == str(1 << 30)
    assert nodes["platform/generation-id"] == f"{0x6677445500112233}:{0xffeeddccbbaa9988}"
    assert (nodes["bios-strings/bios-vendor"], nodes["bios-strings/oem-2"]) == ("ACME", "two")


@pytest.mark.parametrize(("content", "text"), [
    (b"\x7fELF" + bytes(4), "not for i386|broken ELF"),
    (b"\x7fELF\x01" + bytes(11) + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0, 5000, 0, 0, 52, 32, 9, 0, 0, 0), "broken ELF"),
    (b"\x7fELF\x01" + bytes(11) + struct.pack("<HHIIIIIHHHHHH8I", 2, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0, 1, 0, 0, 1 << 31, 4, 4, 7, 4),
     "does not fit in memory"),
    (b"not a multiple", "cannot be a ROM"),
])
def test_broken_images_are_refused_in_one_sentence(tmp_path, content, text):
    """A file that is neither an ELF image nor a ROM, or does not fit."""
    path = tmp_path / "image"
    path.write_bytes(content)
    pc = Pc()
    with pc.hv, pytest.raises(XenfastError, match=text):
        hvmloader.load(pc.domain, pc, config(firmware_override=str(path)))


def test_missing_images_are_named(monkeypatch):
    """A package that is not installed, a file that is not there, a kind that nobody has."""
    monkeypatch.setattr(fw_images, "SEABIOS", ())
    pc = Pc()
    with pc.hv:
        for settings, text in (
            (config(), "Debian's package seabios"), (config(bios_path_override="/none"), "cannot read the BIOS image /none: No such"),
            (config(bios="rombios"), "is not supported"),
        ):
            with pytest.raises(XenfastError, match=text):
                hvmloader.load(pc.domain, pc, settings)


def test_a_rom_ends_at_4_gib_and_below_1_mib(tmp_path):
    """Any other image is a ROM: it cannot be written, and its last 128 KiB are below 1 MiB as well."""
    path = tmp_path / "rom"
    path.write_bytes(bytes(0x30000) + b"x" * 0x10000)
    pc = Pc()
    with pc.hv:
        hvmloader.load(pc.domain, pc, config(firmware_override=str(path)))
        assert pc.hvm.physmap.is_readonly(0xFFFFF) and pc.hvm.physmap.is_readonly(0xF0) and pc.hvm.physmem.read(0xFFFF0, 1) == b"x"
        assert pc.hvm.physmap.get(0xFFFC0) is not None and pc.hvm.physmap.get(0xFFFBF) is None


# --- for firmware made for QEMU ------------------------------------------------------------------------------------------------


class Files:
    def __init__(self):
        self.files = {}

    def add_file(self, name, data):
        self.files[name] = data

    def add(self, key, data):
        pass

    def add_int(self, key, size, value):
        pass


def linked(files, bases):
    """Do what the script says, as firmware does; the blobs."""
    blobs = {}
    script = files[qemu_tables.LOADER_FILE]
    for at in range(0, len(script), 128):
        number, = struct.unpack_from("<I", script, at)
        name = script[at + 4:at + 60].rstrip(b"\0").decode()
        if number == qemu_tables.ALLOCATE:
            blobs[name] = bytearray(files[name])
            align, = struct.unpack_from("<I", script, at + 60)
            assert bases[name] % align == 0
        elif number == qemu_tables.ADD_POINTER:
            source = script[at + 60:at + 116].rstrip(b"\0").decode()
            offset, size = struct.unpack_from("<IB", script, at + 116)
            value = int.from_bytes(blobs[name][offset:offset + size], "little") + bases[source]
            blobs[name][offset:offset + size] = value.to_bytes(size, "little")
        else:
            offset, start, length = struct.unpack_from("<III", script, at + 60)
            blobs[name][offset] = (blobs[name][offset] - sum(blobs[name][start:start + length])) & 0xFF
    return blobs


def test_the_script_links_the_tables():
    """Linked anywhere, the tables are what build() makes for that address, byte for byte."""
    device = Files()
    machine = Machine(vcpus=3)
    qemu_tables.fill(device, machine, Smbios(), [(0, 64 * MIB)], ["/a", "/b"])
    base = 0x7F000000
    blobs = linked(device.files, {qemu_tables.TABLES_FILE: base, qemu_tables.RSDP_FILE: 0xF0000})
    expected = build.build(Machine(vcpus=3, hot_plug=False), base)
    assert bytes(blobs[qemu_tables.TABLES_FILE]) == expected.data and bytes(blobs[qemu_tables.RSDP_FILE]) == expected.rsdp
    assert device.files["bootorder"] == b"/a\n/b\0"


def test_boot_order_as_paths():
    """boot=dca: CD-ROMs, then disks, then the floppy; a drive that IDE has not is left out."""
    disks = [("hda", False), ("hdc", True), ("xvdb", False), ("xvde", False)]
    assert qemu_tables.boot_paths("dca", disks, []) == [
        "/pci@i0cf8/ide@1,1/drive@1/disk@0", "/pci@i0cf8/ide@1,1/drive@0/disk@0", "/pci@i0cf8/ide@1,1/drive@0/disk@1",
        "/pci@i0cf8/isa@1/fdc@03f0/floppy@0",
    ]
    assert qemu_tables.boot_paths("n", [], [4]) == ["/pci@i0cf8/ethernet@4/ethernet-phy@0"]


def test_ovmf_gets_its_tables(tmp_path):
    """Its image lies below 4 GiB; fw_cfg has memory, tables and order, CMOS the sizes of memory."""
    image = tmp_path / "ovmf"
    image.write_bytes(bytes(0x200000))
    pc = Pc()
    with pc.hv:
        disk = SimpleNamespace(vdev="hda", cdrom=False)
        hvmloader.load(pc.domain, pc, config(bios="ovmf", bios_path_override=str(image), disks=[disk]))
        files = pc.fw_cfg().files
        assert {"etc/e820", "etc/table-loader", "etc/smbios/smbios-tables", "bootorder"} <= set(files)
        assert pc.hvm.physmap.is_readonly(0xFFE00) and pc.cmos.data[0x34:0x36] == (16 * MIB >> 16).to_bytes(2, "little")


def test_nothing_of_the_distribution_is_needed_to_test_this():
    """Paths of images are Debian's; they are looked at when a domain asks for them, never before."""
    assert all(str(Path(path)).startswith("/usr/") for path in (*fw_images.SEABIOS, *fw_images.OVMF, fw_images.HVMLOADER))
