"""Memory types of a processor as firmware leaves them: write-back, but for the VGA's memory and the holes where devices are.

Specified in SDM Vol. 3, 11.11.  A hole is covered by few ranges, each a power of two of bytes at a multiple of its size.
"""

DEF_TYPE, FIXED_64K, FIXED_16K, FIXED_4K, VARIABLE = 0x2FF, 0x250, 0x258, 0x268, 0x200
UNCACHEABLE, WRITE_BACK = 0, 6
ENABLED, FIXED_ENABLED = 1 << 11, 1 << 10
VALID = 1 << 11
RANGES = 8                      # that a vcpu has


def every(kind: int) -> int:
    """Eight fixed ranges of one type."""
    return kind * 0x0101010101010101


def ranges(start: int, end: int) -> list[tuple[int, int]]:
    """(first byte, bytes) of naturally aligned powers of two that cover a range."""
    found = []
    while start < end:
        size = min(start & -start or 1 << 62, 1 << (end - start).bit_length() - 1)
        found.append((start, size))
        start += size
    return found


def registers(hole: tuple[int, int], high_hole: tuple[int, int] | None = None, address_bits: int = 46) -> list[tuple[int, int]]:
    """(MSR, value) to write, in this order.  ``hole`` is the PCI window below 4 GiB, first byte and end; the other is above."""
    found = [(FIXED_64K, every(WRITE_BACK)), (FIXED_16K, every(WRITE_BACK)), (FIXED_16K + 1, every(UNCACHEABLE))]
    found += [(FIXED_4K + n, every(WRITE_BACK)) for n in range(8)]
    pieces = ranges(hole[0], 1 << 32)       # devices, APICs and ROM behind it
    if high_hole:
        pieces += ranges(*high_hole)
    mask = (1 << address_bits) - 1
    for n, (start, size) in enumerate(pieces[:RANGES]):
        found += [(VARIABLE + 2 * n, start | UNCACHEABLE), (VARIABLE + 2 * n + 1, -size & mask | VALID)]
    found.append((DEF_TYPE, ENABLED | FIXED_ENABLED | WRITE_BACK))
    return found
