"""A machine with one guest, and an image file for its disk."""

import pytest

from tests.dom0.frontend import Machine
from xenfast.dom0 import blkback

SECTORS = 4096


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(blkback, "SLOW_FLUSH", 60.0)        # answers come at once, whatever the host's disk does
    machine = Machine()
    yield machine
    machine.close()


@pytest.fixture
def image(tmp_path):
    """A file of 2 MiB whose sectors all differ."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"".join(i.to_bytes(4, "little") * 128 for i in range(SECTORS)))
    return path
