"""SMBIOS structures, read back by dmidecode where it is installed, and by hand."""

import re
import shutil
import subprocess

import pytest

from xenfast.errors import XenfastError
from xenfast.firmware import smbios
from xenfast.firmware.smbios import GIB, Smbios

UUID = bytes.fromhex("00112233445566778899aabbccddeeff")
AT = 0xF0000


def dmidecode(tmp_path, info, **options):
    """What dmidecode says of a dump, in the form of its own --dump-bin: the entry point at 0, structures at 20h."""
    if not shutil.which("dmidecode"):
        pytest.skip("dmidecode is not installed")
    table = b"".join(smbios.structures(info))
    entry = smbios.entry_point_3 if options.get("version3") else smbios.entry_point
    (tmp_path / "dump").write_bytes(entry(smbios.structures(info), 0x20).ljust(0x20, b"\0") + table)
    done = subprocess.run(["dmidecode", "--from-dump", "dump"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert not re.search(r"broken|wrong|invalid|bad|<.*>|truncated", done.stdout, re.I), done.stdout
    return done.stdout


@pytest.mark.parametrize("version3", [False, True])
def test_dmidecode_reads_a_xen_guest(tmp_path, version3):
    """Vendor, product, UUID, processors, memory: as in a Xen HVM guest, and no complaint, by both entry points."""
    text = dmidecode(tmp_path, Smbios(UUID, vcpus=2, memory=((0, 3 * GIB), (4 * GIB, 18 * GIB)), signature=(0x306A9, 0x1FBFF)),
                     version3=version3)
    for line in (
        "Vendor: Xen", "Manufacturer: Xen", "Product Name: HVM domU", "UUID: 00112233-4455-6677-8899-aabbccddeeff",
        "Serial Number: 00112233-4455-6677-8899-aabbccddeeff", "Socket Designation: CPU 2", "Maximum Capacity: 21 GB",
        "Size: 16 GB", "Size: 5 GB", "BIOS Revision: 4.17", "Number Of Devices: 2",
    ):
        assert line in text, line
    assert f"SMBIOS {'3.0.0' if version3 else '2.8'} present" in text
    assert len(re.findall(r"^Memory Device Mapped Address", text, re.M)) == 3
    assert text.count("Status: Populated, Enabled") == 2


def test_strings_of_the_configuration(tmp_path):
    """smbios= changes strings, and brings a base board and a battery with it when it names them."""
    strings = smbios.strings_of({
        "bios_vendor": "ACME", "system_product_name": "Anvil", "baseboard_manufacturer": "Boards", "baseboard_asset_tag": "17",
        "battery_device_name": "Cell", "enclosure_asset_tag": "tag", "oem": ["one", "two"],
    })
    text = dmidecode(tmp_path, Smbios(UUID, strings=strings))
    for line in ("Vendor: ACME", "Product Name: Anvil", "Manufacturer: Boards", "Asset Tag: 17", "Name: Cell", "Asset Tag: tag",
                 "String 1: one", "String 2: two"):
        assert line in text, line
    with pytest.raises(XenfastError, match="no string 'bios_color'"):
        smbios.strings_of({"bios_color": "red"})


def test_structures_of_a_file_take_the_place_of_ours(tmp_path):
    """smbios_firmware= brings a type 1 of its own and one of an OEM's; what is no structure is refused in one sentence."""
    mine = smbios.structure(1, 0x0100, bytes((1, 2, 0, 0)) + bytes(16) + bytes(3), "Other", "Thing")
    oem = smbios.structure(200, 0xC800, b"1234")
    blob = b"".join(len(one).to_bytes(4, "little") + one for one in (mine, oem))
    text = dmidecode(tmp_path, Smbios(UUID, passed=smbios.split_structures(blob)))
    assert "Product Name: Thing" in text and "HVM domU" not in text and "type 200" in text
    for wrong in (b"\x08\0\0\0abcdefgh", blob[:-1], b"\xff\xff\xff\xff"):
        with pytest.raises(XenfastError, match="no SMBIOS structure"):
            smbios.split_structures(wrong)
    with pytest.raises(XenfastError, match="type 4 cannot"):
        one = smbios.structure(4, 1, bytes(4))
        smbios.split_structures(len(one).to_bytes(4, "little") + one)


def test_entry_points_point_at_the_table():
    """Both entry points sum to zero, lie on paragraphs, and give address, length and count of what follows."""
    info = Smbios(UUID)
    data = smbios.build(info, AT, version3=True)
    table = b"".join(smbios.structures(info))
    assert data[smbios.TABLE_OFFSET:] == table
    old, new = data[:0x1F], data[0x20:0x38]
    assert sum(old) % 256 == sum(old[0x10:]) % 256 == sum(new) % 256 == 0
    assert int.from_bytes(old[0x18:0x1C], "little") == int.from_bytes(new[0x10:0x18], "little") == AT + smbios.TABLE_OFFSET
    assert int.from_bytes(old[0x16:0x18], "little") == len(table)
    assert int.from_bytes(old[0x1C:0x1E], "little") == len(smbios.structures(info))


def test_large_memory_uses_the_extended_fields(tmp_path):
    """4 TiB and more: ranges whose KiB do not fit in 32 bits are given in bytes."""
    text = dmidecode(tmp_path, Smbios(UUID, memory=((0, 3 * GIB), (4 * GIB, 5 * 1024 * GIB))))
    assert "Maximum Capacity: 5123 GB" in text and "Range Size: 5 TB" in text
