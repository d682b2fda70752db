"""Which flags a case leaves undefined: where the SDM defines no value, the translator has the host's and the interpreter its own.

The case is played one instruction at a time, and each one's flags are looked up in iced-x86's tables (after the SDM's
"Flags Affected").  Without iced-x86 every arithmetic flag counts as undefined.
"""

from __future__ import annotations

from tests.fuzz import play
from tests.fuzz.cases import MODES, Case
from xenfast._core import ExitReason

try:
    from iced_x86 import Decoder
except ImportError:
    Decoder = None

ARITH = 0x8D5
BITS = {1: 0x800, 2: 0x80, 4: 0x40, 8: 0x10, 0x10: 0x01, 0x20: 0x04}        # iced's RflagsBits -> RFLAGS
COUNTED = (0xC0, 0xC1, 0xD0, 0xD1, 0xD2, 0xD3)                              # a shift by 0 changes no flag


def flags_of(bits: int) -> int:
    return sum(flag for bit, flag in BITS.items() if bits & bit)


def undefined(case: Case, board: play.Board) -> tuple[int, bool]:
    """(arithmetic flags that are undefined at the end, whether somebody has looked at one that was)."""
    if Decoder is None:
        return ARITH, True
    v = board.load(case, "steps")
    mask, seen = 0, False
    bits = MODES[case.mode][0]
    for entry in range(play.ENTRIES):
        end = v.instructions + case.budget
        reason = ExitReason.EXIT_BUDGET
        while v.instructions < end and reason == ExitReason.EXIT_BUDGET:
            at = v.rip + (0 if bits == 64 else v.segment("cs")[1])
            instruction = Decoder(bits, bytes(board.view[at : at + 15])).decode() if at + 15 <= len(board.view) else None
            before = v.rip
            reason = v.run(1)
            if reason != ExitReason.EXIT_BUDGET:
                continue                                                    # it has not been done
            if instruction is None:
                seen = seen or mask != 0
                continue
            went = v.rip - before
            if mask and (flags_of(instruction.rflags_read) & mask or not 0 < went <= 15):
                seen = True                                                 # read, pushed (a handler may be what faults), or we cannot tell
            counted = any(byte in COUNTED for byte in board.view[at : at + 4]) or instruction.has_rep_prefix or instruction.has_repne_prefix
            if not counted:
                mask &= ~flags_of(instruction.rflags_modified)
            mask |= flags_of(instruction.rflags_undefined)
        if not play.answer(v, case, entry, reason):
            break
    return mask, seen
