"""Debian's balloon driver follows mem-set: down, and up again beyond what the domain began with, as far as maxmem."""

import time

import pytest

import xenfast
from scripts import debian

pytest.importorskip("xenfast._core")
pytestmark = pytest.mark.slow


def test_balloon(tmp_path):
    """The domain's pages come to what was asked for, each way."""
    try:
        kernel = debian.kernel("cloud")
        (tmp_path / "initrd").write_bytes(debian.initramfs(kernel, "echo ready\nwhile true; do sleep 60; done\n", modules=()))
    except debian.Unavailable as error:
        pytest.skip(str(error))
    settings = {"kernel": kernel.image, "ramdisk": tmp_path / "initrd", "extra": "console=hvc0", "memory": 256, "maxmem": 384}
    with xenfast.Host(1024) as host:
        host.start()
        domain = host.create(settings)
        domain.console.expect("ready", 120)
        for mebibytes in (200, 300):
            domain.set_memory(mebibytes << 10)
            end = time.monotonic() + 60
            while domain.xen.tot_pages >> 8 != mebibytes:
                assert time.monotonic() < end, domain.xen.tot_pages
                time.sleep(0.1)
