"""Write cpio archives in the "newc" format, which Linux unpacks as its initramfs.

Specified in Linux's Documentation/driver-api/early-userspace/buffer-format.rst.  Files are added from bytes, so
neither root nor the cpio program is needed; times are zero, so the same contents make the same archive.
"""

from __future__ import annotations

import stat


class Archive:
    """An archive being written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()
        self._inode = 0

    def directory(self, name: str) -> None:
        """A directory, and those above it."""
        if name and name not in self._names:
            self.directory(name.rpartition("/")[0])
            self._add(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self.directory(name.rpartition("/")[0])
        self._add(name, stat.S_IFREG | mode, data)

    def symlink(self, name: str, target: str) -> None:
        self.directory(name.rpartition("/")[0])
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, kind: str, major: int, minor: int) -> None:
        """A device node; ``kind`` is "c" or "b"."""
        self.directory(name.rpartition("/")[0])
        self._add(name, (stat.S_IFCHR if kind == "c" else stat.S_IFBLK) | 0o600, b"", major, minor)

    def _add(self, name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        self._names.add(name)
        self._inode += 1
        path = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._parts += [_pad(header + path), _pad(data)]

    def bytes(self) -> bytes:
        """The whole archive."""
        end = Archive()
        end._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts + end._parts)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
