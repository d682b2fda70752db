"""memtest86+, which trusts nothing that a PC says of itself: a whole pass over 64 MiB finds no error."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from xenfast.libxl.host import Host

pytestmark = pytest.mark.slow
LONG = pytest.mark.skipif(not os.environ.get("XENFAST_LONG"), reason="takes a quarter of an hour: XENFAST_LONG=1 make test")
PACKAGE = "memtest86+"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The files of Debian's package, unpacked."""
    directory = tmp_path_factory.mktemp("memtest")
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("there is no apt-get to fetch memtest86+ with")
    got = subprocess.run(["apt-get", "download", PACKAGE], cwd=directory, capture_output=True)
    found = list(directory.glob("*.deb"))
    if got.returncode or not found:
        pytest.skip(f"Debian's package {PACKAGE} cannot be fetched")
    subprocess.run(["dpkg", "-x", found[0], directory], check=True)
    return directory / "usr/lib/memtest86+"


@pytest.mark.parametrize("image", ["memtest86+x64.iso", pytest.param("memtest86+ia32.iso", marks=LONG)])
def test_a_pass_without_errors(package, tmp_path, image):
    """From the CD-ROM, by our firmware, in real time; what the screen shows in the end is kept as a picture."""
    with Host(192) as host:
        domain = host.create({"name": "memtest", "type": "hvm", "memory": 64, "vnc": 0, "boot": "d",
                              "disk": [f"{package / image},raw,hdc,r,devtype=cdrom"]})
        domain.run(lambda: "Pass:  1" in "\n".join(domain.screen.text), 3600)
        domain.screen.png(Path(os.environ.get("XENFAST_PICTURES", tmp_path)) / f"{image}.png")
        text = "\n".join(domain.screen.text)
        assert "Pass:  1" in text and "Errors: 0" in text, text
