"""The host's file under an image format: whole reads and writes at an offset, sync, holes."""

import errno
import os

from xenfast.dom0.block.raw import RawImage, Unsupported, skip


class File(RawImage):
    """Beyond a raw image: it may be short, what lies behind its end is zeros, and it grows."""

    def size(self) -> int:
        return os.lseek(self.fd, 0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        data = os.pread(self.fd, size, offset)
        while len(data) < size:
            more = os.pread(self.fd, size - len(data), offset + len(data))
            if not more:
                return data + bytes(size - len(data))
            data += more
        return data

    def readv(self, offset: int, buffers: list[memoryview]) -> None:
        left = sum(map(len, buffers))
        while (done := os.preadv(self.fd, buffers, offset)) != left:
            offset, left, buffers = offset + done, left - done, skip(buffers, done)
            if not done:
                for buffer in buffers:
                    buffer[:] = bytes(len(buffer))
                return

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self.fd, view, offset)
            if not done:
                raise OSError(errno.EIO, f"{self.path} takes nothing at {offset}")
            offset, view = offset + done, view[done:]

    def sync(self) -> None:
        os.fdatasync(self.fd)

    def punch(self, offset: int, length: int) -> None:
        """Give space back to the host, where it can take it."""
        try:
            self.discard(offset, length)
        except (Unsupported, OSError):
            pass
