"""Recordings of frames in the file format that tcpdump and Wireshark read (pcap, with nanoseconds).

``port.capture = Pcap("vif.pcap")`` or ``switch.capture = ...``; frames that are not finished are recorded as they are.
"""

import struct
import time
from collections.abc import Callable
from pathlib import Path

from xenfast.errors import XenfastError

MAGIC_NS = 0xA1B23C4D
LINKTYPE_ETHERNET = 1
SNAPLEN = 262144

HEADER = struct.Struct("<IHHiIII")      # magic, version 2.4, zone, accuracy, snaplen, link type
RECORD = struct.Struct("<IIII")         # seconds, nanoseconds, bytes here, bytes there


class Pcap:
    def __init__(self, path: str | Path, now: Callable[[], int] = time.time_ns, limit: int = SNAPLEN) -> None:
        """``limit``: bytes kept of each frame."""
        self.path, self.now, self.limit = str(path), now, limit
        self.frames = 0
        try:
            self.file = open(path, "wb")       # noqa: SIM115 (closed by close())
        except OSError as error:
            raise XenfastError(f"the capture file {self.path!r} cannot be written: {error.strerror}") from None
        self.file.write(HEADER.pack(MAGIC_NS, 2, 4, 0, 0, limit, LINKTYPE_ETHERNET))

    def write(self, frame: bytes | bytearray | memoryview) -> None:
        if self.file.closed:
            return
        seconds, ns = divmod(self.now(), 1_000_000_000)
        part = frame[: self.limit]
        self.file.write(RECORD.pack(seconds & 0xFFFFFFFF, ns, len(part), len(frame)))
        self.file.write(part)
        self.frames += 1

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Finish the file; harmless a second time."""
        self.file.close()

    def __enter__(self) -> "Pcap":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read(path: str | Path) -> list[tuple[int, bytes]]:
    """(time in ns, frame) of all frames of a recording made here."""
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < HEADER.size or HEADER.unpack_from(data)[0] != MAGIC_NS:
        raise XenfastError(f"{str(path)!r} is not a recording made here")
    found, at = [], HEADER.size
    while at + RECORD.size <= len(data):
        seconds, ns, size, _ = RECORD.unpack_from(data, at)
        at += RECORD.size
        found.append((seconds * 1_000_000_000 + ns, data[at : at + size]))
        at += size
    return found
