"""ns for each hypercall a PV kernel makes on a switch of tasks or address spaces, as a loop of the guest's own code.

What is timed is the loop: the hypercall, and three instructions around it.
"""

import struct

import pytest

from tests.cpu.pvguest import RW, P, PvGuest
from tests.cpu.test_pv_traps import IRET, SYSCALL, UD2, USER_RIP, TrapGuest

COUNT = 100_000
SELF = 0x7FF0


def call(nr):
    return b"\xb8" + struct.pack("<I", nr) + SYSCALL                    # mov eax, nr; syscall


def mmu_update(guest):
    guest.poke(guest.va(7), "<QQ", guest.pte(30), guest.mfn[30] << 12 | P | RW)
    return {"rdi": guest.va(7), "rsi": 1, "rdx": 0, "r10": SELF}


def new_baseptr(guest):
    guest.poke(guest.va(7), "<IIQQ", 5, 0, guest.mfn[0], 0)
    return {"rdi": guest.va(7), "rsi": 1, "rdx": 0, "r10": SELF}


def multicall(guest):
    for i in range(4):
        guest.poke(guest.va(7) + 64 * i, "<8Q", 17, 0, 0, 0, 0, 0, 0, 0)
    return {"rdi": guest.va(7), "rsi": 4}


def store(guest):
    guest.domain.vm_assist = 4
    return {"rbx": guest.va(3) + 30 * 8, "rax": guest.mfn[30] << 12 | P | RW}


BODIES = {
    "xen_version": (call(17), lambda guest: {"rdi": 0}),
    "stack_switch": (call(3), lambda guest: {"rdi": 0xE02B, "rsi": guest.va(5)}),
    "set_segment_base": (call(25), lambda guest: {"rdi": 0, "rsi": 0}),
    "update_va_mapping": (call(14), lambda guest: {"rdi": guest.va(30), "rsi": guest.mfn[30] << 12 | P | RW, "rdx": 2}),
    "mmu_update": (call(1), mmu_update),
    "new_baseptr": (call(26), new_baseptr),
    "multicall of 4": (call(13), multicall),
    "store to an L1 table": (b"\x48\x89\x03", store),
    "rdmsr": (b"\x0f\x32", lambda guest: {"rcx": 0xC0000100}),
}


@pytest.mark.parametrize("name", BODIES)
def test_hypercall(benchmark, name):
    """One hypercall from the guest kernel."""
    body, prepare = BODIES[name]
    guest = PvGuest(virtual=False)
    code = body + b"\x48\xff\xcd"                                       # dec rbp; jnz
    code += b"\x0f\x85" + struct.pack("<i", -len(code) - 6)
    guest.code(code)
    vcpu = guest.vcpu
    vcpu.until = guest.va(guest.CODE) + len(code)
    registers = prepare(guest)

    def run():
        for register, value in registers.items():
            setattr(vcpu, register, value)
        vcpu.rip, vcpu.rbp = guest.va(guest.CODE), COUNT
        vcpu.run()

    benchmark.extra_info["operations"] = COUNT
    benchmark(run)
    assert vcpu.rbp == 0


def test_system_call(benchmark):
    """A system call of user mode: bounce to the kernel's callback, and the iret hypercall back."""
    guest = TrapGuest(virtual=False)
    vcpu = guest.vcpu
    user = SYSCALL + b"\x48\xff\xcd"
    user += b"\x0f\x85" + struct.pack("<i", -len(user) - 6) + UD2
    # pop rcx; pop r11; push 0x100 (VGCF_in_syscall); push rcx; push r11; push rax; iret
    guest.code(b"\x90" * 0x800 + b"\x59\x41\x5b\x68\0\1\0\0\x51\x41\x53\x50" + IRET)
    guest.code(user, guest.user_code)
    vcpu.set_callback(2, guest.handler, True)
    vcpu.set_trap(6, guest.handler + 0x100)
    vcpu.until, vcpu.exact = guest.handler + 0x100, False

    def run():
        vcpu.kernel_mode = False
        assert vcpu.load_segments() == 0
        vcpu.rip, vcpu.rsp, vcpu.rbp = USER_RIP, USER_RIP + 0x2000, COUNT
        vcpu.run()

    benchmark.extra_info["operations"] = COUNT
    benchmark(run)
    assert vcpu.rbp == 0
