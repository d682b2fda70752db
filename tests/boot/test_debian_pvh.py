"""Debian's own kernels, unmodified, boot as PVH guests: the entry without firmware, hvc0, a disk through domain 0, several vcpus."""

import json

import pytest

from scripts import debian
from tests.boot.test_debian_pv import MESSAGE, SCRIPT, config, files, run

pytest.importorskip("xenfast._core")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["cloud", "generic"])
def kernel(request):
    try:
        return debian.kernel(request.param)
    except debian.Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("vcpus", "clock"), [(1, "real"), (2, "virtual"), (4, "real")])
def test_boots_to_user_space_and_uses_its_disk(kernel, vcpus, clock, tmp_path):
    """Boots, is a Xen guest of type PVH, mounts, writes, syncs, reads back, powers off; the image is clean."""
    script = "echo guest: $(cat /sys/hypervisor/guest_type)\n" + SCRIPT
    image = files(tmp_path, kernel, script)
    report = tmp_path / "report.json"
    status, output = run(config(tmp_path, kernel, vcpus), "--type", "pvh", "--clock", clock, "--json", report)
    assert status == 0, output[-3000:]
    assert "guest: PVH" in output
    assert f"uname: {kernel.version} cpus: {vcpus} type: xen" in output
    for line in ("mounted", f"read back: {MESSAGE}", "sums agree", "all done"):
        assert line in output
    assert debian.e2fs("e2fsck", "-fn", str(image)).returncode == 0
    assert debian.e2fs("debugfs", "-R", "cat /file", str(image)).stdout.strip() == MESSAGE
    counted = json.loads(report.read_text())
    assert counted["ended"] == "poweroff" and counted["disks"]["xvda"]["flushes"] > 0


def test_reboot_and_a_panic_are_told_apart(tmp_path):
    """reboot ends the domain as a reboot, a panic as a crash."""
    try:
        kernel = debian.kernel("cloud")
    except debian.Unavailable as error:
        pytest.skip(str(error))
    for script, ended in (("reboot -f\n", "reboot"), ("echo c > /proc/sysrq-trigger\n", "crash")):
        files(tmp_path, kernel, script)
        report = tmp_path / "report.json"
        path = config(tmp_path, kernel, 1)
        with path.open("a") as file:
            file.write('on_reboot = "destroy"\non_crash = "destroy"\n')
        run(path, "--type", "pvh", "--json", report)
        assert json.loads(report.read_text())["ended"] == ended
