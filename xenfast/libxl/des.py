"""DES, for the one thing that still needs it: the challenge of RFB's password.

Specified by FIPS 46-3.  VNC's key is the password with the bits of each byte reversed (RFC 6143, 7.2.2 says only "DES"; every
implementation does it so).  Slow and weak; nothing else is to use it.
"""

from __future__ import annotations

# Tables of FIPS 46-3; bits are numbered from 1 on the left
INITIAL = tuple(64 - 8 * (i % 8) + (2, 4, 6, 8, 1, 3, 5, 7)[i // 8] - 8 for i in range(64))
FINAL = tuple(INITIAL.index(i) + 1 for i in range(1, 65))
EXPAND = tuple((4 * (i // 6) + i % 6 - 1) % 32 + 1 for i in range(48))
P = (16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10, 2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25)
PC1 = (57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18, 10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60, 52, 44, 36,
       63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37, 29, 21, 13, 5, 28, 20, 12, 4)
PC2 = (14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2,
       41, 52, 31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32)
SHIFTS = (1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1)
# S1 to S8, four rows of 16 each
BOXES = tuple(tuple(int(digit, 16) for digit in rows) for rows in (
    "e4d12fb83a6c5907" + "0f74e2d1a6cb9538" + "41e8d62bfc973a50" + "fc8249175b3ea06d",
    "f18e6b34972dc05a" + "3d47f28ec01a69b5" + "0e7ba4d158c6932f" + "d8a13f42b67c05e9",
    "a09e63f51dc7b428" + "d709346a285ecbf1" + "d6498f30b12c5ae7" + "1ad069874fe3b52c",
    "7de3069a1285bc4f" + "d8b56f03472c1ae9" + "a690cb7df13e5284" + "3f06a1d8945bc72e",
    "2c417ab6853fd0e9" + "eb2c47d150fa3986" + "421bad78f9c5630e" + "b8c71e2d6f09a453",
    "c1af92680d34e75b" + "af427c9561de0b38" + "9ef528c3704a1db6" + "432c95fabe17608d",
    "4b2ef08d3c975a61" + "d0b7491ae35c2f86" + "14bdc37eaf680592" + "6bd814a7950fe23c",
    "d2846fb1a93e50c7" + "1fd8a374c56b0e92" + "7b419ce206adf358" + "21e74a8dfc90356b",
))


def _permute(value: int, size: int, table: tuple[int, ...]) -> int:
    out = 0
    for bit in table:
        out = out << 1 | value >> size - bit & 1
    return out


def _keys(key: int) -> list[int]:
    halves = _permute(key, 64, PC1)
    c, d = halves >> 28, halves & 0xFFFFFFF
    keys = []
    for shift in SHIFTS:
        c = (c << shift | c >> 28 - shift) & 0xFFFFFFF
        d = (d << shift | d >> 28 - shift) & 0xFFFFFFF
        keys.append(_permute(c << 28 | d, 56, PC2))
    return keys


def _round(half: int, key: int) -> int:
    mixed = _permute(half, 32, EXPAND) ^ key
    out = 0
    for i, box in enumerate(BOXES):
        six = mixed >> 42 - 6 * i & 0x3F
        out = out << 4 | box[(six >> 4 & 2 | six & 1) * 16 + (six >> 1 & 15)]
    return _permute(out, 32, P)


def encrypt(key: bytes, data: bytes) -> bytes:
    """Blocks of 8 bytes, each by itself."""
    keys = _keys(int.from_bytes(key, "big"))
    out = b""
    for at in range(0, len(data), 8):
        block = _permute(int.from_bytes(data[at:at + 8], "big"), 64, INITIAL)
        left, right = block >> 32, block & 0xFFFFFFFF
        for subkey in keys:
            left, right = right, left ^ _round(right, subkey)
        out += _permute(right << 32 | left, 64, FINAL).to_bytes(8, "big")
    return out


def vnc_response(password: str, challenge: bytes) -> bytes:
    """What a client that knows the password answers; eight characters count."""
    key = password.encode("latin-1", "replace")[:8].ljust(8, b"\0")
    return encrypt(bytes(int(f"{byte:08b}"[::-1], 2) for byte in key), challenge)
