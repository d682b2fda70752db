"""SharedWords: every access is one atomic operation, also against a guest's LOCKed instructions on another thread."""

import struct
import threading

import pytest

from tests.xen.pvguest import CODE, DATA, PvGuest
from xenfast._core import ExitReason, SharedWords
from xenfast.xen.hypervisor import Hypervisor


def test_operations():
    """Bits, loads, stores, or, and, compare-and-swap, by the width in the name."""
    data = bytearray(16)
    words = SharedWords(data)
    assert not words.test_and_set_bit(35)
    assert words.test_and_set_bit(35)
    assert (words.test_bit(35), words.test_bit(34)) == (True, False)
    assert words.load32(1) == 8
    assert words.test_and_clear_bit(35)
    assert not words.test_and_clear_bit(35)
    words.store32(2, 0x12345678)
    assert (words.load16(4), words.load16(5)) == (0x5678, 0x1234)
    words.or16(4, 0x8000)
    words.and16(4, 0xFF00)
    assert bytes(data[8:12]) == struct.pack("<I", 0x1234D600)
    assert not words.cas32(2, 0, 1)
    assert words.cas32(2, 0x1234D600, 1)
    assert words.load32(2) == 1


@pytest.mark.parametrize("access", [("test_bit", 128), ("load16", 8), ("load32", 4), ("load32", (1 << 64) - 1)], ids=str)
def test_bounds(access):
    """An access beyond the end is an IndexError."""
    name, index = access
    with pytest.raises(IndexError):
        getattr(SharedWords(bytearray(16)), name)(index)


def test_no_bit_is_lost_against_a_guest():
    """A guest clears one bit and flips another of a byte with LOCKed instructions while the host sets and clears others."""
    with Hypervisor(1) as hv:
        guest = PvGuest(hv)
        guest.code(
            b"\x48\xbf" + struct.pack("<Q", guest.va(DATA))     # mov rdi, DATA
            + b"\xf0\x0f\xba\x37\x03"                           # again: lock btr dword [rdi], 3
            + b"\x49\x83\xd6\x00"                               # adc r14, 0
            + b"\xf0\x0f\xba\x3f\x04"                           # lock btc dword [rdi], 4
            + b"\x49\xff\xc5"                                   # inc r13
            + b"\xeb\xed"                                       # jmp again
        )
        core, words = guest.core, SharedWords(hv.memory.view(guest.mfn[DATA]))
        core.rip, core.r13, core.r14 = guest.va(CODE), 0, 0
        thread = threading.Thread(target=core.run)
        thread.start()
        was_set = 0
        for i in range(20_000):
            was_set += not words.test_and_set_bit(3)
            assert words.test_and_set_bit(5) is False
            assert words.test_and_clear_bit(5) is True
            if i % 1000 == 0:
                words.or16(0, 0x100)
        core.kick(1)
        thread.join()
        assert core.exit_reason == ExitReason.EXIT_STOP
        assert was_set == core.r14 + words.test_bit(3)
        # The run may have ended between the BTC and the INC.
        assert words.test_bit(4) == core.r13 & 1 or core.rip != guest.va(CODE) + 10
        assert words.test_bit(8)
