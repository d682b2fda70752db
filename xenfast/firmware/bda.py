"""Where a BIOS keeps its data: the interrupt vectors, the BIOS data area at 400h and the extended one below 640 KiB.

Names and offsets are those of the IBM PC/AT and PS/2 technical references and of Ralf Brown's memory list.  ``Area`` reads and
writes them by name, through the guest's own view of memory (a DOS with EMM386 runs in virtual-8086 mode over the same pages).
"""

from typing import Any

BDA = 0x400
EBDA_SEGMENT = 0x9FC0
EBDA = EBDA_SEGMENT << 4
BASE_KIB = 639              # of conventional memory; the last KiB of 640 is the EBDA

# name -> (offset from 400h, size)
FIELDS = {
    "com": (0x00, 2), "lpt": (0x08, 2),             # [0..3], [0..2]: base ports
    "ebda": (0x0E, 2), "equipment": (0x10, 2), "memory_kib": (0x13, 2),
    "kbd_flags": (0x17, 1), "kbd_flags2": (0x18, 1), "kbd_alt": (0x19, 1),
    "kbd_head": (0x1A, 2), "kbd_tail": (0x1C, 2),   # the buffer of 16 words is at 1Eh
    "fdd_recalibrate": (0x3E, 1), "fdd_motor": (0x3F, 1), "fdd_timeout": (0x40, 1), "fdd_status": (0x41, 1),
    "fdd_result": (0x42, 1),                        # [0..6]: what the controller answered
    "video_mode": (0x49, 1), "video_columns": (0x4A, 2), "cursor": (0x50, 2), "video_page": (0x62, 1),
    "reset_vector": (0x67, 4),
    "ticks": (0x6C, 4), "midnight": (0x70, 1), "ctrl_break": (0x71, 1), "reset_flag": (0x72, 2),
    "hdd_status": (0x74, 1), "hdd_count": (0x75, 1), "hdd_control": (0x76, 1),
    "lpt_timeout": (0x78, 1), "com_timeout": (0x7C, 1),
    "kbd_start": (0x80, 2), "kbd_end": (0x82, 2), "video_rows": (0x84, 1),
    "fdd_rate": (0x8B, 1), "hdd_interrupt": (0x8E, 1), "fdd_info": (0x8F, 1), "fdd_state": (0x90, 1), "fdd_track": (0x94, 1),
    "kbd_flags3": (0x96, 1), "kbd_leds": (0x97, 1),
    "wait_pointer": (0x98, 4), "wait_us": (0x9C, 4), "wait_flag": (0xA0, 1),
    "print_screen": (0x100, 1),
}   # fmt: skip

KBD_BUFFER, KBD_BUFFER_END = 0x1E, 0x3E     # offsets in segment 40h

# of the EBDA: bytes of ours at the same places as PS/2 BIOSes have them
EBDA_FIELDS = {
    "size_kib": (0x00, 1),
    "mouse_handler": (0x22, 4), "mouse_flag1": (0x26, 1), "mouse_flag2": (0x27, 1),
    "mouse_data": (0x28, 1),                # [0..7]
    "fdpt0": (0x3D, 1), "fdpt1": (0x4D, 1),         # fixed disk parameters, 16 bytes each
    "dpt": (0x60, 1),                               # diskette parameters, 11 bytes
    "dpte": (0x70, 1),                              # EDD device parameter table extension, 16 bytes
    "boot_specification": (0x90, 1),                # El Torito specification packet, 19 bytes
    "apm": (0xB0, 1),                               # interface connected: 0 none, 1 real, 2 16-bit, 3 32-bit
}

# interrupt vectors that are pointers to data
VECTOR_DPT, VECTOR_HD0, VECTOR_HD1 = 0x1E, 0x41, 0x46


class Area:
    """The BIOS data area as attributes: ``bda.ticks``, ``bda.ticks = 0``; ``bda.get("com", 1)`` is the second word of an array."""

    _mem: Any
    _base: int
    _fields: dict[str, tuple[int, int]]

    def __init__(self, mem: Any, base: int = BDA, fields: dict[str, tuple[int, int]] = FIELDS) -> None:
        object.__setattr__(self, "_mem", mem)
        object.__setattr__(self, "_base", base)
        object.__setattr__(self, "_fields", fields)

    def __getattr__(self, name: str) -> int:
        try:
            offset, size = self._fields[name]
        except KeyError:
            raise AttributeError(name) from None
        return self._mem.read_int(self._base + offset, size)

    def __setattr__(self, name: str, value: int) -> None:
        offset, size = self._fields[name]
        self._mem.write_int(self._base + offset, size, value)

    def address(self, name: str, index: int = 0) -> int:
        """Linear address of a field."""
        offset, size = self._fields[name]
        return self._base + offset + index * size

    def get(self, name: str, index: int) -> int:
        return self._mem.read_int(self.address(name, index), self._fields[name][1])

    def put(self, name: str, index: int, value: int) -> None:
        self._mem.write_int(self.address(name, index), self._fields[name][1], value)


def ebda(mem: Any) -> Area:
    """The extended BIOS data area: where the BDA says (a boot manager may have moved it)."""
    return Area(mem, mem.read_int(BDA + 0x0E, 2) << 4, EBDA_FIELDS)


def vector(mem: Any, number: int) -> int:
    """An interrupt vector: segment in the upper half."""
    return mem.read_int(number * 4, 4)


def set_vector(mem: Any, number: int, segment: int, offset: int) -> None:
    mem.write_int(number * 4, 4, segment << 16 | offset)
