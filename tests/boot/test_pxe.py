"""PXE: iPXE's option ROM on the e1000 boots a program from a TFTP server behind the user network."""

from pathlib import Path

import pytest

from tests.firmware.test_loaders import program
from xenfast import Host
from xenfast.dom0.net import slirp

ROM = Path("/usr/lib/ipxe/qemu/pxe-e1000.rom")


@pytest.mark.slow
def test_a_program_from_the_network(tmp_path):
    """boot="n": a lease, the file, its first character on the screen."""
    if not ROM.exists():
        pytest.skip("ipxe-qemu is not installed")
    if not slirp.available():
        pytest.skip("libslirp0 is not installed")
    (tmp_path / "prog.0").write_bytes(program("booted by PXE"))
    with Host() as host:
        host.devices.networks.define("xenbr0", f"user,tftp={tmp_path},bootfile=prog.0")
        guest = host.create({"name": "pxe", "type": "hvm", "memory": 64, "boot": "n", "serial": "pty", "vif": ["model=e1000"]})
        host.run(lambda: "booted by PXE" in "\n".join(guest.screen.text), 60)
        text = "\n".join(guest.screen.text)
        assert "Filename: prog.0" in text and "booted by PXE" in text, text
