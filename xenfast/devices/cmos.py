"""What a BIOS expects in the CMOS memory beside the clock: drives, equipment, sizes of memory.

IBM PC/AT Technical Reference, "Real-Time Clock/CMOS RAM Information"; registers 30h to 35h and 5Bh to 5Fh are what firmware for virtual
machines reads.
"""

from collections.abc import Sequence

from xenfast.xen.hvm.rtc import Rtc

SHUTDOWN, FLOPPIES, DISKS, EQUIPMENT = 0x0F, 0x10, 0x12, 0x14
BASE_MEMORY, EXTENDED_MEMORY, EXTENDED_AGAIN, ABOVE_16M, ABOVE_4G, PROCESSORS = 0x15, 0x17, 0x30, 0x34, 0x5B, 0x5F
EQUIPMENT_FLOPPY, EQUIPMENT_FPU, EQUIPMENT_MOUSE = 0x01, 0x02, 0x04
NO_FLOPPY, FLOPPY_1440 = 0, 4
DISK_EXTENDED = 15                      # the type is in another byte: 19h, 1Ah
DISK_USER_DEFINED = 47
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def fill(rtc: Rtc, low: int, high: int, floppies: Sequence[int], disks: Sequence[bool], vcpus: int) -> None:
    """``low`` and ``high`` are the ends of RAM below and above 4 GiB, ``floppies`` the types of two drives, ``disks`` which of two
    IDE disks there are.
    """
    cmos = rtc.cmos
    a, b = (*floppies, NO_FLOPPY, NO_FLOPPY)[:2]
    count = (a != NO_FLOPPY) + (b != NO_FLOPPY)
    cmos[FLOPPIES] = a << 4 | b
    cmos[EQUIPMENT] = EQUIPMENT_FPU | EQUIPMENT_MOUSE | (EQUIPMENT_FLOPPY | count - 1 << 6 if count else 0)
    first, second = (*disks, False, False)[:2]
    cmos[DISKS] = (DISK_EXTENDED << 4 if first else 0) | (DISK_EXTENDED if second else 0)
    cmos[0x19], cmos[0x1A] = (DISK_USER_DEFINED if first else 0), (DISK_USER_DEFINED if second else 0)
    extended = min(max(low - MIB, 0) // KIB, 0xFFFF)
    for register, value, size in (
        (BASE_MEMORY, 640, 2), (EXTENDED_MEMORY, extended, 2), (EXTENDED_AGAIN, extended, 2),
        (ABOVE_16M, min(max(low - 16 * MIB, 0) >> 16, 0xFFFF), 2), (ABOVE_4G, max(high - 4 * GIB, 0) >> 16 & 0xFFFFFF, 3),
        (PROCESSORS, vcpus - 1 & 0xFF, 1),
    ):  # fmt: skip
        cmos[register:register + size] = value.to_bytes(size, "little")
    rtc.set_checksum()
