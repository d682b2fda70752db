"""Disk specifications: the strings of xl-disk-configuration(5).

``target, format, vdev, access`` by position, ``key=value`` in any place, ``target=`` last because it takes the rest
of the string.  The deprecated prefixes (``file:``, ``phy:``, ``tap:aio:`` ...) stand for a format and take its
position away.  Device numbers are those of xen-vbd-interface(7).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from xenfast.errors import XenfastError

FORMATS = ("raw", "qcow", "qcow2", "vhd", "qed", "empty")       # which of them can be opened: dom0/block
READ_ONLY = ("r", "ro")
READ_WRITE = ("w", "rw", "!", "w!", "rw!")
NAMED_FORMATS = ("raw", "qcow2", "vhd", "qcow", "qed")          # prefixes that say what is behind them
SCRIPTS = ("iscsi", "nbd", "enbd", "drbd")
IGNORED_PREFIXES = ("tapdisk", "tap2", "tap", "aio", "ioemu", "file", "phy")
KEYS = ("format", "vdev", "access", "devtype", "backendtype", "backend", "script", "specification")
FLAGS = ("cdrom", "direct-io-safe", "discard", "no-discard", "trusted", "untrusted")
COLO = ("colo", "colo-host", "colo-port", "colo-export", "active-disk", "hidden-disk", "no-colo")
BACKENDS = ("phy", "tap", "qdisk", "standalone")

# xen-vbd-interface(7): name -> (major numbers for pairs or all of the disks, bits of the partition)
FLOPPY_MAJOR = 2
IDE_MAJORS = (3, 22, 33, 34, 56, 57, 88, 89, 90, 91)


@dataclass(frozen=True)
class DiskSpec:
    target: str                 # "" for a drive without a medium
    format: str = "raw"
    vdev: str = "xvda"
    number: int = 51712
    readonly: bool = False
    cdrom: bool = False
    discard: bool = True
    backendtype: str = ""
    direct_io_safe: bool = False
    trusted: bool = True

    @property
    def mode(self) -> str:
        """As it is written to xenstore."""
        return "r" if self.readonly else "w"

    @property
    def is_ide(self) -> bool:
        """An HVM guest sees it at the emulated IDE controller, as long as it has not unplugged that."""
        return self.vdev.startswith("hd")

    @property
    def is_scsi(self) -> bool:
        return self.vdev.startswith("sd")

    @property
    def is_floppy(self) -> bool:
        """A diskette drive of an HVM guest, fda or fdb (not of xl.cfg(5))."""
        return self.vdev.startswith("fd")

    @property
    def position(self) -> int:
        """The how-manieth disk of its kind: hda is 0, hdc 2, xvdb 1."""
        return drive_of(self.vdev)


def parse(spec: str) -> DiskSpec:
    """Read a disk specification; raises XenfastError."""
    return _checked(spec, *_split(spec))


def _split(spec: str) -> tuple[dict[str, str], set[str]]:
    """Parameters by name, and flags."""
    values: dict[str, str] = {}
    flags: set[str] = set()
    positions = ["target", "format", "vdev", "access"]
    rest = spec
    while rest.strip():
        if re.match(r"\s*target\s*=", rest):
            _set(spec, values, "target", rest.split("=", 1)[1])
            break
        item, _, rest = rest.partition(",")
        item = item.strip()
        key, equals, value = (part.strip() for part in item.partition("="))
        if (key if equals else item) in COLO:
            raise XenfastError(f"disk {spec!r}: there is no COLO replication")
        if equals and key in KEYS:
            _set(spec, values, key, value)
        elif item in FLAGS:
            flags.add(item)
        else:
            while positions and positions[0] in values and values[positions[0]]:
                positions.pop(0)
            if not positions:
                raise XenfastError(f"disk {spec!r}: {item!r} is not an option of a disk")
            _positional(spec, values, positions, item)
    return values, flags


def _set(spec: str, values: dict[str, str], key: str, value: str) -> None:
    if values.get(key):
        raise XenfastError(f"disk {spec!r}: {key} is given twice")
    values[key] = value


def _positional(spec: str, values: dict[str, str], positions: list[str], item: str) -> None:
    where = positions.pop(0)
    if where == "target" and _deprecated_prefix(values, item):
        positions.remove("format")
    elif where == "target":
        values["target"] = item
    elif where == "format" and ":" in item and not values.get("target"):     # ",hdc:cdrom,r": xend's empty drive
        positions.remove("vdev")
        _vdev(spec, values, item)
    elif where == "vdev":
        _vdev(spec, values, item)
    else:
        _set(spec, values, where, item)


def _vdev(spec: str, values: dict[str, str], item: str) -> None:
    """The name of the device; deprecated ``hdc:cdrom`` says its type, too."""
    name, _, kind = item.partition(":")
    _set(spec, values, "vdev", name)
    if kind:
        _set(spec, values, "devtype", kind)


def _deprecated_prefix(values: dict[str, str], item: str) -> bool:
    """Take the prefixes off a target; they stand for a format, a script or nothing."""
    found = False
    while True:
        prefix, colon, rest = item.partition(":")
        if not colon or prefix not in NAMED_FORMATS + SCRIPTS + IGNORED_PREFIXES:
            break
        found, item = True, rest
        if prefix in NAMED_FORMATS:
            values["format"] = prefix
        elif prefix in SCRIPTS:
            values["script"] = f"block-{prefix}"
    if found:
        values["target"] = item
    return found


def _checked(spec: str, values: dict[str, str], flags: set[str]) -> DiskSpec:
    def fail(text: str) -> XenfastError:
        return XenfastError(f"disk {spec!r}: {text}")

    devtype = values.get("devtype") or ("cdrom" if "cdrom" in flags else "disk")
    if devtype not in ("disk", "cdrom"):
        raise fail(f"the device type {devtype!r} is neither disk nor cdrom")
    cdrom = devtype == "cdrom"
    fmt = values.get("format") or "raw"
    if fmt not in FORMATS:
        raise fail(f"the format {fmt!r} does not exist ({', '.join(FORMATS)})")
    access = values.get("access") or ("r" if cdrom else "rw")
    if access not in READ_ONLY and access not in READ_WRITE:
        raise fail(f"the access {access!r} is neither r nor w")
    if not values.get("vdev"):
        raise fail("it does not say as which device the guest sees it (vdev, such as xvda)")
    if not values.get("target") and not cdrom:
        raise fail("it names no image file")
    if values.get("backendtype", "phy") not in BACKENDS:
        raise fail(f"the backend type {values['backendtype']!r} does not exist")
    if values.get("backend", "0") not in ("0", "Domain-0", "dom0"):
        raise fail("disks are served by domain 0 only")
    if values.get("script"):
        raise fail("there are no block scripts: the target must be a file or a block device")
    if (values.get("specification") or "xen") != "xen":
        raise fail("only the specification xen is there")
    try:
        number = device_number(values["vdev"])
    except XenfastError as error:
        raise fail(str(error)) from None
    return DiskSpec(
        target=values.get("target", ""),
        format=fmt if values.get("target") else "empty",
        vdev=values["vdev"],
        number=number,
        readonly=cdrom or access in READ_ONLY,
        cdrom=cdrom,
        discard="no-discard" not in flags,
        backendtype=values.get("backendtype", ""),
        direct_io_safe="direct-io-safe" in flags,
        trusted="untrusted" not in flags,
    )


VDEV = re.compile(r"d([0-9]{1,7})(?:p([0-9]{1,7}))?|(xvd|hd|sd)([a-z]{1,3})([0-9]{0,4})|(fd)([ab])", re.A)


def drive_of(vdev: str) -> int:
    """xvda, hda and d0 are 0."""
    match = VDEV.fullmatch(vdev)
    if not match:
        raise XenfastError(f"there is no device called {vdev!r} (xvda, hda, sda, d0 ...)")
    if match[1] is not None:
        return int(match[1])
    drive = 0
    for letter in match[4] or match[7]:
        drive = drive * 26 + ord(letter) - ord("a") + 1
    return drive - 1


def device_number(vdev: str) -> int:
    """The number of a virtual block device: ``xvda`` is 51712."""
    drive, match = drive_of(vdev), VDEV.fullmatch(vdev)
    assert match is not None
    kind, partition = match[3] or match[6] or "xvd", int(match[2] or match[5] or 0)
    if kind == "fd":
        return FLOPPY_MAJOR << 8 | drive
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
