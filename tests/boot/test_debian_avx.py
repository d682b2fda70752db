"""Debian's kernel as a PV guest enables AVX and keeps the YMM registers of its processes apart."""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import debian
from tests.boot.test_debian_pv import config, files, run

pytest.importorskip("xenfast._core")
pytestmark = pytest.mark.slow

SCRIPT = """
echo {program} | busybox base64 -d > /tmp/avx
busybox chmod 755 /tmp/avx
busybox dmesg | busybox grep -i xstate
for i in 1 2 3 4 5 6; do (/tmp/avx; echo "process $i: $?") & done
wait
poweroff -f
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """avx.S as a static program."""
    if not shutil.which("gcc"):
        pytest.skip("there is no compiler")
    out = tmp_path_factory.mktemp("avx") / "avx"
    subprocess.run(["gcc", "-nostdlib", "-static", "-s", "-o", out, Path(__file__).with_name("avx.S")], check=True)
    return base64.b64encode(out.read_bytes()).decode()


@pytest.mark.parametrize("vcpus", [1, 2])
def test_ymm_registers_survive_context_switches(program, vcpus, tmp_path):
    """Six processes on one or two vcpus each keep 512 bytes of their own in YMM registers over 2,000 switches."""
    try:
        kernel = debian.kernel("cloud")
    except debian.Unavailable as error:
        pytest.skip(str(error))
    files(tmp_path, kernel, SCRIPT.format(program=program))
    status, output = run(config(tmp_path, kernel, vcpus))
    assert status == 0, output[-3000:]
    assert "AVX registers" in output, output[-3000:]
    for i in range(1, 7):
        assert f"process {i}: 0" in output, output[-3000:]
