"""SMBIOS: what a guest's dmidecode and a Windows activation read.  Structures in memory and the two entry points to them.

Specified in DMTF DSP0134 3.2.0: entry points 5.2.1 and 5.2.2, structures chapter 7.  Content and handles are those of a Xen HVM
guest: "Xen" and "HVM domU", the domain's UUID as serial number, a socket for each vcpu, a DIMM for each 16 GiB.  ``smbios=`` of
xl.cfg(5) changes strings, ``smbios_firmware=`` brings whole structures.  Left out: caches, slots, connectors, which Xen has not.
"""

from dataclasses import dataclass, field
from struct import pack
from typing import Any

from xenfast.errors import XenfastError

MAJOR, MINOR = 2, 8
MIB, GIB = 1 << 20, 1 << 30
DIMM_MIB = 16 * 1024
OLD_MAX_KIB = 0x7FFFFFFF            # a larger array uses the extended fields (7.17)

# xl.cfg's names of strings -> (structure type, index of the string in it, from 1)
STRINGS = {
    "bios_vendor": (0, 1), "bios_version": (0, 2),
    "system_manufacturer": (1, 1), "system_product_name": (1, 2), "system_version": (1, 3), "system_serial_number": (1, 4),
    "baseboard_manufacturer": (2, 1), "baseboard_product_name": (2, 2), "baseboard_version": (2, 3),
    "baseboard_serial_number": (2, 4), "baseboard_asset_tag": (2, 5), "baseboard_location_in_chassis": (2, 6),
    "enclosure_manufacturer": (3, 1), "enclosure_serial_number": (3, 3), "enclosure_asset_tag": (3, 4),
    "battery_manufacturer": (22, 2), "battery_device_name": (22, 4),
}   # fmt: skip
MANY = ("oem",)                     # may be given several times: the strings of type 11
PASSED = (0, 1, 2, 3, 11, 22, 39)   # types that smbios_firmware may bring, and those from 128 on


@dataclass(frozen=True)
class Smbios:
    """What the structures say.  ``memory``: (first byte, bytes) of each range of RAM."""

    uuid: bytes = bytes(16)         # RFC 4122's order of bytes
    vcpus: int = 1
    memory: tuple[tuple[int, int], ...] = ((0, 128 * MIB),)
    version: str = "4.17.0"         # of Xen, as XENVER_version has it
    date: str = "11/24/2026"
    signature: tuple[int, int] = (0, 0)     # EAX and EDX of CPUID 1
    cpu_vendor: str = "GenuineIntel"
    mhz: int = 2000
    strings: tuple[tuple[str, str], ...] = ()       # of xl.cfg's smbios=
    passed: tuple[bytes, ...] = field(default=())   # structures of smbios_firmware=


# --- structures ------------------------------------------------------------------------------------------------------------


def structure(kind: int, handle: int, body: bytes, *strings: str) -> bytes:
    """Header, formatted part, strings, and an empty string at the end (6.1.2, 6.1.3)."""
    text = b"".join(clean(value) + b"\0" for value in strings)
    return pack("<BBH", kind, 4 + len(body), handle) + body + (text or b"\0") + b"\0"


def clean(value: str) -> bytes:
    """A string of a structure: no NUL, not empty, at most 64 bytes for old readers."""
    return value.replace("\0", "").encode("utf-8", "replace")[:64] or b" "


def uuid_text(uuid: bytes) -> str:
    text = uuid.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def wire_uuid(uuid: bytes) -> bytes:
    """The first three fields are little endian (7.2.1)."""
    return uuid[3::-1] + uuid[5:3:-1] + uuid[7:5:-1] + uuid[8:]


def structures(info: Smbios) -> list[bytes]:
    """All of them, in the order of their types; what was passed through takes the place of ours of that type."""
    given = dict(info.strings)
    found = [make(info, given) for make in (_bios, _system)]
    if any(key.startswith("baseboard_") for key in given):
        found.append(_baseboard(given))
    found.append(_enclosure(info, given))
    found += [_processor(info, n) for n in range(info.vcpus)]
    found.append(_oem_strings(info))
    found += _memory(info)
    if any(key.startswith("battery_") for key in given):
        found.append(_battery(given))
    found.append(structure(32, 0x2000, bytes(7)))                           # system boot: no errors
    if info.passed:
        types = {one[0] for one in info.passed}
        found = [one for one in found if one[0] not in types] + list(info.passed)
        found.sort(key=lambda one: one[0])
    found.append(structure(127, 0x7F00, b""))
    return found


def _bios(info: Smbios, given: dict[str, str]) -> bytes:
    """7.1: PCI, EDD; targeted content distribution in the second extension byte."""
    major, minor = (int(part) if part.isdigit() else 0 for part in (*info.version.split("."), "0", "0")[:2])
    body = pack("<BBHBBQBBBBBB", 1, 2, 0xF000, 3, 0, 1 << 7 | 1 << 19, 1, 1 << 2, major, minor, 0xFF, 0xFF)
    return structure(0, 0x0000, body, given.get("bios_vendor", "Xen"), given.get("bios_version", info.version), info.date)


def _system(info: Smbios, given: dict[str, str]) -> bytes:
    body = bytes((1, 2, 3, 4)) + wire_uuid(info.uuid) + bytes((6, 0, 0))    # woken by the power switch
    return structure(
        1, 0x0100, body,
        given.get("system_manufacturer", "Xen"), given.get("system_product_name", "HVM domU"),
        given.get("system_version", info.version), given.get("system_serial_number", uuid_text(info.uuid)),
    )


def _baseboard(given: dict[str, str]) -> bytes:
    names = ("manufacturer", "product_name", "version", "serial_number", "asset_tag", "location_in_chassis")
    values = [given.get(f"baseboard_{name}", "") for name in names]
    numbers, strings = _numbered(values)
    body = bytes(numbers[:5]) + bytes((0x01, numbers[5])) + pack("<HBB", 0x0300, 0x0A, 0)       # a hosting board, a motherboard
    return structure(2, 0x0200, body, *strings)


def _enclosure(info: Smbios, given: dict[str, str]) -> bytes:
    values = [
        given.get("enclosure_manufacturer", "Xen"), "",
        given.get("enclosure_serial_number", uuid_text(info.uuid)), given.get("enclosure_asset_tag", ""),
    ]
    (maker, version, serial, tag), strings = _numbered(values)
    safe, none = 3, 3
    body = bytes((maker, 1, version, serial, tag, safe, safe, safe, none)) + pack("<IBBBBB", 0, 0, 0, 0, 0, 0)
    return structure(3, 0x0300, body, *strings)


def _numbered(values: list[str]) -> tuple[list[int], list[str]]:
    """Numbers for the fields, 0 for a string that is not there, and the strings."""
    strings = [value for value in values if value]
    numbers: list[int] = []
    for value in values:
        numbers.append(len([n for n in numbers if n]) + 1 if value else 0)
    return numbers, strings


def _processor(info: Smbios, number: int) -> bytes:
    """7.5: a populated socket, an enabled central processor."""
    eax, edx = info.signature
    body = pack(
        "<BBBBIIBBHHHBBHHHBBBBBBHH",
        1, 3, 0x01, 2, eax, edx, 0, 0, 0, info.mhz & 0xFFFF, info.mhz & 0xFFFF, 0x41, 0x01, 0xFFFF, 0xFFFF, 0xFFFF,
        0, 0, 0, 1, 1, 1, 1 << 2, 0x01,
    )
    return structure(4, 0x0400 + number, body, f"CPU {number + 1}", info.cpu_vendor)


def _oem_strings(info: Smbios) -> bytes:
    strings = [value for key, value in info.strings if key == "oem"] or ["Xen"]
    return structure(11, 0x0B00, bytes([len(strings)]), *strings)


def _battery(given: dict[str, str]) -> bytes:
    values = ["", given.get("battery_manufacturer", ""), "", given.get("battery_device_name", "")]
    (_, maker, _, name), strings = _numbered(values)
    body = bytes((0, maker, 0, 0, name, 0x02)) + pack("<HHBBHHBHI", 0, 0, 0, 0xFF, 0, 0, 0, 0, 0)
    return structure(22, 0x1600, body, *strings)


def dimm_mib(total: int) -> int:
    """Size of a DIMM: 16 GiB, or so much that there are no more than 128."""
    size = DIMM_MIB
    while size * 128 < total:
        size *= 2
    return size


def _memory(info: Smbios) -> list[bytes]:
    """An array, its DIMMs, and where array and DIMMs are mapped (7.17, 7.18, 7.20, 7.21)."""
    total = sum(size for _, size in info.memory)
    mib = -(-total // MIB)
    dimm = dimm_mib(mib)
    dimms = [min(dimm, mib - at) for at in range(0, mib, dimm)]
    kib = mib * 1024
    old, extended = (kib, 0) if kib < OLD_MAX_KIB else (1 << 31, mib * MIB)
    found = [structure(16, 0x1000, pack("<BBBIHHQ", 1, 3, 6, old, 0xFFFE, len(dimms), extended))]
    for number, size in enumerate(dimms):
        short, longer = (size, 0) if size < 0x7FFF else (0x7FFF, size)
        found.append(structure(
            17, 0x1100 + number,
            pack("<HHHHHBBBBBHHBBBBBIH", 0x1000, 0xFFFE, 64, 64, short, 9, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, longer, 0) + bytes(6),
            f"DIMM {number}",
        ))
    found += [structure(19, 0x1300 + n, _range(*one) + pack("<HB", 0x1000, len(dimms)) + _long(*one))
              for n, one in enumerate(info.memory)]
    for n, (slot, start, size, array) in enumerate(_pieces(info.memory, dimm * MIB)):
        body = _range(start, size) + pack("<HHBBB", 0x1100 + slot, 0x1300 + array, 0xFF, 0, 0) + _long(start, size)
        found.append(structure(20, 0x1400 + n, body))
    return found


def _pieces(ranges: tuple[tuple[int, int], ...], dimm_size: int) -> list[tuple[int, int, int, int]]:
    """(DIMM, first byte, bytes, number of the range): where each DIMM's memory is."""
    found = []
    done = 0
    for number, (first, size) in enumerate(ranges):
        at = 0
        while at < size:
            dimm = (done + at) // dimm_size
            n = min(size - at, (dimm + 1) * dimm_size - done - at)
            found.append((dimm, first + at, n, number))
            at += n
        done += size
    return found


def _range(first: int, size: int) -> bytes:
    """Addresses in KiB, or FFFFFFFFh twice if they do not fit and are in the extended fields."""
    last = first + size - 1 >> 10
    return pack("<II", first >> 10, last) if last < 0xFFFFFFFF else b"\xff" * 8


def _long(first: int, size: int) -> bytes:
    return bytes(16) if first + size - 1 >> 10 < 0xFFFFFFFF else pack("<QQ", first, first + size - 1)


# --- in memory -------------------------------------------------------------------------------------------------------------

ENTRY_SIZE, ENTRY3_SIZE = 0x1F, 0x18
TABLE_OFFSET = 0x40                 # the table follows the two entry points, which begin at multiples of 16


def _sum_to_zero(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([-sum(data) & 0xFF]) + data[at + 1:]


def entry_point(found: list[bytes], address: int) -> bytes:
    """_SM_, 2.8 (5.2.1)."""
    length = sum(map(len, found))
    if length > 0xFFFF:
        raise XenfastError(f"the SMBIOS structures are {length} bytes, more than the 65,535 there can be")
    inner = pack("<5sBHIHB", b"_DMI_", 0, length, address, len(found), MAJOR << 4 | MINOR)
    outer = pack("<4sBBBBHB5x", b"_SM_", 0, ENTRY_SIZE, MAJOR, MINOR, max(map(len, found)), 0)
    return _sum_to_zero(outer + _sum_to_zero(inner, 5), 4)


def entry_point_3(found: list[bytes], address: int) -> bytes:
    """_SM3_, for readers that look for the newer one first (5.2.2)."""
    return _sum_to_zero(pack("<5sBBBBBBBIQ", b"_SM3_", 0, ENTRY3_SIZE, 3, 0, 0, 1, 0, sum(map(len, found)), address), 5)


def build(info: Smbios, address: int, *, table: int | None = None, version3: bool = False) -> bytes:
    """What belongs at ``address``, a multiple of 16 from F0000h to FFFFFh: entry points and structures.

    With ``table`` the structures are elsewhere, and only entry points are given.
    """
    found = structures(info)
    at = address + TABLE_OFFSET if table is None else table
    entries = entry_point(found, at).ljust(0x20, b"\0")
    entries += (entry_point_3(found, at) if version3 else b"").ljust(0x20, b"\0")
    return entries + (b"".join(found) if table is None else b"")


def strings_of(settings: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """``smbios=`` of a configuration: KEY -> value, or a list of values of "oem"."""
    found: list[tuple[str, str]] = []
    for key, value in settings.items():
        if key in MANY:
            found += [(key, str(item)) for item in (value if isinstance(value, list) else [value])]
        elif key in STRINGS:
            found.append((key, str(value)))
        else:
            raise XenfastError(f"smbios: there is no string {key!r} ({', '.join([*STRINGS, *MANY])})")
    return tuple(found)


def split_structures(blob: bytes) -> tuple[bytes, ...]:
    """The structures of a file for smbios_firmware=: each with its length in 32 bits before it, as Xen has them."""
    found = []
    at = 0
    while at < len(blob):
        size = int.from_bytes(blob[at:at + 4], "little")
        one = blob[at + 4:at + 4 + size]
        if len(one) < 6 or len(one) < size or not 4 <= one[1] <= size - 2 or one[-2:] != b"\0\0":
            raise XenfastError(f"smbios_firmware: there is no SMBIOS structure at offset {at}")
        if one[0] not in PASSED and one[0] < 128:
            raise XenfastError(f"smbios_firmware: structures of type {one[0]} cannot be given")
        found.append(bytes(one))
        at += 4 + size
    return tuple(found)
