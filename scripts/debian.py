"""Debian's kernels and what a guest needs beside them: the real input of the demo, the tests and the benchmarks.

Downloads the packages behind linux-image-amd64 and linux-image-cloud-amd64 of this machine's Debian release with
apt-get, unpacks them into .cache without installing anything, and makes an initramfs (busybox, the modules for a Xen
disk, an init script) and ext4 images. Everything is made anew from what Debian ships; nothing is changed in a kernel.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.cpio import Archive

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
PACKAGES = {"generic": "linux-image-amd64", "cloud": "linux-image-cloud-amd64"}
BUSYBOX = Path("/bin/busybox")


class Unavailable(Exception):
    """Debian's packages cannot be had on this machine; the text says why in one sentence."""


@dataclass(frozen=True)
class Kernel:
    flavour: str                # "generic" or "cloud"
    version: str                # as uname -r says
    image: Path                 # vmlinuz
    modules: Path               # lib/modules/VERSION


# ----------------------------------------------------------------------------------------------------------------------
# Packages


def kernel(flavour: str) -> Kernel:
    """The kernel of one flavour, downloaded if need be; raises Unavailable."""
    for program in ("apt-get", "apt-cache", "dpkg-deb"):
        if not shutil.which(program):
            raise Unavailable(f"Debian's kernels cannot be had here: there is no {program}")
    directory = CACHE / flavour
    if not _found(directory):
        _download(PACKAGES[flavour], directory)
    image = _found(directory)
    if image is None:
        raise Unavailable(f"the package of {PACKAGES[flavour]} holds no kernel")
    version = image.name.removeprefix("vmlinuz-")
    modules = next((path for path in (directory / "lib/modules", directory / "usr/lib/modules") if path.is_dir()), None)
    if modules is None:
        raise Unavailable(f"the package of {PACKAGES[flavour]} holds no modules")
    return Kernel(flavour, version, image, modules / version)


def _found(directory: Path) -> Path | None:
    return next(iter(sorted(directory.glob("boot/vmlinuz-*"))), None)


def package_file(package: str, name: str) -> Path:
    """A file of a Debian package, which need not be installed; raises Unavailable."""
    installed = Path("/", name)
    if installed.exists():
        return installed
    directory = CACHE / package
    if not (directory / name).exists():
        _download(package, directory, lambda package: package)
    if not (directory / name).exists():
        raise Unavailable(f"Debian's package {package} has no {name}")
    return directory / name


def _download(meta: str, directory: Path, real: Callable[[str], str | None] | None = None) -> None:
    """Fetch the package that the meta package depends on and unpack it."""
    real = real or _real_package
    package = real(meta)
    if package is None and os.geteuid() == 0:
        _run(["apt-get", "update", "-qq"], check=False)
        package = real(meta)
    if package is None:
        raise Unavailable(f"Debian's package {meta} is not known to apt on this machine (try apt-get update)")
    debs = CACHE / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    result = _run(["apt-get", "download", "-q", package], cwd=debs, check=False)
    if result.returncode and os.geteuid() == 0:
        _run(["apt-get", "update", "-qq"], check=False)
        result = _run(["apt-get", "download", "-q", package], cwd=debs, check=False)
    found = sorted(debs.glob(f"{package}_*.deb"))
    if result.returncode or not found:
        raise Unavailable(f"Debian's package {package} could not be downloaded")
    partial = directory.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _run(["dpkg-deb", "-x", str(found[-1]), str(partial)])
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)


def _real_package(meta: str) -> str | None:
    """The versioned package behind a meta package."""
    result = _run(["apt-cache", "depends", meta], check=False)
    names = re.findall(r"Depends: (linux-image-[0-9]\S+)", result.stdout)
    return names[0] if names else None


def _run(command: list[str], *, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=check, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)


# ----------------------------------------------------------------------------------------------------------------------
# Modules


def module_list(of: Kernel, names: Iterable[str]) -> list[Path]:
    """Files of the modules and of those they depend on, in the order to load them; built-in ones are left out.

    The packages carry no modules.dep (depmod makes it when they are installed), so each module is asked itself.
    """
    files = {path.name.split(".ko")[0].replace("-", "_"): path for path in of.modules.rglob("*.ko*")}
    order: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or path in order:
            return
        info = modinfo(module_bytes(path))
        soft = [word for line in info.get("softdep", []) for word in _softdeps(line)]
        for needed in [*",".join(info.get("depends", [])).split(","), *soft]:
            if needed:
                add(needed)
        if path not in order:
            order.append(path)

    for name in names:
        add(name)
    return order


def _softdeps(line: str) -> list[str]:
    """Modules to be loaded before: "pre: a b post: c"."""
    match = re.search(r"pre:\s*(.*?)(?:\s*post:|$)", line)
    # "crypto-crc32c" is an alias of every implementation; the plain C one runs on every CPU
    return [re.sub(r"^crypto-(.*)", r"\1_generic", word) for word in match[1].split()] if match else []


def module_bytes(path: Path) -> bytes:
    """A module, decompressed."""
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        import gzip

        return gzip.decompress(data)
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dc", str(path)], check=True, capture_output=True).stdout
    return data


def modinfo(data: bytes) -> dict[str, list[str]]:
    """The .modinfo section of a module: "key=value" strings."""
    (shoff,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", data, shoff + i * size) for i in range(count)]
    names = sections[names_index][4]
    found: dict[str, list[str]] = {}
    for name, _, _, _, offset, length in sections:
        if data[names + name : names + name + 9] == b".modinfo\0":
            for item in data[offset : offset + length].split(b"\0"):
                key, equals, value = item.decode("latin-1").partition("=")
                if equals:
                    found.setdefault(key, []).append(value)
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Initramfs and disks

APPLETS = (
    "[ cat cp dd df dmesg echo grep head insmod ls md5sum mkdir mknod mount mv nproc poweroff reboot"
    " rm seq sh sleep sync tail test time touch umount uname wc"
    " chmod httpd ifconfig ip nc ping route traceroute udhcpc wget"
)

PRELUDE = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
"""


def initramfs(
    of: Kernel, script: str, modules: Iterable[str] = ("xen-blkfront", "ext4"), programs: Mapping[str, bytes] | None = None
) -> bytes:
    """An initramfs whose init mounts the usual file systems, loads the modules and goes on with ``script``; ``programs``
    are more files for /bin."""
    if not BUSYBOX.exists():
        raise Unavailable("busybox-static is not installed (sudo apt-get install busybox-static)")
    archive = Archive()
    for name in ("dev", "proc", "sys", "mnt", "tmp"):
        archive.directory(name)
    archive.device("dev/console", "c", 5, 1)
    archive.device("dev/null", "c", 1, 3)
    archive.file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
    for applet in APPLETS.split():
        archive.symlink(f"bin/{applet}", "busybox")
    for name, data in (programs or {}).items():
        archive.file(f"bin/{name}", data, 0o755)
    lines = []
    for path in module_list(of, modules):
        name = path.name.split(".ko")[0] + ".ko"
        archive.file(f"lib/modules/{name}", module_bytes(path))
        lines.append(f"insmod /lib/modules/{name}\n")
    archive.file("init", (PRELUDE + "".join(lines) + script).encode(), 0o755)
    return archive.bytes()


def ext4_image(path: Path, mebibytes: int = 64) -> None:
    """An empty ext4 file system in a sparse file."""
    with open(path, "wb") as file:
        file.truncate(mebibytes << 20)
    program = shutil.which("mkfs.ext4", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if program is None:
        raise Unavailable("mkfs.ext4 is not installed (sudo apt-get install e2fsprogs)")
    _run([program, "-q", "-F", str(path)])


def e2fs(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run e2fsck or debugfs."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if path is None:
        raise Unavailable(f"{program} is not installed (sudo apt-get install e2fsprogs)")
    return _run([path, *arguments], check=False)
