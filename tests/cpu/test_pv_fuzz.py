"""Hostile guests: random arguments to every hypercall of the core leave the host alive and the frame table exact."""

import os
import random
import struct
import threading

import pytest

from tests.cpu.pvguest import BASE, NX, RW, US, A, D, P, PvGuest, audit
from xenfast._core import ExitReason, GuestFault

CORE_CALLS = (0, 1, 2, 3, 4, 5, 8, 9, 10, 13, 14, 15, 17, 21, 22, 25, 26, 29, 30)
CALLS = int(os.environ.get("XENFAST_FUZZ_CALLS", "100000"))
M2P, XEN = 0xFFFF800000000000, 0xFFFF82D080000000


class Fuzz:
    """Random, but with a taste for values that nearly work."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.guest = PvGuest(n=48, frames=96, vcpus=2)
        g = self.guest
        other = PvGuest(n=24, beside=g, domid=2)
        self.frames = g.mfn + [other.mfn[3], other.mfn[20], g.shared, 0, 95, 96, 1 << 40, (1 << 52) - 1]
        for i in range(20, 32):     # a supply of read-only frames to make tables of
            g.readonly(i)

    def mfn(self):
        return self.rng.choice(self.frames if self.rng.random() < 0.2 else self.guest.mfn)

    def address(self):
        r, g = self.rng, self.guest
        kind = r.random()
        if kind < 0.7:
            return g.va(r.randrange(5, 48)) + r.choice((0, 8, 16, r.randrange(4096), 4088, 4095))
        return r.choice((0, 8, 0x1000, g.va(r.randrange(64)), M2P, M2P + 8 * r.randrange(96), XEN, 1 << 47, (1 << 47) - 4, (1 << 64) - 8,
                         0xFFFF87FFFFFFFFF8, 0xFFFF880000000000 - 1, BASE + 0x40000000, r.getrandbits(64)))

    def entry(self):
        """A page-table entry."""
        r = self.rng
        if r.random() < 0.1:
            return r.choice((0, r.getrandbits(64)))
        flags = r.choice((P, P | RW, P | RW | US, P | A | D, P, 0))
        if r.random() < 0.1:
            flags |= 1 << r.randrange(12) | r.choice((0, NX, 1 << r.randrange(46, 64)))
        return self.mfn() << 12 | flags

    def value(self):
        r = self.rng
        return r.choice((self.address, self.entry, self.mfn, lambda: r.randrange(64), lambda: r.getrandbits(64),
                         lambda: r.choice((0, 1, 2, 0x7FF0, (1 << 31), (1 << 32) - 1, (1 << 63), (1 << 64) - 1))))()

    def args(self, nr):
        """Arguments that mostly pass the first checks."""
        r, g = self.rng, self.guest
        at = g.va(r.randrange(5, 20))
        if r.random() < 0.1:
            return [self.value() for _ in range(6)]
        if nr == 1:
            n = r.randrange(4)
            for i in range(n):
                self.write(at + 16 * i, "<QQ", self.mfn() << 12 | r.randrange(512) * 8 | r.choice((0, 0, 0, 2, 1, 3, 4)), self.entry())
            return at, n, r.choice((0, at + 256, self.address())), r.choice((0x7FF0,) * 9 + (self.value(),))
        if nr == 26:
            n = r.randrange(4)
            for i in range(n):
                cmd = r.choice((0, 0, 0, 1, 2, 3, 3, 4, 4, 4, 5, 15)) if r.random() < 0.8 else r.randrange(22)
                arg = r.choice((self.mfn, self.mfn, self.address))()
                self.write(at + 24 * i, "<IIQQ", cmd, 0, arg, r.choice((self.mfn, self.address, lambda: r.randrange(9000)))())
            return at, n, r.choice((0, at + 256)), 0x7FF0
        if nr in (14, 22):
            return r.choice((g.va(r.randrange(512)), self.address())), self.entry(), r.randrange(8), 0x7FF0
        if nr == 2:
            self.write(at, "<4Q", *(self.mfn() for _ in range(4)))
            return at, r.choice((0, 1, 512, 513, 2048, 7168, 7169, 1 << 31))
        if nr == 10:
            return self.mfn() << 12 | r.randrange(512) * 8, r.getrandbits(64)
        if nr == 13:
            n = r.randrange(5)
            for i in range(n):
                self.write(at + 64 * i, "<8Q", r.choice((*CORE_CALLS, 12, 23, r.getrandbits(8))), 0, *(self.value() for _ in range(6)))
            return at, n
        if nr == 25:
            return r.randrange(5), r.choice((r.getrandbits(16), self.address()))
        if nr == 29:
            return r.randrange(2), 0
        if nr == 30:
            self.write(at, "<HHIQ", r.randrange(9), r.randrange(4), 0, self.address())
            return r.randrange(3), at
        if nr == 0:
            self.write(at, "<BBHIQ", r.randrange(256), r.randrange(8), 0xE033, 0, self.address())
            return r.choice((0, at, self.address())),
        return [self.value() for _ in range(3)]

    def write(self, at, fmt, *values):
        try:
            self.guest.vcpu.copy_to_guest(at, struct.pack(fmt, *values))
        except GuestFault:
            pass                    # the guest has unmapped it

    def step(self):
        r, g = self.rng, self.guest
        vcpu = r.choice(g.vcpus)
        g.vcpu = vcpu
        kind = r.random()
        if kind < 0.9:
            nr = r.choice(CORE_CALLS if r.random() < 0.5 else (1, 14, 26))
            if vcpu.hypercall(nr, *self.args(nr)) is None:
                vcpu.hypercall_return(self.value())
        elif kind < 0.93:
            self.grant(vcpu)
        elif kind < 0.97:
            try:
                at = r.choice((g.va(r.randrange(512)) + 8 * r.randrange(512), self.address()))
                vcpu.store(at, self.entry(), r.choice((1, 2, 4, 8, 8)))
            except GuestFault:
                pass
        elif kind < 0.99:
            vcpu.load_segments(cs=r.getrandbits(16), ss=r.choice((0xE02B, r.getrandbits(16))), ds=r.getrandbits(16), gs=r.getrandbits(16))
        else:
            self.rescue()

    def grant(self, vcpu):
        r = self.rng
        by_pte = r.random() < 0.5
        address = self.mfn() << 12 | r.randrange(512) * 8 if by_pte else self.address()
        if r.random() < 0.6:
            vcpu.grant_map(address, self.mfn(), readonly=r.random() < 0.5, contains_pte=by_pte, available=r.getrandbits(64))
        else:
            vcpu.grant_unmap(address, self.mfn(), contains_pte=by_pte, replace=r.choice((0, self.address())))

    def rescue(self):
        """Put the tables the guest started with back, so that it does not end up with nothing mapped."""
        g = self.guest
        g.vcpu = g.vcpus[0]
        for vcpu in g.vcpus:
            vcpu.set_cr3(g.mfn[0])
        for level, pairs in ((0, ((272, 1),)), (1, ((0, 2),)), (2, ((0, 3),))):
            for index, i in pairs:
                entry = g.mfn[i] << 12 | P | RW | US
                self.direct(g.mfn[level] << 12 | index * 8, entry)
        for i in range(48):
            self.direct(g.pte(i), g.mfn[i] << 12 | P | RW)
            self.direct(g.pte(i), g.mfn[i] << 12 | P)
            if i > 31 or 4 < i < 20:
                self.direct(g.pte(i), g.mfn[i] << 12 | P | RW)

    def direct(self, ptr, value):
        """One mmu_update without guest memory for its argument."""
        return self.guest.vcpu.mmu_update_one(ptr, value)


def run(seed, calls):
    fuzz = Fuzz(seed)
    for i in range(calls):
        fuzz.step()
        if i % 500 == 0:
            audit(fuzz.guest)
    audit(fuzz.guest)
    return fuzz


def test_wild_hypercalls_quickly():
    """Two thousand of them; the frame table is recounted on the way."""
    run(1, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_wild_hypercalls(seed):
    """A hundred thousand over ten seeds."""
    fuzz = run(seed, CALLS // 10)
    assert sum(fuzz.guest.vcpus[0].hypercall_counts().values()) > CALLS // 100


def test_writer_on_another_host_thread():
    """While one vcpu turns a page into a table and back, another one that writes it all the time never gets into the table."""
    guest = PvGuest(vcpus=2, virtual=False)
    writer = guest.vcpus[1]
    evil = guest.mfn[0] << 12 | P | RW
    wait = b"\x90" * 200
    loop = b"\x48\xc7\x03\0\0\0\0" + wait + b"\x48\x89\x03" + wait   # 1: movq $0, (%rbx); ...; mov %rax, (%rbx); ...
    loop += b"\xe9" + struct.pack("<i", -len(loop) - 5)                   # jmp 1b
    guest.code(loop.ljust(0x800, b"\x90") + b"\x48\x89\xd4\xe9" + struct.pack("<i", -0x808))   # mov %rdx, %rsp; jmp 1b
    writer.set_trap(14, guest.va(guest.CODE) + 0x800)
    writer.start(guest.va(guest.CODE), 0, guest.va(46))
    writer.rbx, writer.rax, writer.rdx = guest.va(20), evil, guest.va(46)
    reasons = []
    thread = threading.Thread(target=lambda: reasons.append(ExitReason(writer.run())))
    thread.start()
    mfn, pinned = guest.mfn[20], 0
    try:
        for turn in range(100_000):                         # it can be pinned only while the writer's last word was 0: a matter of luck
            if turn >= 80 and pinned:
                break
            assert guest.vcpu.mmu_update_one(guest.pte(20), mfn << 12 | P) == 0
            if guest.domain.pin(mfn, 1) == 0:
                pinned += 1
                for _ in range(100):
                    os.sched_yield()
                    assert int(guest.table(mfn)[0]) == 0
                assert guest.domain.unpin(mfn) == 0
            assert guest.vcpu.mmu_update_one(guest.pte(20), mfn << 12 | P | RW) == 0
            os.sched_yield()
    finally:
        writer.kick()
        thread.join()
    assert reasons == [ExitReason.EXIT_STOP]
    assert pinned > 0
    audit(guest)


def test_end_of_a_wild_guest():
    """Whatever it has done, ending it gives every frame back."""
    fuzz = run(99, 1000)
    g = fuzz.guest
    for domain in g.beside:
        for vcpu in domain.vcpus:
            vcpu.release()
        domain.vcpus.clear()
    for domain in g.beside:
        domain.domain.release_page_tables()
    audit(g)
    for domain in g.beside:
        g.memory.free(domain.mfn + [domain.shared])
    assert g.memory.free_pages == g.memory.frames
