"""MOO files: instruction cases captured on a real processor (the format of SingleStepTests, version 1).

Little endian; a file is a row of chunks {4-byte name, u32 length, payload}, and so is each ``TEST`` chunk.  Chunks that
are not known are skipped.  Left out: bus cycles (``CYCL``), the registers of the 386 (``RG32``)
and the address of ``EXCP``, which is a byte low for odd stack pointers.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REGISTERS = "ax bx cx dx cs ss ds es sp bp si di ip flags".split()      # bit 0 upward in the mask of REGS and RMSK
MAGIC = b"MOO "


@dataclass
class State:
    """``INIT`` or ``FINA``; the latter lists only what changed."""

    regs: dict[str, int] = field(default_factory=dict)
    ram: dict[int, int] = field(default_factory=dict)


@dataclass
class Case:
    index: int = 0
    name: str = ""
    code: bytes = b""
    initial: State = field(default_factory=State)
    final: State = field(default_factory=State)
    vector: int | None = None           # of the exception or software interrupt the instruction ended in
    masks: dict[str, int] = field(default_factory=dict)
    hash: str = ""


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, payload) of every chunk; ValueError when one goes beyond the end."""
    at = 0
    while at + 8 <= len(data):
        name, length = data[at:at + 4], int.from_bytes(data[at + 4:at + 8], "little")
        if at + 8 + length > len(data):
            raise ValueError(f"chunk {name!r} at {at:#x} goes beyond the end of the file")
        yield name, data[at + 8:at + 8 + length]
        at += 8 + length


def registers(payload: bytes) -> dict[str, int]:
    """``REGS`` and ``RMSK``: a mask, then a word for each set bit."""
    mask = int.from_bytes(payload[:2], "little")
    names = [name for bit, name in enumerate(REGISTERS) if mask >> bit & 1]
    return dict(zip(names, struct.unpack_from(f"<{len(names)}H", payload, 2), strict=True))


def cells(payload: bytes) -> dict[int, int]:
    """``RAM``: a count, then address and value."""
    count = int.from_bytes(payload[:4], "little")
    return dict(struct.iter_unpack("<IB", payload[4:4 + 5 * count]))


def state(payload: bytes) -> State:
    result = State()
    for name, body in chunks(payload):
        if name == b"REGS":
            result.regs = registers(body)
        elif name == b"RAM ":
            result.ram = cells(body)
    return result


def case(payload: bytes) -> Case:
    result = Case(index=int.from_bytes(payload[:4], "little"))
    for name, body in chunks(payload[4:]):
        if name == b"NAME":
            result.name = body[4:].decode()
        elif name == b"BYTS":
            result.code = body[4:]
        elif name == b"INIT":
            result.initial = state(body)
        elif name == b"FINA":
            result.final = state(body)
        elif name == b"EXCP":
            result.vector = body[0]
        elif name == b"RMSK":
            result.masks = registers(body)
        elif name == b"HASH":
            result.hash = body.hex()
    return result


def load(path: Path) -> list[Case]:
    """Every case of a file, gzipped or not; a file's ``RMSK`` goes to each case that has none of its own."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if data[:4] != MAGIC:
        raise ValueError(f"{path} is not a MOO file")
    result, masks = [], {}
    for name, body in chunks(data):
        if name == b"RMSK":
            masks = registers(body)
        elif name == b"TEST":
            result.append(case(body))
            result[-1].masks = result[-1].masks or masks
    return result
