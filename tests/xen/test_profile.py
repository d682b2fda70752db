"""The profile view: where the time of a guest goes."""

import json
import subprocess
import sys

import pytest

from xenfast.libxl import elf
from xenfast.xen.profile import Symbols, table

MAP = "ffffffff81000000 T _text\nffffffff81000100 t helper\nffffffff82000000 D data\nffffffff81000200 T last\n"


@pytest.mark.parametrize("address, name", [(0xFFFFFFFF81000000, "_text"), (0xFFFFFFFF810001FF, "helper"), (0xFFFFFFFF81000250, "last"),
                                           (0xFFFFFFFF80FFFFFF, ""), (0x400000, "")])
def test_names_of_addresses(address, name):
    """An address has the name of the function it is in; what is not code has none."""
    assert Symbols.from_text(MAP).name(address) == name


def test_symbols_of_an_elf_image():
    """Functions of an image with a symbol table, here the one this test runs under if it has one, are read or none are there."""
    from xenfast.guests import HELLO

    image = elf.parse(HELLO.read_bytes())
    assert all(address and name for address, name in elf.functions(image))


def test_profile_of_the_shipped_guest(tmp_path):
    """--profile prints a table on standard error and puts the same in the JSON file: tiers, places, hypercalls, exits, counters."""
    out = tmp_path / "r.json"
    symbols = tmp_path / "System.map"
    symbols.write_text("0000000000000000 T everything\n")
    result = subprocess.run([sys.executable, "-m", "xenfast", "run", "--profile", "--symbols", symbols, "--json", out, "--expect", "."],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    report = json.loads(out.read_text())["profile"]
    assert set(report) == {"guest_seconds", "python_seconds", "tiers", "symbols", "blocks", "hypercalls_in_core", "exits", "counters"}
    assert report["exits"] and report["guest_seconds"] > 0 and report["counters"]["blocks_decoded"] > 0
    assert abs(sum(report["tiers"].values()) - report["guest_seconds"]) < 1e-3
    assert table(report).splitlines()[0] in result.stderr


def test_symbols_that_are_none(tmp_path):
    """A file that cannot be read is one sentence."""
    result = subprocess.run([sys.executable, "-m", "xenfast", "run", "--profile", "--symbols", tmp_path / "none"],
                            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1 and "cannot read" in result.stderr and "Traceback" not in result.stderr
