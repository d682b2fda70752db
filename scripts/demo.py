"""The main job, shown: boot Debian's own kernel as a Xen PV guest, let it use a disk through domain 0, power it off.

Called by ``make demo``.  Where Debian's packages cannot be had it says so in one sentence and runs the guest that is
shipped with xenfast, so that it always ends with a domain that ran.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import debian  # noqa: E402

NOTE = "written by a Debian guest of xenfast"
SCRIPT = f"""
echo
echo "Hello from user space: $(uname -srm), $(nproc) cpu, /sys/hypervisor/type is $(cat /sys/hypervisor/type)"
mount -t ext4 /dev/xvda /mnt && echo "mounted /dev/xvda"
echo "{NOTE}" > /mnt/note && sync && echo "wrote /mnt/note and synced"
echo "read back: $(cat /mnt/note)"
umount /mnt
poweroff -f
"""


def say(text: str) -> None:
    print(f"\033[1m-- {text}\033[0m" if sys.stdout.isatty() else f"-- {text}", flush=True)


def xenfast(*arguments: str) -> int:
    """Run the command as a user would."""
    return subprocess.call([sys.executable, "-m", "xenfast", "run", *arguments], stdin=subprocess.DEVNULL, cwd=ROOT)


def debian_guest(directory: Path) -> int:
    kernel = debian.kernel("cloud")
    say(f"kernel: Debian's {kernel.image.name}, as it comes out of the package")
    ramdisk, disk = directory / "initrd", directory / "root.img"
    ramdisk.write_bytes(debian.initramfs(kernel, SCRIPT))
    debian.ext4_image(disk)
    say("initramfs: busybox and the kernel's own xen-blkfront; disk: an empty ext4 file system")
    say("booting it as a paravirtualised Xen domain; its console follows")
    started = time.monotonic()
    status = xenfast(
        "--name", "debian", "--kernel", str(kernel.image), "--ramdisk", str(ramdisk), "--memory", "256",
        "--cmdline", "console=hvc0", "--disk", f"{disk},raw,xvda,w", "--timeout", "600",
    )  # fmt: skip
    if status:
        return status
    say(f"the guest ran for {time.monotonic() - started:.1f} s, from the command to its power off")
    check = debian.e2fs("e2fsck", "-fn", str(disk))
    note = debian.e2fs("debugfs", "-R", "cat /note", str(disk)).stdout.strip()
    say(f"the image on the host: e2fsck -fn says {'clean' if not check.returncode else 'NOT clean'}, /note is {note!r}")
    return int(check.returncode != 0 or note != NOTE)


def shipped_guest() -> int:
    say("running the small PV kernel that is shipped with xenfast instead")
    return xenfast("--cmdline", "shipped with xenfast")


def main() -> int:
    missing = subprocess.run([ROOT / "scripts/apt-need", "busybox-static", "e2fsprogs"], capture_output=True, text=True)
    if missing.returncode:
        say(missing.stderr.strip().splitlines()[-1])
        return shipped_guest()
    with tempfile.TemporaryDirectory(prefix="xenfast-demo-") as directory:
        try:
            return debian_guest(Path(directory))
        except debian.Unavailable as error:
            say(f"{error}.")
            return shipped_guest()


if __name__ == "__main__":
    sys.exit(main())
