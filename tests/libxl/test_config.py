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
        ("kernle = 'a'", "unknown key 'kernle' (did you mean 'kernel'?)"),
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
        ("type = 'hvm'", "guests of type 'hvm' are not supported yet"),
        ("type = 'lxc'", "does not exist"),
        ("vif = ['bridge=xenbr0']", "'vif' is not supported yet"),
        ("disk = [ 3 ]", "a disk is given by a string"),
        ("disk = [ 'a,raw,xvda,w', 'b,raw,xvda,w' ]", "two disks are called xvda"),
        ("on_crash = 'weep'", "on_crash cannot be 'weep'"),
        ("on_crash = 'preserve'", "is not supported yet"),
        ("uuid = 'x'", "'x' is not a UUID"),
        ("extra = '" + "x" * 1024 + "'", "longer than the 1023 bytes"),
        ("name = 'no kernel'", "no kernel is given"),
        ("\x01", "cannot make sense of"),
    ],
)
def test_mistakes_are_one_sentence(text, says):
    """Every mistake raises XenfastError whose text is one line that says what is wrong."""
    if "kernel" not in text and "kernle" not in text:
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
    assert config.from_dict({"kernel": "k", "vif": [], "nestedhvm": 0}).kernel == "k"


def test_uuid_is_repeatable():
    """Without a UUID one is made from the name, the same every time."""
    one, two = (config.from_dict({"kernel": "k", "name": "a"}).uuid for _ in range(2))
    assert one == two != config.from_dict({"kernel": "k", "name": "b"}).uuid
