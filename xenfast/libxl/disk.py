"""Disk specifications: the strings of xl-disk-configuration(5).

``target, format, vdev, access`` by position, ``key=value`` in any place, ``target=`` last because it takes the rest
of the string.  The deprecated prefixes (``file:``, ``phy:``, ``tap:aio:`` ...) stand for a format and take its
position away.  Device numbers are those of xen-vbd-interface(7).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from xenfast.errors import XenfastError

FORMATS = {"raw": True, "qcow": False, "qcow2": False, "vhd": False, "qed": False, "empty": False}   # name -> supported
READ_ONLY = ("r", "ro")
READ_WRITE = ("w", "rw", "!", "w!", "rw!")
PREFIXES = {
    "raw": "raw", "file": "raw", "phy": "raw", "aio": "raw", "tap:aio": "raw", "tap2:aio": "raw", "tapdisk:aio": "raw",
    "qcow": "qcow", "qcow2": "qcow2", "vhd": "vhd", "qed": "qed",
    "tap:qcow": "qcow", "tap:qcow2": "qcow2", "tap:vhd": "vhd",
    "tap2:qcow": "qcow", "tap2:qcow2": "qcow2", "tap2:vhd": "vhd",
}  # fmt: skip
KEYS = ("format", "vdev", "access", "target", "devtype", "backendtype", "backend", "script")
FLAGS = ("cdrom", "direct-io-safe", "discard", "no-discard", "hdtype")
BACKENDS = ("phy", "tap", "qdisk", "standalone")

# xen-vbd-interface(7): name -> (major numbers for pairs or all of the disks, bits of the partition)
IDE_MAJORS = (3, 22, 33, 34, 56, 57, 88, 89, 90, 91)


@dataclass(frozen=True)
class DiskSpec:
    target: str
    format: str = "raw"
    vdev: str = "xvda"
    number: int = 51712
    readonly: bool = False
    cdrom: bool = False
    discard: bool = True

    @property
    def mode(self) -> str:
        """As it is written to xenstore."""
        return "r" if self.readonly else "w"


def parse(spec: str) -> DiskSpec:
    """Read a disk specification; raises XenfastError."""
    values: dict[str, str] = {}
    flags: set[str] = set()
    positions = ["target", "format", "vdev", "access"]
    rest = spec
    while rest.strip():
        if re.match(r"\s*target\s*=", rest):
            values["target"], rest = rest.split("=", 1)[1].strip(), ""
            break
        item, _, rest = rest.partition(",")
        item = item.strip()
        key, equals, value = item.partition("=")
        key = key.strip()
        if equals and key in KEYS:
            values[key] = value.strip()
        elif item in FLAGS:
            flags.add(item)
        elif positions:
            where = positions.pop(0)
            values[where] = item
            if where == "target":
                _deprecated_prefix(values, positions)
            elif where == "vdev" and ":" in item:           # deprecated "hdc:cdrom"
                values["vdev"], kind = item.split(":", 1)
                values["devtype"] = kind
        else:
            raise XenfastError(f"disk {spec!r}: {item!r} is not an option of a disk")
    return _checked(spec, values, flags)


def _deprecated_prefix(values: dict[str, str], positions: list[str]) -> None:
    for prefix in sorted(PREFIXES, key=len, reverse=True):
        if values["target"].startswith(prefix + ":"):
            values["target"] = values["target"][len(prefix) + 1 :]
            values["format"] = PREFIXES[prefix]
            positions.remove("format")
            return


def _checked(spec: str, values: dict[str, str], flags: set[str]) -> DiskSpec:
    def fail(text: str) -> XenfastError:
        return XenfastError(f"disk {spec!r}: {text}")

    fmt = values.get("format") or "raw"
    if fmt not in FORMATS:
        raise fail(f"the format {fmt!r} does not exist ({', '.join(FORMATS)})")
    if not FORMATS[fmt]:
        raise fail(f"the format {fmt!r} is not supported yet, only raw is")
    access = values.get("access") or "rw"
    if access not in READ_ONLY and access not in READ_WRITE:
        raise fail(f"the access {access!r} is neither r nor w")
    if not values.get("vdev"):
        raise fail("it does not say as which device the guest sees it (vdev, such as xvda)")
    if not values.get("target"):
        raise fail("it names no image file")
    if values.get("backendtype", "phy") not in BACKENDS:
        raise fail(f"the backend type {values['backendtype']!r} does not exist")
    if values.get("backend", "0") not in ("0", "Domain-0", "dom0"):
        raise fail("disks are served by domain 0 only")
    if values.get("script"):
        raise fail("scripts are not supported yet")
    devtype = values.get("devtype", "disk")
    if devtype not in ("disk", "cdrom"):
        raise fail(f"the device type {devtype!r} is neither disk nor cdrom")
    cdrom = devtype == "cdrom" or "cdrom" in flags
    try:
        number = device_number(values["vdev"])
    except XenfastError as error:
        raise fail(str(error)) from None
    return DiskSpec(
        target=values["target"],
        format=fmt,
        vdev=values["vdev"],
        number=number,
        readonly=cdrom or access in READ_ONLY,
        cdrom=cdrom,
        discard="no-discard" not in flags,
    )


def device_number(vdev: str) -> int:
    """The number of a virtual block device: ``xvda`` is 51712."""
    match = re.fullmatch(r"d([0-9]{1,7})(?:p([0-9]{1,7}))?|(xvd|hd|sd)([a-z]{1,3})([0-9]{0,4})", vdev)
    if not match:
        raise XenfastError(f"there is no device called {vdev!r} (xvda, hda, sda, d0 ...)")
    kind = match[3] or "xvd"
    if match[1] is not None:
        drive, partition = int(match[1]), int(match[2] or 0)
    else:
        drive = 0
        for letter in match[4]:
            drive = drive * 26 + ord(letter) - ord("a") + 1
        drive -= 1
        partition = int(match[5] or 0)
    if kind == "hd":
        if drive >= 2 * len(IDE_MAJORS) or partition > 63:
            raise XenfastError(f"{vdev!r} is beyond the last IDE device")
        return IDE_MAJORS[drive // 2] << 8 | (drive & 1) << 6 | partition
    if kind == "sd":
        if drive > 15 or partition > 15:
            raise XenfastError(f"{vdev!r} is beyond the last SCSI device that has a number")
        return 8 << 8 | drive << 4 | partition
    if drive < 16 and partition < 16:
        return 202 << 8 | drive << 4 | partition
    if drive >= 1 << 20 or partition > 255:
        raise XenfastError(f"{vdev!r} is beyond the last virtual block device")
    return 1 << 28 | drive << 8 | partition
