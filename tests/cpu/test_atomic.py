"""LOCK between vcpus in threads: no update is lost, whatever path the access takes."""

import struct
import threading

import pytest

from tests.cpu.asm import assemble
from xenfast import _core
from xenfast.machine import CODE64, DATA32, Machine

CODE, COUNTER, ALIAS, ROUNDS = 0x10000, 0x40800, 0x40000 + 4096 * 1024, 20000       # ALIAS takes the TLB entry of COUNTER's page
BODIES = {
    "in the TLB": "lock inc qword ptr [{c}]",
    "missing the TLB": "mov eax, [{a}]; lock inc qword ptr [{c}]",
    "an exchange": "mov eax, [{a}]; mov rax, -1; 1: xchg rax, [{c}]; cmp rax, -1; je 1b; inc rax; mov [{c}], rax",
    "cmpxchg8b": "mov eax, [{a}]; mov eax, [{c}]; mov edx, [{c} + 4]; 1: mov ebx, eax; mov ecx, edx; add ebx, 1; adc ecx, 0;"
                 "lock cmpxchg8b [{c}]; jnz 1b",
    "cmpxchg16b": "mov rax, [{c}]; mov rdx, [{c} + 8]; 1: mov rbx, rax; mov rcx, rdx; inc rbx; lock cmpxchg16b [{c}]; jnz 1b",
    "on a page with code": "call {c} + 64; lock inc qword ptr [{c}]",
}


SPLIT = 0x42FFD                      # three bytes of the counter on one page, the rest on the next


def counted(body, counter=COUNTER, pages=(COUNTER & ~0xFFF,)):
    """What two vcpus have counted in the same place."""
    m = Machine(memory=16 << 20, mode=64)
    for page in (CODE, *pages, ALIAS, 0x60000, 0x70000):
        m.map(page, 0x1000)
    m.write(counter + 64, b"\xc3")
    m.write(CODE, assemble(f"2: {body.format(c=counter, a=ALIAS)}; dec r15; jnz 2b; hlt", 64, CODE))
    other = _core.Vcpu(m.memory, m.physmap)
    other.cr4, other.efer, other.cr3, other.cr0 = 0x620, 0xD01, m.cpu.cr3, 0x80010033
    other.set_segment("cs", 8, 0, 0xFFFFFFFF, CODE64)
    for name in ("ss", "ds", "es"):
        other.set_segment(name, 16, 0, 0xFFFFFFFF, DATA32)
    rounds = ROUNDS if "call" not in body else ROUNDS // 20
    for vcpu, stack in ((m.cpu, 0x61000), (other, 0x71000)):
        vcpu.exact, vcpu.rip, vcpu.rsp, vcpu.r15 = False, CODE, stack, rounds
    threads = [threading.Thread(target=vcpu.run) for vcpu in (m.cpu, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return struct.unpack("<Q", m.read(counter, 8))[0] / rounds


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_no_update_is_lost(body):
    """Two vcpus counting in the same place count every time."""
    assert counted(body) == 2


@pytest.mark.parametrize("pages", [(0x42000, 0x43000), (0x43000, 0x42000)], ids=["neighbours", "apart"])
@pytest.mark.parametrize("body", ["in the TLB", "cmpxchg8b"])
def test_no_update_is_lost_across_pages(body, pages):
    """SDM Vol. 3, 8.1.2.2: LOCK knows no alignment, page boundaries included, whether the two frames are neighbours or not."""
    assert counted(BODIES[body], SPLIT, pages) == 2
