"""The page walk against Unicorn (QEMU's translator): random tables and accesses as in tests/cpu/test_paging_walks.

There they are compared with a reference from the SDM, here with somebody else's walk: fault or not, error code, CR2,
and the A and D bits left behind.  ``XENFAST_PAGING_CASES`` and ``XENFAST_PAGING_SEED`` are as there.
"""

from __future__ import annotations

import ctypes
import os
import random
import struct

import pytest

from tests.conformance.second_oracle import descriptor
from tests.cpu import paging_random
from tests.cpu.paging_machine import CODE, CODE_FRAME, DATA, MEMORY, MODES, PS, A, PagingMachine
from tests.cpu.paging_reference import FETCH, READ, WRITE, Outcome

unicorn = pytest.importorskip("unicorn")
x86 = pytest.importorskip("unicorn.x86_const")
CASES = int(os.environ.get("XENFAST_PAGING_CASES", "1500"))
SEED = int(os.environ.get("XENFAST_PAGING_SEED", "20241"))
GDT, LOW_CODE, STACK, CALIBRATION = 0x2000, 0x3000, 0x5000, 0x6000
WRPKRU, NOPS = 0x3800, 0x9090909090909090
STUB = {READ: 0, WRITE: 16}


class UnicornWalks:
    """Unicorn in one ring of one width, with the stub code where PagingMachine has it."""

    def __init__(self, bits: int, ring: int) -> None:
        self.bits = bits
        prefix = "UC_X86_REG_" + ("R" if bits == 64 else "E")
        self.register = {name: getattr(x86, prefix + name) for name in ("AX", "BX", "SP", "IP")}
        self.uc = uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64 if bits == 64 else unicorn.UC_MODE_32)
        uc.ctl_set_cpu_model(x86.UC_CPU_X86_ICELAKE_SERVER)
        uc.mem_map(0, MEMORY)
        self.seen: list[int] = []
        uc.hook_add(unicorn.UC_HOOK_INTR, lambda uc, n, _: (self.seen.append(n), uc.emu_stop()))
        code, data = (0x20, 0x18) if ring else (0x08, 0x10)
        flags = 0xA if bits == 64 else 0xC
        rows = (0, descriptor(10, 0, flags=flags), descriptor(2), descriptor(2, 3), descriptor(10, 3, flags=flags))
        uc.mem_write(GDT, struct.pack("<5Q", *rows))
        uc.reg_write(x86.UC_X86_REG_GDTR, (0, GDT, 39, 0))
        frame = (CODE_FRAME, code | ring, 2, STACK, data | ring)
        uc.mem_write(STACK - 40, struct.pack("<5Q" if bits == 64 else "<5I", *frame))
        uc.reg_write(self.register["SP"], STACK - 40)
        uc.mem_write(LOW_CODE, bytes.fromhex("48cf" if bits == 64 else "cf"))
        if bits == 32:  # from the flat code Unicorn begins with to a GDT's
            uc.mem_write(LOW_CODE - 16, b"\xea" + struct.pack("<IH", LOW_CODE, 8))
            uc.emu_start(LOW_CODE - 16, LOW_CODE, count=1)
            uc.reg_write(x86.UC_X86_REG_SS, 0x10)
        if ring == 0 and bits == 32:
            uc.mem_write(STACK - 40, struct.pack("<3I", *frame[:3]))
        uc.emu_start(LOW_CODE, CODE_FRAME, count=1)
        assert not self.seen and uc.reg_read(self.register["IP"]) == CODE_FRAME, self.seen
        uc.mem_write(CODE_FRAME, bytes.fromhex("488b03" if bits == 64 else "8b03"))
        uc.mem_write(CODE_FRAME + 16, bytes.fromhex("488903" if bits == 64 else "8903"))
        uc.mem_write(WRPKRU, bytes.fromhex("0f01ef"))
        uc.mem_write(DATA, b"\x90" * (MEMORY - DATA))  # what a fetch finds, and a write leaves: NOPs
        uc.reg_write(self.register["AX"], NOPS & ((1 << bits) - 1))
        self.clean = uc.context_save()
        self.error_at = self._find_error_code(ring)

    def _context(self) -> bytes:
        context = self.uc.context_save()
        return ctypes.string_at(context.context, context.size)

    def _find_error_code(self, ring: int) -> int:
        """Where Unicorn's context has the error code, after faults with three of them."""
        images = []
        user = 4 if ring else 0
        for entry, kind, error in ((0, READ, user), (0, WRITE, user | 2), (5, WRITE, user | 3)):
            r = paging_random.Registers(pae=self.bits == 64, lma=self.bits == 64, cr3=0x100000)
            table, size = 0x100000, 8 if self.bits == 64 else 4
            for _ in range(4 if self.bits == 64 else 2):
                self.uc.mem_write(table, (table + 0x1000 | 7).to_bytes(size, "little"))
                table += 0x1000
            table -= 0x1000
            for i in range(16):
                self.uc.mem_write(table + i * size, (i << 12 | 7 if ring else i << 12 | 3).to_bytes(size, "little"))
            self.uc.mem_write(table + (CALIBRATION >> 12) * size, (CALIBRATION | entry).to_bytes(size, "little"))
            self._start(r)
            self.uc.reg_write(self.register["BX"], CALIBRATION)
            at = CODE_FRAME + STUB[kind]
            self.uc.emu_start(at, at + 3, count=1)
            assert self.seen == [14], self.seen
            images.append((error, self._context()))
        found = [
            i
            for i in range(0, len(images[0][1]) - 4, 4)
            if all(struct.unpack_from("<I", image, i)[0] == error for error, image in images)
        ]
        assert found, "Unicorn's context holds no error code"
        return found[-1]

    def _start(self, r: paging_random.Registers) -> None:
        uc = self.uc
        uc.context_restore(self.clean)
        uc.reg_write(x86.UC_X86_REG_CR0, 0x11)
        uc.msr_write(0xC0000080, r.nxe << 11 | (0x100 if r.lma else 0))
        uc.reg_write(x86.UC_X86_REG_CR4, PagingMachine.cr4(r))
        if r.pke:  # PKRU is no register of Unicorn's interface
            uc.reg_write(self.register["AX"], r.pkru)
            uc.emu_start(WRPKRU, WRPKRU + 3, count=1)
            uc.reg_write(self.register["AX"], NOPS & ((1 << self.bits) - 1))
        uc.reg_write(x86.UC_X86_REG_CR3, r.cr3)
        uc.reg_write(x86.UC_X86_REG_CR0, PagingMachine.cr0(r))
        uc.reg_write(x86.UC_X86_REG_EFLAGS, 2 | r.ac << 18)
        self.seen.clear()

    def access(self, machine: PagingMachine, case: paging_random.Case) -> tuple[Outcome, dict[int, int]]:
        """The outcome (with a physical address of -1: not told), and the entries afterwards."""
        uc = self.uc
        for at, (value, size) in case.entries.items():
            uc.mem_write(at, value.to_bytes(size, "little"))
        for at in (*range(0x10000, 0x16000, 0x1000), case.r.cr3 & ~0xFFF):  # what maps the code
            size = 0x1000 if at == case.r.cr3 & ~0xFFF else 8
            uc.mem_write(at + 0x1000 - 8, bytes(machine.ram[at + 0x1000 - 8 : at + 0x1000]))
            uc.mem_write(at, bytes(machine.ram[at : at + min(size, 32)]))
        self._start(case.r)
        uc.reg_write(self.register["BX"], case.linear)
        at = case.linear if case.access == FETCH else CODE[paging_mode(case)] + STUB[case.access]
        outside = False
        try:
            uc.emu_start(at, at + 1, count=1)
        except unicorn.UcError as error:
            outside = error.errno in (6, 7, 8)
            assert outside, error
        entries = {at: int.from_bytes(uc.mem_read(at, size), "little") for at, (_, size) in case.entries.items()}
        if self.seen[:1] == [14] and not outside:
            assert uc.reg_read(x86.UC_X86_REG_CR2) == case.linear
            return Outcome(error=struct.unpack_from("<I", self._context(), self.error_at)[0]), entries
        return Outcome(physical=-1), entries


def paging_mode(case: paging_random.Case) -> str:
    r = case.r
    return "32" if not r.pae else "pae" if not r.lma else "5level" if r.la57 else "4level"


def explained(
    case: paging_random.Case, want: Outcome, ours: Outcome, entries: dict[int, int], got: dict[int, int]
) -> str | None:
    """Why the outcomes differ, where Unicorn's is not the SDM's; "the same" when they do not, None for no reason."""
    if entries != got:
        # Tables 4-15 and 4-19: A says that the page has been accessed.  Unicorn sets that of a 1-GByte page before it
        # has looked at the rights.
        changed = [at for at in got if entries[at] != got[at]]
        if (
            ours.error is None
            or len(changed) != 1
            or entries[changed[0]] != got[changed[0]] | A
            or not got[changed[0]] & PS
        ):
            return None
        if want.error in (ours.error, 0 if case.access == FETCH else ours.error):
            return "accessed without rights"
    if want.error == ours.error:
        return "the same"
    if case.access == FETCH and want.error == 0 and ours.error is not None:
        return "no error code"  # of a fetch Unicorn tells that it faults, no more
    return None


@pytest.mark.parametrize("mode", MODES)
def test_random_walks(mode):
    """Fault or not, error code, CR2, A and D are Unicorn's."""
    rng = random.Random(f"{mode} {SEED}")
    bits = 64 if "level" in mode else 32
    theirs = {user: UnicornWalks(bits, 3 if user else 0) for user in (False, True)}
    machine = PagingMachine()
    wrong: list[str] = []
    seen: dict[str | None, int] = {}
    for i in range(CASES):
        case = paging_random.case(rng, mode)
        case.r.pse36 = case.r.page1gb = True  # Unicorn's processor has both
        for at, (value, size) in case.entries.items():
            machine.store(at, value, size)
        machine.set(case.r, case.user)
        want, entries = theirs[case.user].access(machine, case)
        expected = case.expected(machine.load)
        text = machine.access(case.access, case.linear, 0x1122334455667788, expected)
        assert text is None, text  # test_paging_walks has more to say
        got = {at: machine.load(at, size) for at, (_, size) in case.entries.items()}
        rule = explained(case, want, expected, entries, got)
        seen[rule] = seen.get(rule, 0) + 1
        if rule is None:
            wrong.append(
                f"case {i}: Unicorn says {want.error} and leaves {entries}, we {expected.error}, {got}\n{case}"
            )
    assert not wrong, f"seed {SEED}: {len(wrong)} of {CASES} differ\n" + "\n".join(wrong[:10])
    assert seen["the same"] > CASES // 3
    if mode == "4level":
        assert {"accessed without rights", "no error code"} <= seen.keys(), sorted(seen, key=str)
