"""The Plug and Play BIOS's entry and the POST memory manager, as much of them as option ROMs and boot loaders use.

PnP BIOS Specification 1.0A: the installation check is in ROM; of the functions there is the version of the BIOS Boot Specification
(60h), as there are no configurable ISA devices.  POST Memory Manager 1.01: blocks below 1 MiB and above.
"""

from typing import Any

from xenfast.firmware.traps import Call

FUNCTION_NOT_SUPPORTED = 0x82
BBS_VERSION = 0x0101
PMM_ALLOCATE, PMM_FIND, PMM_FREE = 0, 1, 2
CONVENTIONAL, EXTENDED, ALIGN = 1, 2, 4
ANONYMOUS = 0xFFFFFFFF
PARAGRAPH = 16
LOW = (0x10000, 0x80000)
HIGH_SIZE = 16 << 20            # of the pool above 1 MiB, at the end of RAM below 4 GiB; a quarter of it in small machines


def pnp(call: Call) -> None:
    """Far call with the function and its arguments on the stack; AX is the status."""
    call.flags_at = None
    arguments = call.stack_linear() + 4
    if call.mem.read_int(arguments, 2) == 0x60:
        segment, offset = call.mem.read_int(arguments + 4, 2), call.mem.read_int(arguments + 2, 2)
        call.mem.write_int((segment << 4) + offset, 2, BBS_VERSION)
        call.ax = 0
    else:
        call.ax = FUNCTION_NOT_SUPPORTED


class MemoryManager:
    """Blocks of two pools; ``e820`` tells where RAM ends."""

    def __init__(self, e820: Any) -> None:
        self.e820 = e820
        self.blocks: dict[int, tuple[int, int]] = {}            # address -> size, handle

    def pmm(self, call: Call) -> None:
        """Far call with the function and its arguments on the stack; DX:AX is the answer."""
        call.flags_at = None
        raw = call.mem.read(call.stack_linear() + 4, 12)
        function, first, second = (int.from_bytes(raw[a:b], "little") for a, b in ((0, 2), (2, 6), (6, 10)))
        if function == PMM_ALLOCATE:
            value = self.allocate(first, second, int.from_bytes(raw[10:12], "little"))
        elif function == PMM_FIND:
            value = next((at for at, (_, handle) in self.blocks.items() if handle == first != ANONYMOUS), 0)
        elif function == PMM_FREE:
            value = 0 if self.blocks.pop(first, None) else 1
        else:
            value = ANONYMOUS
        call.ax, call.dx = value, value >> 16

    def _high_pool(self) -> tuple[int, int]:
        end = max((start + size for start, size, kind in self.e820() if kind == 1 and start + size <= 1 << 32), default=0)
        size = min(HIGH_SIZE, end // 4)
        return max(end - size, 1 << 20), end

    def allocate(self, paragraphs: int, handle: int, flags: int) -> int:
        """0 where there is no room; with no paragraphs, the size of the largest free block."""
        pools = [LOW] if flags & 3 == CONVENTIONAL else [self._high_pool()] if flags & 3 == EXTENDED else [self._high_pool(), LOW]
        if not flags & 3:
            return 0
        if not paragraphs:
            return max(end - start for pool in pools for start, end in self._free(pool)) // PARAGRAPH
        size = paragraphs * PARAGRAPH
        align = paragraphs & -paragraphs if flags & ALIGN else 1
        for pool in pools:
            for start, end in reversed(self._free(pool)):
                at = (end - size) // (align * PARAGRAPH) * (align * PARAGRAPH)
                if at >= start and at > 0:
                    self.blocks[at] = size, handle
                    return at
        return 0

    def _free(self, pool: tuple[int, int]) -> list[tuple[int, int]]:
        """Gaps in a pool; there is always one, if an empty one."""
        gaps = []
        at, end = pool
        for address, (size, _) in sorted(self.blocks.items()):
            if pool[0] <= address < end:
                gaps.append((at, address))
                at = address + size
        return [*gaps, (at, end)]
