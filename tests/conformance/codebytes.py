"""Instruction bytes, sixteen a case, for the proof of the decoder and for fuzzing.

Half of the cases are built as instructions are (SDM Vol. 2, 2.1): prefixes, REX, an escape or a VEX, EVEX or XOP
prefix, an opcode, ModRM with its special cases, SIB with its own, and random bytes behind. A quarter is random bytes,
and the rest runs up to and across the limit of 15 bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STRIDE = 16
Bytes = NDArray[np.uint8]

LEGACY = np.array([0x66, 0x67, 0xF0, 0xF2, 0xF3, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65], "u1")
# the ways into a map: bytes before the opcode, and which of them are random (VEX, EVEX and XOP payloads)
ESCAPES = ["", "0f", "0f38", "0f3a", "c5??", "c4????", "c4e1??", "c4e2??", "c4e3??", "62??????", "8f????"]
WEIGHTS = np.array([26, 26, 12, 12, 6, 3, 3, 6, 4, 1, 1]) / 100


def put(records: Bytes, at: NDArray[np.int64], where: NDArray[np.bool_], values: Bytes) -> None:
    """Write one more byte of the records where the condition holds, and step over it."""
    rows = np.flatnonzero(where & (at < STRIDE))
    records[rows, at[rows]] = values[rows]
    at[rows] += 1


def structured(rng: np.random.Generator, n: int, bits: int) -> Bytes:
    records = rng.integers(0, 256, (n, STRIDE), "u1")
    at = np.zeros(n, "i8")
    count = rng.choice(7, n, p=[0.45, 0.25, 0.15, 0.06, 0.04, 0.03, 0.02])
    for i in range(6):
        put(records, at, count > i, rng.choice(LEGACY, n))
    if bits == 64:
        put(records, at, rng.random(n) < 0.35, rng.integers(0x40, 0x50, n).astype("u1"))
    escape = rng.choice(len(ESCAPES), n, p=WEIGHTS)
    for number, text in enumerate(ESCAPES):
        for i in range(0, len(text), 2):
            value = rng.integers(0, 256, n, "u1") if text[i] == "?" else np.full(n, int(text[i : i + 2], 16), "u1")
            put(records, at, escape == number, value)
    at += 1                                                        # the opcode is random already
    shape = rng.integers(0, 8, n)                                  # of ModRM: special cases, registers, anything
    modrm = rng.integers(0, 256, n, "u1")
    modrm = np.select([shape < 2, shape == 2, shape == 3], [modrm | 0xC0, modrm & 0xF8 | 4, modrm & 0x38 | 5], modrm)
    put(records, at, shape < 6, modrm.astype("u1"))
    sib = rng.integers(0, 256, n, "u1")
    edge = rng.integers(0, 4, n)
    put(records, at, edge < 2, np.select([edge == 0], [sib & 0xF8 | 5], sib & 0xC7 | 0x20).astype("u1"))
    return records


def near_the_limit(rng: np.random.Generator, n: int, bits: int) -> Bytes:
    """Prefixes enough to bring the instruction's end to 15 bytes or past it (SDM Vol. 2, 2.3.11)."""
    records = rng.choice(LEGACY, (n, STRIDE))
    start = rng.integers(4, 15, n)
    body = structured(rng, n, bits)
    for i in range(STRIDE):
        rows = np.flatnonzero(start + i < STRIDE)
        records[rows, start[rows] + i] = body[rows, i]
    return records


def cases(rng: np.random.Generator, n: int, bits: int) -> Bytes:
    """n cases of all kinds."""
    limit, pure = n // 4, n // 4
    parts = [structured(rng, n - limit - pure, bits), rng.integers(0, 256, (pure, STRIDE), "u1"),
             near_the_limit(rng, limit, bits)]
    return np.concatenate(parts)


def every_legacy_opcode(bits: int) -> Bytes:
    """Each opcode of the four legacy maps with each mandatory prefix, each ModRM byte, and REX.W in 64-bit mode."""
    columns = []
    for prefix in ("", "66", "f3", "f2"):
        for rex in ("", "48") if bits == 64 else ("",):
            for escape in ("", "0f", "0f38", "0f3a"):
                head = bytes.fromhex(prefix + rex + escape)
                records = np.full((65536, STRIDE), 0x11, "u1")
                records[:, : len(head)] = np.frombuffer(head, "u1")
                records[:, len(head)] = np.repeat(np.arange(256), 256)
                records[:, len(head) + 1] = np.tile(np.arange(256), 256)
                columns.append(records)
    return np.concatenate(columns)


def every_vex_opcode(rng: np.random.Generator) -> Bytes:
    """Each opcode of the three VEX maps with each pp, W and L, vvvv used or not, and eight ModRM bytes a kind."""
    head = np.array([[0xC4, 0xE0 | m, w << 7 | v << 3 | l << 2 | pp] for m in (1, 2, 3) for w in (0, 1)
                     for v in (0, 7, 15) for l in (0, 1) for pp in range(4)], "u1")
    records = rng.integers(0, 256, (len(head) * 256 * 16, STRIDE), "u1")
    records[:, :3] = np.repeat(head, 256 * 16, axis=0)
    records[:, 3] = np.tile(np.repeat(np.arange(256), 16), len(head))
    modrm = np.tile(np.concatenate([np.arange(8) << 3, np.arange(8) << 3 | 0xC0]), len(head) * 256)
    records[:, 4] = modrm | rng.integers(0, 8, len(records))
    return records
