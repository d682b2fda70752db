"""xl.cfg(5): the grammar, the table of keys, and what a mistake is answered with."""

import pytest

from xenfast.errors import XenfastError
from xenfast.libxl import config, keys

GOOD = """
# a PV guest
name = "guest" ; memory = 0x100
vcpus=2; kernel = '/boot/vmlinuz'
ramdisk = "/boot/initrd.img"
disk = [
    'root.img,raw,xvda,w',      # the root
    'format=raw, vdev=xvdb, access=ro, target=/a, file',
]
extra = "console=hvc0 quiet"
extra += " nosmp"
on_reboot = "destroy"
"""


def test_a_whole_config():
    """Strings in either quotes, numbers, lists over lines, comments, semicolons and += are read as xl reads them."""
    got = config.parse(GOOD)
    assert (got.name, got.memory, got.vcpus, got.kernel) == ("guest", 256, 2, "/boot/vmlinuz")
    assert got.cmdline == "console=hvc0 quiet nosmp"
    assert [(d.target, d.vdev) for d in got.disks] == [("root.img", "xvda"), ("/a, file", "xvdb")]
    assert [d.readonly for d in got.disks] == [False, True]
    assert got.on_reboot == "destroy" and got.on_poweroff == "destroy"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10), ("010", 8), ("0x1F", 31), ("0", 0), ("'a b'", "a b"),
        (r'"a\"b\n\x41"', 'a"b\nA'), ("'#no;comment'", "#no;comment"),
        ("[]", []), ("[ 1, ]", [1]), ("['a', [1, 'b']]", ["a", [1, "b"]]), ("[\n 'a',\n\n 'b'\n]", ["a", "b"]),
    ],
)  # fmt: skip
def test_values(text, value):
    """A value is a number (decimal, octal, hexadecimal), a string with escapes, or a list, nested at will."""
    assert config.parse_settings(f"key = {text}\n") == {"key": value}


def test_cmdline_wins_over_root_and_extra():
    """``cmdline`` replaces ``root`` and ``extra``; without it they are joined."""
    base = {"kernel": "k", "root": "/dev/xvda", "extra": "quiet"}
    assert config.from_dict(base).cmdline == "root=/dev/xvda quiet"
    assert config.from_dict(base | {"cmdline": "only this"}).cmdline == "only this"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = guest", "line 1: the value of 'name' is neither a string in quotes, a number nor a list"),
        ("name = 'a' 'b'", "unexpected"),
        ("\n\nname 'a'", "line 3: expected '=' after 'name'"),
        ("= 3", "expected a key"),
        ("disk = [ 'a'", "is not closed"),
        ("disk = [ 'a' 'b' ]", "unexpected"),
        ("name = 'a", "cannot make sense of"),
        ("memory = 'lots'", "'memory' must be a number, not 'lots'"),
        ("memory = 0", "cannot have 0 MiB"),
        ("memory = 128; maxmem = 64", "less than memory"),
        ("vcpus = 0", "cannot have 0 vcpus"),
        ("vcpus = 99", "more than the 32"),
        ("builder = 'lxc'", "does not exist"),
        ("type = 'lxc'", "does not exist"),
        ("pci = ['01:00.0']", "'pci' is not supported: there is no hardware behind it"),
        ("vif = ['mac=1']", "'1' is not a MAC address"),
        ("vif = ['mac=00:16:3e:0:0:1', 'mac=00:16:3e:0:0:1']", "the same MAC address"),
        ("type = 'hvm'; boot = 'x'", "boot cannot be 'x'"),
        ("type = 'hvm'; bios = 'award'", "bios cannot be 'award'"),
        ("type = 'hvm'; vnclisten = '127.0.0.1:x'", "'x' is not the number of a display"),
        ("type = 'hvm'; usb = 1; usbversion = 2", "cannot be combined"),
        ("type = 'hvm'; timer_mode = 'fast'", "timer_mode cannot be 'fast'"),
        ("cpus = '0-'", "not a list of processors"),
        ("cpu_weight = 0", "between 1 and 65535"),
        ("name = '17'", "taken for a domain's number"),
        ("disk = [ ',,hdc,cdrom' ]", "only an HVM domain can have an empty drive"),
        ("disk = [ 3 ]", "a disk is given by a string"),
        ("disk = [ 'a,raw,xvda,w', 'b,raw,xvda,w' ]", "two disks are called xvda"),
        ("on_crash = 'weep'", "on_crash cannot be 'weep'"),
        ("uuid = 'x'", "'x' is not a UUID"),
        ("extra = '" + "x" * 1024 + "'", "longer than the 1023 bytes"),
        ("name = 'no kernel'", "no kernel is given"),
        ("\x01", "cannot make sense of"),
    ],
)
def test_mistakes_are_one_sentence(text, says):
    """Every mistake raises XenfastError whose text is one line that says what is wrong."""
    if "kernel" not in text:
        text = "kernel = 'k'; " + text
    with pytest.raises(XenfastError) as error:
        config.parse(text, "guest.cfg")
    assert says in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith("guest.cfg")


def test_table_of_keys():
    """The table names every key once; what the configuration reads is in it and supported."""
    names = [key.name for key in keys._TABLE]
    assert len(names) == len(set(names)) and len(names) > 150
    for name in "kernel ramdisk cmdline root extra memory maxmem vcpus maxvcpus disk uuid".split():
        assert keys.KEYS[name].status == keys.SUPPORTED


def test_unsupported_keys_that_are_off_are_fine():
    """A key that is not supported may be given when its value asks for nothing."""
    assert config.from_dict({"kernel": "k", "pci": [], "nestedhvm": 0}).kernel == "k"


def test_unknown_and_missing_keys_warn(caplog):
    """As with xl an unknown key is passed over, with a warning; so is one whose effect is missing, with the reason."""
    got = config.parse("kernel = 'k'; memroy = 3; soundhw = 'sb16'", "guest.cfg")
    assert "memroy" not in got.settings
    assert "guest.cfg: the unknown key 'memroy' is ignored (did you mean 'memory'?)" in caplog.text
    assert "'soundhw' has no effect: there is no sound card" in caplog.text


def test_every_key_says_why_it_does_nothing():
    """A key that is not supported has a reason."""
    assert all(bool(key.why) != (key.status == keys.SUPPORTED) for key in keys.KEYS.values())


def test_numbers_are_strings_and_strings_numbers():
    """A number is kept as it was written where a string is wanted, and a string of digits is a number, as in xl."""
    got = config.parse("kernel = 'k'; name = 0x07; memory = '0x40'; vcpus = '2'; extra = 010")
    assert (got.name, got.memory, got.vcpus, got.cmdline) == ("0x07", 64, 2, "010")


HVM = """
type = "hvm"; name = "pc"; memory = 512
firmware = "uefi"; boot = "dc"; disk = [ ",,hdc,cdrom" ]
vga = "stdvga"; videoram = 16; vnclisten = "0.0.0.0:3"; vncunused = 0; vncpasswd = "x"
serial = "pty"; usb = 1; usbdevice = [ "tablet" ]; localtime = 1; timer_mode = 2; acpi = 0
smbios = [ "system_product_name=PC", "oem=one", "oem=two" ]; vif = [ "model=e1000,mac=00:16:3E:1:2:3", "" ]
cpus = "all,^0"; cpu_weight = 512; cap = 50; on_crash = "coredump-restart"
"""


def test_hvm_fields():
    """The keys of an HVM guest become typed fields; xl.cfg(5)'s older forms (one string for a list) are read, too."""
    got = config.parse(HVM)
    assert (got.is_hvm, got.bios, got.boot, got.kernel) == (True, "ovmf", "dc", "")
    assert (got.cdroms[0].target, got.cdroms[0].format) == ("", "empty")
    assert (got.vga, got.videoram, got.vnclisten, got.vncdisplay, got.vncunused) == ("stdvga", 16, "0.0.0.0", 3, 0)
    assert (got.serial, got.usbdevice, got.localtime, got.acpi, got.apic) == (["pty"], ["tablet"], 1, 0, 1)
    assert got.timer_mode == "no_missed_ticks_pending" and got.smbios == {"system_product_name": "PC", "oem": ["one", "two"]}
    assert next((nic.mac, nic.model, nic.devid) for nic in got.vifs) == ("00:16:3e:01:02:03", "e1000", 0)
    assert got.vifs[1].mac.startswith("00:16:3e:") and got.vifs[1].devid == 1
    assert (got.cpus, got.cpu_weight, got.cap, got.on_crash) == (["all,^0"], 512, 50, "coredump-restart")


def test_paths_are_made_absolute():
    """Files named relative to a directory are found by a process that is elsewhere."""
    got = config.from_dict({"kernel": "k", "disk": ["a,raw,xvda,w", "/b,raw,xvdb,w"]})
    config.resolve_paths(got, "/home/me")
    assert (got.kernel, got.ramdisk, [spec.target for spec in got.disks]) == ("/home/me/k", "", ["/home/me/a", "/b"])


def test_a_vga_of_a_pv_guest_is_a_framebuffer():
    """xl makes a vfb of the keys of a VGA."""
    got = config.from_dict({"kernel": "k", "vnc": 1, "vnclisten": "[::1]:2"})
    assert [(vfb.vnclisten, vfb.vncdisplay) for vfb in got.vfbs] == [("::1", 2)]
    assert not config.from_dict({"kernel": "k"}).vfbs


def test_uuid_is_repeatable():
    """Without a UUID one is made from the name, the same every time."""
    one, two = (config.from_dict({"kernel": "k", "name": "a"}).uuid for _ in range(2))
    assert one == two != config.from_dict({"kernel": "k", "name": "b"}).uuid
