"""A raw image: byte n of the file, or of the block device, is byte n of the disk.

The file is locked while it is in use (flock: exclusive, or shared for read-only disks), so that two domains cannot
write to one image. ``flush`` is fdatasync: what it returns for is on the host's disk.  With ``direct`` the host's page
cache is passed by (O_DIRECT) for whatever is aligned as that takes it.
"""

import errno
import fcntl
import logging
import os
import stat
from functools import cache
from typing import Any

from xenfast.errors import XenfastError

log = logging.getLogger("xenfast")

SECTOR_SIZE = 512

# fallocate(2)
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)


class Unsupported(Exception):
    """The host cannot do this with this file."""


class RawImage:
    def __init__(self, path: str, readonly: bool = False, direct: bool = False) -> None:
        self.path, self.readonly = path, readonly
        self.direct_fd = -1
        try:
            self.fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
        except OSError as error:
            raise XenfastError(f"disk {path!r} cannot be opened: {error.strerror}") from None
        try:
            self.size_sectors = self.measure() // SECTOR_SIZE
            self.lock()
            if direct:
                self.open_directly()
        except BaseException:
            os.close(self.fd)
            raise

    def measure(self) -> int:
        """The size in bytes."""
        kind = os.fstat(self.fd).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
            raise XenfastError(f"disk {self.path!r} is neither a file nor a block device")
        size = os.lseek(self.fd, 0, os.SEEK_END)
        if size < SECTOR_SIZE:
            raise XenfastError(f"disk {self.path!r} is empty: it holds {size} bytes")
        return size

    def lock(self) -> None:
        try:
            fcntl.flock(self.fd, (fcntl.LOCK_SH if self.readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise XenfastError(f"disk {self.path!r} is in use by another domain or program") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, *UNSUPPORTED):  # file systems without locks
                raise XenfastError(f"disk {self.path!r} cannot be locked: {error.strerror}") from None

    def open_directly(self) -> None:
        """A second descriptor for requests that go by the page cache; there is none on file systems without it."""
        try:
            self.direct_fd = os.open(self.path, (os.O_RDONLY if self.readonly else os.O_RDWR) | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            log.info("disk %r goes through the page cache: %s", self.path, error.strerror)

    def grown(self) -> bool:
        """Look at the file's size again; has it changed?"""
        before, self.size_sectors = self.size_sectors, self.measure() // SECTOR_SIZE
        return before != self.size_sectors

    def readv(self, offset: int, buffers: list[memoryview]) -> None:
        """Fill all the buffers; EIO where the file has become shorter than the disk."""
        left = sum(map(len, buffers))
        if self.direct_fd >= 0 and self.directly(os.preadv, offset, buffers, left):
            return
        while (done := os.preadv(self.fd, buffers, offset)) != left:
            if not done:
                raise OSError(errno.EIO, f"{self.path} ends at {offset}")
            offset, left, buffers = offset + done, left - done, skip(buffers, done)

    def directly(self, function: Any, offset: int, buffers: list[memoryview], size: int) -> bool:
        """Did it go by the page cache, all of it?  What is not aligned well enough does not (EINVAL)."""
        try:
            return function(self.direct_fd, buffers, offset) == size
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False

    def writev(self, offset: int, buffers: list[memoryview]) -> None:
        left = sum(map(len, buffers))
        if self.direct_fd >= 0 and self.directly(os.pwritev, offset, buffers, left):
            return
        while (done := os.pwritev(self.fd, buffers, offset)) != left:
            if not done:
                raise OSError(errno.EIO, f"{self.path} takes nothing at {offset}")
            offset, left, buffers = offset + done, left - done, skip(buffers, done)

    def flush(self) -> None:
        """Everything written so far is on the disk when this returns."""
        os.fdatasync(self.fd)

    def discard(self, offset: int, length: int) -> None:
        """Give the space back; it reads as zeros afterwards."""
        if not length:
            return
        error = fallocate(self.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
        if error in UNSUPPORTED:
            raise Unsupported(os.strerror(error))
        if error:
            raise OSError(error, os.strerror(error))

    def wipe(self, offset: int, length: int) -> None:
        """Overwrite with zeros, on the disk when this returns; what a disk below keeps elsewhere it cannot reach."""
        zeros = memoryview(bytes(min(length, 1 << 20)))
        for at in range(0, length, 1 << 20):
            self.writev(offset + at, [zeros[: length - at]])
        self.flush()

    def close(self) -> None:
        """Close the file, which also unlocks it; harmless a second time."""
        if self.direct_fd >= 0:
            os.close(self.direct_fd)
            self.direct_fd = -1
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def skip(buffers: list[memoryview], done: int) -> list[memoryview]:
    """What is left of the buffers after so many bytes."""
    for i, buffer in enumerate(buffers):
        if done < len(buffer):
            return [buffer[done:], *buffers[i + 1 :]]
        done -= len(buffer)
    return []


@cache
def libc_fallocate() -> Any:
    """The C function, which os does not offer; None on a host without it."""
    import ctypes

    try:
        function = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return function


def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2); 0 or the errno."""
    import ctypes

    function = libc_fallocate()
    if function is None:
        return errno.ENOSYS
    while function(fd, mode, offset, length):
        error = ctypes.get_errno()
        if error != errno.EINTR:
            return error
    return 0
