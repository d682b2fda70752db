"""Bounce frames, upcalls, system calls, iret and privileged instructions of a PV guest, run as code of the guest's own."""

import struct

import pytest

from tests.cpu.pvguest import EINVAL, RW, US, P, PvGuest, audit
from xenfast._core import ExitReason, PvCrash

FLAT_CS64, FLAT_CS32, FLAT_SS = 0xE033, 0xE023, 0xE02B
IF, DF, AC, NT, TF, IOPL1 = 0x200, 0x400, 0x40000, 0x4000, 0x100, 0x1000
SYSCALL, INT3, UD2, HLT, NOP = b"\x0f\x05", b"\xcc", b"\x0f\x0b", b"\xf4", b"\x90"
HANDLER = 0x800                  # offset of the handlers in the code page
USER_RIP = 0x400000


class TrapGuest(PvGuest):
    """Adds a user address space (code at USER_RIP, stack above it) and handlers that runs stop at."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        l1, l2, l3, l4, self.user_code, self.user_data = range(40, 46)
        for i in (l1, l2, l3, l4):
            self.readonly(i)
        m = self.mfn
        self.table(m[l1])[0] = m[self.user_code] << 12 | P | US | RW
        self.table(m[l1])[1] = m[self.user_data] << 12 | P | US | RW
        self.table(m[l2])[2], self.table(m[l3])[0], self.table(m[l4])[0] = m[l1] << 12 | 7, m[l2] << 12 | 7, m[l3] << 12 | 7
        assert self.mmuext(3, m[l4]) == 0
        assert self.mmuext(15, m[l4]) == 0
        self.handler = self.va(self.CODE) + HANDLER
        self.top = self.va(self.STACK) + 4096
        self.vcpu.set_kernel_stack(FLAT_SS, self.top)
        self.vcpu.until = self.handler
        self.vcpu.exact = True

    def run(self, code, user=False, budget=1000, **registers):
        """Run code; by default until the handler is reached."""
        if user:
            self.code(code, self.user_code)
            self.vcpu.kernel_mode = False
            self.vcpu.rip, self.vcpu.rsp = USER_RIP, USER_RIP + 0x2000
        else:
            self.code(code)
            self.vcpu.kernel_mode = True
            assert self.vcpu.load_segments() == 0
            self.vcpu.rip, self.vcpu.rsp = self.va(self.CODE), self.top - 256
        for name, value in registers.items():
            setattr(self.vcpu, name, value)
        return ExitReason(self.vcpu.run(budget))

    def frame(self, error=False, data=False):
        """The frame at RSP, by name."""
        names = ["rcx", "r11"] + ["ds", "es", "fs", "gs"] * data + ["error"] * error + ["rip", "cs", "rflags", "rsp", "ss"]
        values = self.peek(self.vcpu.rsp, f"<{len(names)}Q")
        return dict(zip(names, values, strict=True))

    def iret(self, rip, cs, rflags, rsp, ss, flags=0, rax=0, r11=0, rcx=0):
        """Put an iret frame on the stack; the code that uses it is IRET."""
        at = self.top - 1024
        self.poke(at, "<9Q", rax, r11, rcx, flags, rip, cs, rflags, rsp, ss)
        return at


IRET = b"\xb8\x17\0\0\0" + SYSCALL       # mov eax, 23; syscall


@pytest.fixture
def guest():
    g = TrapGuest()
    yield g
    audit(g)


def test_exception_in_the_kernel(guest):
    """The frame goes below the kernel's stack, aligned to 16; CS shows ring 0 and the upcall mask, RFLAGS shows the mask as IF."""
    guest.vcpu.set_trap(6, guest.handler)
    guest.vcpu.upcall_mask = False
    assert guest.run(UD2, rcx=1, r11=2, rsp=guest.top - 123) is ExitReason.EXIT_UNTIL
    frame = guest.frame()
    assert frame["rip"] == guest.va(guest.CODE)
    assert frame["cs"] == FLAT_CS64 & ~3
    assert frame["ss"] == FLAT_SS and frame["rsp"] == guest.top - 123
    assert (frame["rcx"], frame["r11"]) == (1, 2)
    assert frame["rflags"] & IF
    assert guest.vcpu.rsp == (guest.top - 123 & ~15) - 7 * 8
    assert not guest.vcpu.upcall_mask


def test_trap_that_masks_upcalls(guest):
    """With TI_GET_IF the handler starts with upcalls masked; the frame keeps what the mask was."""
    guest.vcpu.set_trap(6, guest.handler, 4)
    for mask in (0, 1):
        guest.vcpu.upcall_mask = bool(mask)
        guest.run(UD2)
        assert guest.vcpu.upcall_mask
        assert guest.frame()["cs"] >> 32 == mask
        assert guest.frame()["rflags"] & IF == (0 if mask else IF)


def test_exception_in_user_mode(guest):
    """User mode is left for the registered kernel stack, the kernel's page tables and its GS base."""
    guest.vcpu.set_trap(6, guest.handler)
    guest.vcpu.set_bases(0, 0x1000, 0x2000)
    assert guest.run(UD2, user=True) is ExitReason.EXIT_UNTIL
    frame = guest.frame()
    assert guest.vcpu.kernel_mode
    assert guest.vcpu.rsp == guest.top - 7 * 8
    assert (frame["rip"], frame["cs"] & 0xFFFF, frame["rsp"]) == (USER_RIP, FLAT_CS64, USER_RIP + 0x2000)
    assert (guest.vcpu.segment("gs")[1], guest.vcpu.gs_base_user) == (0x1000, 0x2000)


def test_page_fault(guest):
    """CR2 is in vcpu_info, and the U bit of the error code says whose fault it was: kernel and user both run in ring 3."""
    guest.vcpu.set_trap(14, guest.handler)
    load = b"\x48\x8b\x03"                                   # mov rax, [rbx]
    guest.run(load, rbx=0x123456)
    assert guest.frame(error=True)["error"] == 0
    assert int(guest.memory.array(guest.shared)[2]) == 0x123456
    guest.run(b"\x48\x89\x03", rbx=guest.va(3))               # mov [rbx], rax: a page table
    assert guest.frame(error=True)["error"] == 3
    guest.run(load, user=True, rbx=0x123458)
    assert guest.frame(error=True)["error"] == 4
    assert guest.frame(error=True)["rip"] == USER_RIP


def test_flags_on_entry(guest):
    """AC, NT and TF are cleared for the handler, DF is not (but for a system call)."""
    guest.vcpu.set_trap(6, guest.handler)
    guest.run(UD2, rflags=IF | AC | NT | DF)
    assert guest.vcpu.rflags & (AC | NT | TF | DF) == DF
    assert guest.frame()["rflags"] & (AC | NT | DF) == AC | NT | DF
    assert guest.vcpu.set_callback(2, guest.handler) == 0
    guest.run(SYSCALL, user=True, rflags=IF | DF)
    assert not guest.vcpu.rflags & DF
    assert guest.frame()["rflags"] & DF


def test_no_handler(guest):
    """An exception without a handler crashes the domain, and says so."""
    assert guest.run(UD2) is ExitReason.EXIT_CRASH
    assert (guest.vcpu.exit_code, guest.vcpu.exit_nr) == (PvCrash.CRASH_NO_HANDLER, 6)
    assert "no handler" in guest.vcpu.crash_text()
    assert guest.vcpu.registers()["rip"] == guest.va(guest.CODE)


@pytest.mark.parametrize("rsp", [0, 0x1000, 1 << 47, 0xFFFF800000000100, 0xFFFF87FFFFFFFFF8, (1 << 64) - 8])
def test_bad_kernel_stack(guest, rsp):
    """A frame that cannot be written crashes the domain."""
    guest.vcpu.set_trap(6, guest.handler)
    assert guest.run(UD2, rsp=rsp) is ExitReason.EXIT_CRASH
    assert guest.vcpu.exit_code == PvCrash.CRASH_BAD_STACK


def test_stack_on_a_page_table(guest):
    """A kernel stack in a page table is no stack: nothing is written to it."""
    guest.vcpu.set_trap(6, guest.handler)
    before = guest.table(guest.mfn[3]).copy()
    assert guest.run(UD2, rsp=guest.va(3) + 2048) is ExitReason.EXIT_CRASH
    assert (guest.table(guest.mfn[3]) == before).all()


def test_int3_and_int(guest):
    """INT3 needs no DPL; INT n needs the DPL that set_trap_table gave the vector, else it is #GP with the gate's number."""
    guest.vcpu.set_trap(3, guest.handler)
    guest.run(INT3, user=True)
    assert guest.frame()["rip"] == USER_RIP + 1
    guest.vcpu.set_trap(0x80, guest.handler, 3)
    guest.run(b"\xcd\x80", user=True)
    assert guest.frame()["rip"] == USER_RIP + 2
    guest.vcpu.set_trap(13, guest.handler)
    guest.vcpu.set_trap(0x80, guest.va(guest.CODE) + 0x900, 0)
    guest.run(b"\xcd\x80", user=True)
    frame = guest.frame(error=True)
    assert (frame["error"], frame["rip"]) == (0x80 << 3 | 2, USER_RIP)


def test_system_call(guest):
    """SYSCALL in user mode enters the callback with Xen's flat selectors in the frame, RIP in RCX and RFLAGS in R11."""
    assert guest.vcpu.set_callback(2, guest.handler, mask_events=True) == 0
    guest.vcpu.upcall_mask = False
    guest.run(SYSCALL, user=True, rax=39)
    frame = guest.frame()
    assert (frame["rip"], frame["rcx"]) == (USER_RIP + 2, USER_RIP + 2)
    assert frame["r11"] & ~0xFF == IF
    assert (frame["cs"], frame["ss"]) == (FLAT_CS64, FLAT_SS)
    assert guest.vcpu.upcall_mask and guest.vcpu.kernel_mode and guest.vcpu.rax == 39


def test_system_call_without_callback(guest):
    """A system call that nobody wants crashes the domain."""
    assert guest.run(SYSCALL, user=True) is ExitReason.EXIT_CRASH
    assert guest.vcpu.exit_code == PvCrash.CRASH_NO_CALLBACK


def test_sysenter(guest):
    """SYSENTER enters its callback with null RIP and RSP; without one it is #GP."""
    guest.vcpu.set_trap(13, guest.handler)
    guest.run(b"\x0f\x34", user=True)
    frame = guest.frame(error=True)
    assert (frame["error"], frame["rip"], frame["cs"] & 0xFFFF, frame["rsp"]) == (0, 0, 3, 0)
    guest.vcpu.set_callback(5, guest.handler)
    guest.run(b"\x0f\x34", user=True)
    assert guest.frame()["rip"] == 0


def test_iret_to_user(guest):
    """iret restores RAX, RCX, R11, RFLAGS, RSP and RIP from its frame, and user mode with it."""
    at = guest.iret(USER_RIP, FLAT_CS64, IF | 1, USER_RIP + 0x1800, FLAT_SS, rax=7, r11=8, rcx=9)
    guest.vcpu.until = USER_RIP
    assert guest.run(IRET, rsp=at) is ExitReason.EXIT_UNTIL
    v = guest.vcpu
    assert (v.rax, v.r11, v.rcx, v.rsp, v.kernel_mode) == (7, 8, 9, USER_RIP + 0x1800, False)
    assert v.rflags & 1 and not v.upcall_mask


def test_iret_in_syscall(guest):
    """With VGCF_in_syscall it returns as SYSRET does: RCX is RIP, R11 is RFLAGS, selectors are flat."""
    at = guest.iret(USER_RIP, 0x33, IF, USER_RIP + 0x1800, 0x2B, flags=0x100, rax=7, r11=8, rcx=9)
    guest.vcpu.until = USER_RIP
    assert guest.run(IRET, rsp=at) is ExitReason.EXIT_UNTIL
    assert (guest.vcpu.rcx, guest.vcpu.r11, guest.vcpu.segment("cs")[0]) == (USER_RIP, IF, FLAT_CS64)


def test_iret_to_kernel(guest):
    """A frame with ring 0 in CS stays in the kernel; IF clear in it masks upcalls; IOPL and VM are not taken."""
    at = guest.iret(guest.handler, FLAT_CS64 & ~3, IOPL1 | 1 << 17, guest.top - 64, FLAT_SS)
    guest.vcpu.upcall_mask = False
    assert guest.run(IRET, rsp=at) is ExitReason.EXIT_UNTIL
    assert guest.vcpu.kernel_mode and guest.vcpu.upcall_mask
    assert guest.vcpu.rflags & (IF | IOPL1 | 1 << 17) == IF


def test_iret_with_a_pending_event(guest):
    """iret that unmasks upcalls with one pending goes to the callback, with the state it was to restore in the frame."""
    guest.vcpu.set_callback(0, guest.handler)
    guest.vcpu.set_upcall_pending()
    at = guest.iret(USER_RIP, 0x33, IF, USER_RIP + 0x1800, 0x2B)
    assert guest.run(IRET, rsp=at) is ExitReason.EXIT_UNTIL
    frame = guest.frame()
    assert (frame["rip"], frame["cs"], frame["ss"]) == (USER_RIP, 0x33, 0x2B)
    assert guest.vcpu.kernel_mode and guest.vcpu.upcall_mask


@pytest.mark.parametrize("cs,ss,rip", [
    (0, FLAT_SS, USER_RIP), (0x33, FLAT_SS, USER_RIP), (FLAT_SS, FLAT_SS, USER_RIP), (FLAT_CS64, 0, USER_RIP),
    (FLAT_CS64, FLAT_CS64, USER_RIP), (FLAT_CS64, FLAT_SS, 1 << 47), (0xE008, FLAT_SS, USER_RIP), (0xF, FLAT_SS, USER_RIP),
])
def test_failsafe(guest, cs, ss, rip):
    """iret to selectors or an address that cannot be loaded enters the failsafe callback, data selectors in the frame."""
    at = guest.iret(rip, cs | 3, IF, USER_RIP + 0x1800, ss)
    assert guest.run(IRET, rsp=at) is ExitReason.EXIT_CRASH
    assert guest.vcpu.exit_code == PvCrash.CRASH_NO_CALLBACK
    guest.vcpu.set_callback(1, guest.handler, mask_events=True)
    assert guest.run(IRET, rsp=at) is ExitReason.EXIT_UNTIL
    frame = guest.frame(data=True)
    assert (frame["rip"], frame["cs"] & 0xFFFF, frame["ss"], frame["ds"]) == (rip, cs | 3, ss | 3, 0)
    assert guest.vcpu.upcall_mask


def test_iret_crashes(guest):
    """An iret frame that cannot be read, or user mode without page tables, crashes the domain."""
    assert guest.run(IRET, rsp=0x1000) is ExitReason.EXIT_CRASH
    assert guest.vcpu.exit_code == PvCrash.CRASH_IRET_FRAME
    assert guest.vcpu.set_user_cr3(0) == 0
    at = guest.iret(USER_RIP, FLAT_CS64, IF, 0, FLAT_SS)
    assert guest.run(IRET, rsp=at) is ExitReason.EXIT_CRASH
    assert guest.vcpu.exit_code == PvCrash.CRASH_NO_USER_TABLES


def test_upcall(guest):
    """A pending, unmasked event enters the callback with upcalls masked; a masked one waits."""
    guest.vcpu.set_callback(0, guest.handler)
    guest.vcpu.set_upcall_pending()
    assert guest.run(NOP * 8, budget=4) is ExitReason.EXIT_BUDGET
    guest.vcpu.upcall_mask = False
    assert guest.run(NOP * 8, budget=4) is ExitReason.EXIT_UNTIL
    assert guest.vcpu.upcall_mask and guest.vcpu.upcall_pending
    assert guest.frame()["rip"] == guest.va(guest.CODE)


def test_upcall_at_the_end_of_a_hypercall(guest):
    """Any hypercall delivers what has become deliverable, as the kernel's xen_force_evtchn_callback counts on."""
    guest.vcpu.set_callback(0, guest.handler)
    mask = 0xC6, 0x43, 0x01, 0x00                            # mov byte [rbx+1], 0
    assert guest.set_pte(50, guest.shared << 12 | P | RW) == 0
    guest.memory.view(guest.shared)[0] = 1
    code = bytes(mask) + b"\xb8\x11\0\0\0" + SYSCALL + HLT   # mov eax, 17 (xen_version); syscall
    assert guest.run(code, rbx=guest.va(50), rdi=0) is ExitReason.EXIT_UNTIL
    assert guest.frame()["rip"] == guest.va(guest.CODE) + len(code) - 1
    assert guest.vcpu.rax == 4 << 16 | 17


def test_hypercall_registers(guest):
    """A hypercall returns in RAX, keeps the other registers and flags, and leaves RIP in RCX and RFLAGS in R11."""
    guest.vcpu.until = guest.va(guest.CODE) + 2
    guest.run(SYSCALL, rax=17, rdi=0, rsi=2, rdx=3, rbx=4, rflags=IF | 1)
    v = guest.vcpu
    assert (v.rax, v.rdi, v.rsi, v.rdx, v.rbx) == (4 << 16 | 17, 0, 2, 3, 4)
    assert (v.rcx, v.r11 & 0x301) == (v.rip, IF | 1)


def test_hypercall_of_python(guest):
    """A number the core does not answer leaves run() with it and its six arguments; hypercall_return() goes on."""
    reason = guest.run(SYSCALL + UD2, rax=12, rdi=1, rsi=2, rdx=3, r10=4, r8=5, r9=6)
    assert reason is ExitReason.EXIT_HYPERCALL
    assert (guest.vcpu.exit_nr, guest.vcpu.exit_args) == (12, (1, 2, 3, 4, 5, 6))
    guest.vcpu.hypercall_return(-38)
    guest.vcpu.set_trap(6, guest.handler)
    assert ExitReason(guest.vcpu.run(10)) is ExitReason.EXIT_UNTIL
    assert guest.vcpu.rax == (1 << 64) - 38
    assert guest.frame()["rip"] == guest.va(guest.CODE) + 2


def test_hypercall_retry(guest):
    """hypercall_retry() makes the guest ask again, with the arguments given."""
    guest.run(SYSCALL, rax=12, rdi=1, rsi=2)
    guest.vcpu.hypercall_retry(9)
    assert ExitReason(guest.vcpu.run(10)) is ExitReason.EXIT_HYPERCALL
    assert guest.vcpu.exit_args[:2] == (9, 2)


def test_multicall(guest):
    """Entries are done in order, each with its own result; one of Python's leaves run() and the rest is done after it."""
    at = guest.va(7)
    calls = [(17, 0), (12, 5, 6), (5, 1), (23,), (13,), (99, 1)]
    for i, (nr, *args) in enumerate(calls):
        guest.poke(at + 64 * i, "<8Q", nr, 0xFFFF, *args, *[0] * (6 - len(args)))
    assert guest.run(SYSCALL + UD2, rax=13, rdi=at, rsi=len(calls)) is ExitReason.EXIT_HYPERCALL
    assert (guest.vcpu.exit_nr, guest.vcpu.exit_args[:2]) == (12, (5, 6))
    guest.vcpu.hypercall_return(77)
    assert ExitReason(guest.vcpu.run(10)) is ExitReason.EXIT_HYPERCALL
    assert guest.vcpu.exit_nr == 99
    guest.vcpu.hypercall_return(-38)
    guest.vcpu.set_trap(6, guest.handler)
    assert ExitReason(guest.vcpu.run(10)) is ExitReason.EXIT_UNTIL
    results = [struct.unpack("<q", guest.vcpu.copy_from_guest(at + 64 * i + 8, 8))[0] for i in range(len(calls))]
    assert results == [4 << 16 | 17, 77, 0, -38, -22, -38]
    assert guest.vcpu.rax == 0
    assert guest.vcpu.cr0 & 8


def test_multicall_faults(guest):
    """A list that cannot be read is -EFAULT."""
    assert guest.vcpu.hypercall(13, 0x1000, 1) == -14
    assert guest.vcpu.hypercall(13, 0xFFFF800000000000, 1) == -14
    assert guest.vcpu.hypercall(13, 0, 0) == 0
    assert guest.vcpu.hypercall(13, (1 << 64) - 64, 2) == -14


def test_preempted_multicall(guest):
    """A long multicall is preempted between entries, and ends with all of them done."""
    at = guest.va(8)
    for i in range(8 * 64):
        guest.poke(at + 64 * i, "<8Q", 17, 0xFFFF, 0, 0, 0, 0, 0, 0)
    guest.vcpu.set_trap(6, guest.handler)
    assert guest.run(SYSCALL + UD2, rax=13, rdi=at, rsi=512) is ExitReason.EXIT_UNTIL
    assert all(guest.peek(at + 64 * i + 8)[0] == 4 << 16 | 17 for i in range(512))
    assert guest.vcpu.rax == 0


def test_block(guest):
    """SCHEDOP_block unmasks upcalls and leaves run() with EXIT_HLT; with an event pending it returns at once."""
    guest.vcpu.set_callback(0, guest.handler)
    assert guest.run(SYSCALL, rax=29, rdi=1) is ExitReason.EXIT_HLT
    assert guest.vcpu.halted and not guest.vcpu.upcall_mask and guest.vcpu.rax == 0
    guest.vcpu.set_upcall_pending()
    assert ExitReason(guest.vcpu.run(5)) is ExitReason.EXIT_UNTIL
    assert not guest.vcpu.halted
    assert guest.run(SYSCALL, rax=29, rdi=1) is ExitReason.EXIT_UNTIL


def test_timer(guest):
    """set_timer_op is due at its time exactly in virtual time, and 0 stops it."""
    now = guest.clock.now()
    spin = b"\xeb\xfe"
    assert guest.run(SYSCALL + spin, rax=15, rdi=now + 5000, budget=10**6) is ExitReason.EXIT_TIMER
    assert 5000 <= guest.clock.now() - now <= 5064
    assert guest.vcpu.timer_deadline == now + 5000
    assert guest.run(SYSCALL + spin, rax=15, rdi=1, budget=10**6) is ExitReason.EXIT_TIMER
    guest.vcpu.hypercall(15, 0)
    assert guest.vcpu.timer_deadline is None


def test_fpu_taskswitch(guest):
    """With TS set the next x87 instruction is #NM; delivering it clears TS."""
    guest.vcpu.set_trap(7, guest.handler)
    assert guest.vcpu.hypercall(5, 1) == 0
    assert guest.run(b"\xdb\xe3") is ExitReason.EXIT_UNTIL    # fninit
    assert not guest.vcpu.cr0 & 8


def test_segment_bases(guest):
    """set_segment_base: FS, user GS, kernel GS; a base that is not canonical is refused."""
    v = guest.vcpu
    for which, base in ((0, 0x10), (1, 0x20), (2, 0x30)):
        assert v.hypercall(25, which, base) == 0
    assert (v.fs_base, v.gs_base_user, v.gs_base_kernel) == (0x10, 0x20, 0x30)
    for which in (0, 1, 2):
        assert v.hypercall(25, which, 1 << 47) == EINVAL
    assert v.hypercall(25, 3, FLAT_SS) == 0
    assert (v.gs_base_user, v.gs_base_kernel, v.segment("gs")[0]) == (0, 0x30, FLAT_SS)
    assert v.hypercall(25, 4, 0) == EINVAL


def test_gs_follows_the_mode(guest):
    """Each mode has its GS base; iret and system calls exchange them."""
    guest.vcpu.set_bases(0, guest.va(20), USER_RIP + 0x1000)
    guest.vcpu.set_callback(2, guest.handler)
    guest.poke(guest.va(20), "<Q", 20)
    guest.poke(guest.va(guest.user_data), "<Q", 45)
    read = b"\x65\x48\x8b\x04\x25\0\0\0\0"                   # mov rax, gs:[0]
    guest.run(read + SYSCALL, user=True)
    assert guest.vcpu.rax == 45
    guest.code(read, guest.CODE)
    guest.vcpu.rip = guest.va(guest.CODE)
    guest.vcpu.run(1)
    assert guest.vcpu.rax == 20


@pytest.mark.parametrize("code", [
    HLT, b"\x0f\x01\xf8", b"\x0f\x01\x3b", b"\x0f\x08", b"\x0f\x01\x13", b"\x0f\x00\xd8", b"\xec", b"\xfa", b"\xfb",
    b"\x6c", b"\x0f\x30", b"\x0f\x32",
], ids="hlt swapgs invlpg invd lgdt ltr in cli sti ins wrmsr rdmsr".split())
def test_refused_instructions(guest, code):
    """What Xen does not emulate is #GP(0) for the kernel as for its user mode (MSR: a number nobody knows)."""
    guest.vcpu.set_trap(13, guest.handler)
    for user in (False, True):
        assert guest.run(code, user=user, rcx=0x12345, rbx=USER_RIP, rdi=USER_RIP + 0x1000) is ExitReason.EXIT_UNTIL
        assert guest.frame(error=True)["error"] == 0


def test_iopl(guest):
    """With a virtual IOPL of 1 the kernel may use IN, OUT, CLI and STI: nothing is there, and nothing happens."""
    guest.vcpu.set_trap(6, guest.handler)
    guest.vcpu.iopl = 1
    assert guest.run(b"\xfa\xfb\xec\xee\xed" + UD2, rdx=0x80, rax=0) is ExitReason.EXIT_UNTIL
    assert guest.vcpu.rax == 0xFFFFFFFF
    assert guest.frame()["rip"] == guest.va(guest.CODE) + 5


def test_control_registers(guest):
    """MOV from CR0, CR3 and CR4 shows the guest's; CR0 changes TS only, CR3 goes through validation, CR4 keeps what is Xen's."""
    guest.vcpu.set_trap(6, guest.handler)
    guest.vcpu.set_trap(13, guest.handler)
    guest.run(b"\x0f\x20\xc0\x0f\x20\xdb\x0f\x20\xe2" + UD2)
    assert guest.vcpu.rax & 0x80000001 == 0x80000001
    assert guest.vcpu.rbx == guest.mfn[0] << 12
    assert guest.vcpu.rdx & 0x20
    guest.run(b"\x0f\x22\xc0" + UD2, rax=guest.vcpu.cr0 | 8)
    assert guest.vcpu.cr0 & 8
    guest.run(b"\x0f\x06" + UD2)
    assert not guest.vcpu.cr0 & 8
    guest.run(b"\x0f\x22\xc0", rax=1)
    assert guest.frame(error=True)["rip"] == guest.va(guest.CODE)
    guest.run(b"\x0f\x22\xd8", rax=guest.mfn[1] << 12)
    assert guest.vcpu.cr3 == guest.mfn[0] << 12


def test_msrs(guest):
    """The FS and GS bases can be read and written; EFER read; STAR written without effect; an unknown one is #GP and remembered."""
    guest.vcpu.set_trap(6, guest.handler)
    guest.vcpu.set_trap(13, guest.handler)
    for nr, value in ((0xC0000100, 0x1000), (0xC0000101, 0x2000), (0xC0000102, 0x3000)):
        guest.run(b"\x0f\x30" + b"\x31\xc0\x0f\x32" + UD2, rcx=nr, rax=value, rdx=0)
        assert guest.vcpu.rax == value
    guest.run(b"\x0f\x30" + UD2, rcx=0xC0000100, rax=0, rdx=0x8000)
    assert guest.frame(error=True)["error"] == 0
    guest.run(b"\x0f\x32" + UD2, rcx=0xC0000080)
    assert guest.vcpu.rax == 0xD01
    guest.run(b"\x0f\x30" + UD2, rcx=0xC0000082, rax=5, rdx=0)
    assert guest.frame()["rip"] == guest.va(guest.CODE) + 2
    guest.vcpu.unknown()
    guest.run(b"\x0f\x32", rcx=0x4321)
    assert ("rdmsr", 0x4321) in guest.vcpu.unknown()


def test_forced_emulation(guest):
    """ud2a; "xen"; cpuid shows Xen's leaves."""
    guest.vcpu.set_trap(6, guest.handler)
    guest.run(UD2 + b"xen\x0f\xa2" + UD2, rax=0x40000000)
    assert struct.pack("<III", guest.vcpu.rbx, guest.vcpu.rcx, guest.vcpu.rdx) == b"XenVMMXenVMM"
    assert guest.frame()["rip"] == guest.va(guest.CODE) + 7


def test_page_table_writes_of_code(guest):
    """Stores and read-modify-writes to an L1 table run through validation when writable page tables are on, else fault."""
    guest.vcpu.set_trap(14, guest.handler)
    guest.vcpu.set_trap(6, guest.handler)
    entry = guest.va(3) + 20 * 8
    guest.run(b"\x48\xc7\x03\0\0\0\0" + UD2, rbx=entry)       # mov qword [rbx], 0
    assert guest.frame(error=True)["error"] == 3
    guest.vcpu.hypercall(21, 0, 2)
    guest.run(b"\xf0\x48\x0f\xba\x33\x01" + UD2, rbx=entry)   # lock btr qword [rbx], 1
    assert guest.frame()["rip"] == guest.va(guest.CODE) + 6
    assert int(guest.table(guest.mfn[3])[20]) & (P | RW) == P
    guest.run(b"\x48\x87\x03" + UD2, rbx=entry, rax=0)        # xchg [rbx], rax
    assert int(guest.table(guest.mfn[3])[20]) == 0
    assert guest.vcpu.rax >> 12 & 0xFFFFFFFF == guest.mfn[20]


def test_code_in_user_mode_cannot_make_hypercalls(guest):
    """INT 82h is the kernel's alone."""
    guest.vcpu.set_trap(13, guest.handler)
    guest.run(b"\xcd\x82", user=True, rax=17)
    assert guest.frame(error=True)["error"] == 0x82 << 3 | 2
    guest.vcpu.until = guest.va(guest.CODE) + 2
    guest.run(b"\xcd\x82", rax=17, rdi=0)
    assert guest.vcpu.rax == 4 << 16 | 17


def test_rip_set_between_a_branch_and_its_target(guest):
    """Where run() goes on is not taken for where the last branch went: the end of a loop is not linked to its start."""
    code = b"\x48\xff\xcd\x75\xfb"                           # 1: dec rbp; jnz 1b
    guest.vcpu.exact = False
    guest.vcpu.until = guest.va(guest.CODE) + len(code)
    guest.code(code)
    for _ in range(3):
        before = guest.vcpu.instructions
        guest.vcpu.rip, guest.vcpu.rbp = guest.va(guest.CODE), 10
        assert ExitReason(guest.vcpu.run(1000)) is ExitReason.EXIT_UNTIL
        assert (guest.vcpu.rbp, guest.vcpu.instructions - before) == (0, 20)


def test_singleshot_timer(guest):
    """VCPUOP_set_singleshot_timer is the timer of set_timer_op; with VCPU_SSHOTTMR_future a time gone by is -ETIME."""
    at = guest.va(7)
    guest.poke(at, "<QII", 5000, 1, 0)
    assert guest.vcpu.hypercall(24, 8, 0, at) == 0
    assert guest.vcpu.timer_deadline == 5000
    assert guest.vcpu.hypercall(24, 9, 0, 0) == 0
    assert guest.vcpu.timer_deadline is None
    guest.clock.skip(10**6)
    assert guest.vcpu.hypercall(24, 8, 0, at) == -62
    assert guest.vcpu.hypercall(24, 8, 0, 0x1000) == -14
    assert guest.vcpu.hypercall(24, 8, 1, at) is None
    assert guest.vcpu.hypercall(24, 0, 0, at) is None


def test_nmi(guest):
    """An NMI goes to its handler whatever the upcall mask, once until the next iret; without a handler it is lost."""
    guest.vcpu.send_nmi()
    assert guest.run(NOP * 8, budget=4) is ExitReason.EXIT_BUDGET
    assert guest.vcpu.set_callback(4, guest.handler) == 0
    guest.vcpu.send_nmi()
    assert guest.run(NOP * 8, budget=4) is ExitReason.EXIT_UNTIL
    assert guest.frame()["rip"] == guest.va(guest.CODE)
    guest.vcpu.send_nmi()
    assert guest.run(NOP * 8, budget=4) is ExitReason.EXIT_BUDGET
    at = guest.iret(guest.va(guest.CODE) + 0x100, FLAT_CS64 & ~3, 0, guest.top - 64, FLAT_SS)
    assert guest.run(IRET, rsp=at) is ExitReason.EXIT_UNTIL
    assert guest.frame()["rip"] == guest.va(guest.CODE) + 0x100
