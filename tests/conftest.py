"""Fixtures: the small guests of tests/guests, assembled once a session."""

import shutil
from pathlib import Path

import pytest

from xenfast import guests

SOURCES = Path(__file__).resolve().parent / "guests"


@pytest.fixture(scope="session")
def guest(tmp_path_factory):
    """``guest("pv64-echo")`` is the path of that guest's ELF image."""
    if not shutil.which("cc") or not shutil.which("as"):
        pytest.skip("there is no assembler")
    directory = tmp_path_factory.mktemp("guests")

    def build(name: str) -> Path:
        path = directory / f"{name}.elf"
        if not path.exists():
            guests.assemble(SOURCES / f"{name}.S", path)
        return path

    return build
