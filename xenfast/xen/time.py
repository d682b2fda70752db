"""The machine's clock, real or virtual, and the time a guest reads from shared memory.

A guest computes its time from ``struct vcpu_time_info`` (xen/include/public/xen.h): t = system_time + (((tsc -
tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32).  The TSC of every vcpu counts the nanoseconds of the machine's
clock, so multiplier and shift say 1 GHz and the timestamps never need correction.  The wall clock in ``shared_info`` is
the time at which system time was 0.

Virtual time is instructions retired plus idle time skipped: it starts at 0 in every run, and its wall clock at a fixed
date.
"""

import struct
import time
from collections.abc import Callable
from typing import Any

from xenfast import _core
from xenfast.abi import xen

NEVER = (1 << 64) - 1
TSC_KHZ = 1_000_000
TSC_TO_SYSTEM_MUL = 0x80000000
TSC_SHIFT = 1
VIRTUAL_EPOCH_NS = 1_700_000_000 * 10**9        # 2023-11-14 22:13:20 UTC

_U32 = struct.Struct("<I")


class Clock:
    """Nanoseconds since the machine was made, in real time.  ``core`` is the same clock as the vcpus see it."""

    is_virtual = False

    def __init__(self) -> None:
        self.core = _core.MachineClock(self.is_virtual)
        self.now: Callable[[], int] = self.core.now
        self.wall_at_zero = time.time_ns()      # ns since 1970 at time 0


class VirtualClock(Clock):
    """Time that passes only as instructions are retired and idle time is skipped."""

    is_virtual = True

    def __init__(self, wall_at_zero: int = VIRTUAL_EPOCH_NS) -> None:
        super().__init__()
        self.wall_at_zero = wall_at_zero

    def advance_to(self, now: int) -> None:
        """The end of idle time (vcpus advance the clock themselves as they run)."""
        ahead = now - self.now()
        if ahead > 0:
            self.core.skip(ahead)


def write_versioned(view: memoryview, offset: int, body: bytes) -> None:
    """Write ``body`` behind the version word at ``offset``: the version is odd while the guest must not trust the
    rest.
    """
    version = _U32.unpack_from(view, offset)[0] | 1
    _U32.pack_into(view, offset, version)
    view[offset + 4:offset + 4 + len(body)] = body
    _U32.pack_into(view, offset, (version + 1) & 0xFFFFFFFF)


def time_info_body() -> bytes:
    """struct vcpu_time_info behind its version: TSC 0 was system time 0."""
    return xen.vcpu_time_info.pack(tsc_to_system_mul=TSC_TO_SYSTEM_MUL, tsc_shift=TSC_SHIFT,
                                   flags=xen.XEN_PVCLOCK_TSC_STABLE_BIT)[4:]


def write_time_info(view: memoryview, offset: int) -> None:
    write_versioned(view, offset, time_info_body())


def time_info() -> bytes:
    """A whole struct vcpu_time_info."""
    return _U32.pack(2) + time_info_body()


def write_wall_clock(view: memoryview, clock: Any, places: xen.SharedPlaces = xen.SHARED_64) -> None:
    """The wall clock of struct shared_info: wc_version, wc_sec, wc_nsec, wc_sec_hi."""
    seconds, ns = divmod(clock.wall_at_zero, 10**9)
    _U32.pack_into(view, places.wc_sec_hi, seconds >> 32 & 0xFFFFFFFF)
    write_versioned(view, places.wall_clock, struct.pack("<II", seconds & 0xFFFFFFFF, ns))
