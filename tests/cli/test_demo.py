"""make demo always ends with a domain that ran; make names what it needs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("xenfast.libxl.device")

from scripts import debian, demo

APT_NEED = Path(__file__).resolve().parents[2] / "scripts" / "apt-need"


def test_without_debian_packages(monkeypatch, capfd):
    """Where Debian's packages cannot be had, one sentence says so and the shipped guest runs."""

    def unavailable(flavour):
        raise debian.Unavailable("Debian's package linux-image could not be downloaded")

    monkeypatch.setattr(debian, "kernel", unavailable)
    assert demo.main() == 0
    shown = capfd.readouterr().out
    assert "-- Debian's package linux-image could not be downloaded.\n" in shown
    assert "Hello from a PV guest." in shown and "shipped with xenfast" in shown


def test_missing_packages_are_named(tmp_path):
    """Without apt-get the packages are named in one sentence, and the exit status is 1."""
    for program in ("sh", "grep", "id"):
        (tmp_path / program).symlink_to(shutil.which(program))
    query = tmp_path / "dpkg-query"
    query.write_text("#!/bin/sh\nexit 1\n")
    query.chmod(0o755)
    result = subprocess.run(
        [APT_NEED, "one", "two"], env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr == "These Debian packages are needed and not installed: one two (sudo apt-get install one two).\n"
