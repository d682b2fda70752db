"""xl-disk-configuration(5): disk specifications, and xen-vbd-interface(7): device numbers."""

import pytest

from xenfast.errors import XenfastError
from xenfast.libxl import disk


@pytest.mark.parametrize(
    ("spec", "target", "vdev", "readonly"),
    [
        ("root.img,raw,xvda,w", "root.img", "xvda", False),
        ("/dev/vg/guest,,hda", "/dev/vg/guest", "hda", False),
        ("/root.iso,,hdc,cdrom", "/root.iso", "hdc", True),
        ("/dev/vg/guest,raw,xvda,ro", "/dev/vg/guest", "xvda", True),
        ("format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/root, of all.iso", "/root, of all.iso", "hdc", True),
        ("root.img, vdev=xvdb, access=r", "root.img", "xvdb", True),
        ("file:root.img,xvda,w", "root.img", "xvda", False),
        ("tap:aio:root.img,xvda1,r", "root.img", "xvda1", True),
        ("phy:/dev/x,hdc:cdrom,r", "/dev/x", "hdc", True),
        ("a.img,raw,xvda,rw,discard,backendtype=phy", "a.img", "xvda", False),
    ],
)
def test_specs(spec, target, vdev, readonly):
    """Fields come by position or as key=value, ``target=`` takes the rest, old prefixes stand for a format."""
    got = disk.parse(spec)
    assert (got.target, got.vdev, got.readonly) == (target, vdev, readonly)


def test_formats_and_empty_drives():
    """Every format that xl knows is read (what can be opened: dom0/block); a CD-ROM drive may be empty."""
    assert [disk.parse(f"a,{name},xvda,w").format for name in ("raw", "qcow2", "vhd", "qed")] == ["raw", "qcow2", "vhd", "qed"]
    assert disk.parse("tap:qcow2:/a,xvda,w").format == "qcow2"
    for text in (",,hdc,cdrom", "vdev=hdc,devtype=cdrom", ",hdc:cdrom,r"):
        got = disk.parse(text)
        assert (got.target, got.format, got.cdrom, got.readonly) == ("", "empty", True, True)


def test_positions():
    """What an emulated controller must know: which bus, and the how-manieth disk."""
    ide, pv = disk.parse("a,,hdc,cdrom"), disk.parse("a,,xvdb")
    assert (ide.is_ide, ide.position, pv.is_ide, pv.position) == (True, 2, False, 1)


def test_no_discard():
    """Discard is offered unless ``no-discard`` is given."""
    assert disk.parse("a,raw,xvda,w").discard and not disk.parse("a,raw,xvda,w,no-discard").discard


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("a.img", "as which device"),
        ("", "as which device"),
        (",raw,xvda,w", "names no image"),
        ("a,raw,xyz,w", "no device called 'xyz'"),
        ("a,zip,xvda,w", "format 'zip' does not exist"),
        ("a,raw,xvda,maybe", "neither r nor w"),
        ("a,raw,xvda,w,nonsense", "not an option"),
        ("a,raw,xvda,w,backend=driver", "domain 0 only"),
        ("a,raw,xvda,w,format=qcow2", "format is given twice"),
        ("a,raw,xvda,w,specification=virtio", "only the specification xen"),
        ("nbd:a,xvda,w", "no block scripts"),
        ("a,raw,xvda,w,colo", "no COLO"),
        ("a,raw,xvda,devtype=floppy", "neither disk nor cdrom"),
        ("a,raw,hdzz,w", "beyond"),
    ],
)
def test_mistakes(spec, says):
    """A wrong specification is refused in one sentence."""
    with pytest.raises(XenfastError, match=says):
        disk.parse(spec)


@pytest.mark.parametrize(
    ("vdev", "number"),
    [
        ("xvda", 51712), ("xvda1", 51713), ("xvdb", 51728), ("xvdp15", 51967), ("d0", 51712), ("d1p2", 51730),
        ("xvdq", 1 << 28 | 16 << 8), ("xvdaa", 1 << 28 | 26 << 8), ("d536p37", 1 << 28 | 536 << 8 | 37),
        ("hda", 768), ("hdb1", 833), ("hdc", 5632), ("sda", 2048), ("sdb3", 2067),
    ],
)  # fmt: skip
def test_device_numbers(vdev, number):
    """A device's name gives its number as xen-vbd-interface(7) says."""
    assert disk.device_number(vdev) == number
