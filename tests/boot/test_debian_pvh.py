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


def test_grub_is_a_pvh_guest_and_chains_to_a_kernel(tmp_path):
    """GRUB's i386-xen_pvh image, a 32-bit guest of event channels and grants, reads its disk and starts the 64-bit kernel there."""
    try:
        kernel = debian.kernel("cloud")
        grub = debian.package_file("grub-xen-host", "usr/lib/grub-xen/grub-i386-xen_pvh.bin")
    except debian.Unavailable as error:
        pytest.skip(str(error))
    root = tmp_path / "root"
    (root / "boot/grub").mkdir(parents=True)
    (root / "boot/vmlinuz").write_bytes(kernel.image.read_bytes())
    script = "echo chained to $(uname -r), $(nproc) cpus, $(cat /sys/hypervisor/guest_type)\npoweroff -f\n"
    (root / "boot/initrd").write_bytes(debian.initramfs(kernel, script, modules=()))
    (root / "boot/grub/grub.cfg").write_text(
        "set timeout=0\nmenuentry Debian {\n linux /boot/vmlinuz console=hvc0\n initrd /boot/initrd\n}\n")
    made = debian.e2fs("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(tmp_path / "disk.img"), "96M")
    assert made.returncode == 0, made.stderr
    path = tmp_path / "grub.cfg"
    path.write_text(
        f'name = "grub"\ntype = "pvh"\nkernel = "{grub}"\nmemory = 256\nvcpus = 2\ndisk = [ "{tmp_path}/disk.img,raw,xvda,r" ]\n'
        'on_reboot = "destroy"\n')
    status, output = run(path)
    assert status == 0 and f"chained to {kernel.version}, 2 cpus, PVH" in output, output[-3000:]
