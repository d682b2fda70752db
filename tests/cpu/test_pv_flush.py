"""A PV guest's flush forgets all that its page tables do not say any more, and keeps what its kernel has not changed."""

import random

import pytest

from tests.cpu.pvguest import ADDR, BASE, L1, L3, L4, NX, RW, US, A, D, P, PvGuest, audit
from xenfast._core import GuestFault

TLB_FLUSH_LOCAL, INVLPG_LOCAL, TLB_FLUSH_ALL, NEW_BASEPTR = 6, 7, 10, 5
PAGES = range(16, 40)           # mapped at BASE, changed at random
ALIAS = BASE + (1 << 21)        # the same L1 table, mapped again


def fills(guest):
    return guest.vcpu.statistics()["tlb_fills"]


def marked(guest):
    for i in PAGES:
        guest.poke(guest.va(i), "<Q", 0x1000 + i)


def walk(guest, va):
    """(frame, writable) by the tables as they are now, or None."""
    mfn, rights = guest.vcpu.cr3 >> 12, RW
    for shift in (39, 30, 21, 12):
        entry = int(guest.table(mfn)[va >> shift & 511])
        if not entry & P:
            return None
        rights &= entry
        mfn = (entry & ADDR) >> 12
    return mfn, bool(rights & RW)


def check(guest, va, contents):
    found = walk(guest, va)
    if found is None:
        with pytest.raises(GuestFault):
            guest.peek(va)
        return
    assert guest.peek(va)[0] == contents[found[0]]
    if found[1]:
        guest.poke(va, "<Q", contents[found[0]])
    else:
        with pytest.raises(GuestFault):
            guest.poke(va, "<Q", 0)


def test_what_the_kernel_has_not_changed_is_kept():
    """After a flush, reads through unchanged kernel mappings walk no page table; one that was changed is walked, and only that."""
    guest = PvGuest()
    for i in (20, 21, 22):
        guest.peek(guest.va(i))
    assert guest.set_pte(21, guest.mfn[30] << 12 | P | RW) == 0
    assert guest.mmuext(TLB_FLUSH_LOCAL) == 0
    before = fills(guest)
    guest.peek(guest.va(20))
    guest.peek(guest.va(22))
    assert fills(guest) == before
    guest.peek(guest.va(21))
    assert fills(guest) == before + 1


def test_a_switch_to_tables_with_another_kernel_half_forgets_it():
    """NEW_BASEPTR keeps kernel mappings only where the two L4 tables name the same L3 tables."""
    guest = PvGuest()
    marked(guest)
    m = guest.mfn
    assert guest.make_table(50, {5: m[55] << 12 | P | RW}, L1) == 0
    assert guest.make_table(51, {0: m[50] << 12 | P | RW | US}, 2) == 0
    assert guest.make_table(52, {0: m[51] << 12 | P | RW | US}, L3) == 0
    guest.poke(guest.va(55), "<Q", 0xABC)
    same = {272: m[guest.L3] << 12 | P | RW | US}
    other = {**same, 273: m[52] << 12 | P | RW | US}
    assert guest.make_table(53, same, L4) == 0 and guest.make_table(54, other, L4) == 0
    guest.peek(guest.va(20))
    before = fills(guest)
    assert guest.mmuext(NEW_BASEPTR, m[53]) == 0
    guest.peek(guest.va(20))
    assert fills(guest) == before
    assert guest.mmuext(NEW_BASEPTR, m[54]) == 0
    there = BASE + (1 << 39) + (5 << 12)
    assert guest.peek(there)[0] == 0xABC
    assert guest.mmuext(NEW_BASEPTR, m[53]) == 0
    with pytest.raises(GuestFault):
        guest.peek(there)


@pytest.mark.parametrize("seed", range(12))
def test_no_flush_leaves_anything_behind(seed):
    """Random changes by mmu_update and update_va_mapping, at two places at once, of one entry or of a whole table: after a flush
    every read and write does what the page tables say."""
    rng = random.Random(seed)
    guest = PvGuest()
    marked(guest)
    m = guest.mfn
    contents = {m[i]: 0x1000 + i for i in PAGES}
    l2 = guest.mfn[guest.L2] << 12
    if seed % 3 == 0:                                   # met in several places
        assert guest.mmu_update((l2 | 8, m[guest.L1] << 12 | P | RW | US))[0] == 0
    assert guest.make_table(50, {i: m[i] << 12 | P | RW | A | D for i in PAGES}, L1) == 0
    places = [BASE, ALIAS, BASE + (2 << 21)]
    for _ in range(40):
        for _ in range(rng.randrange(1, 30)):
            kind, i = rng.randrange(8), rng.choice(PAGES)
            value = rng.choice([0, P, P | RW, P | RW | A | D, P | A, P | RW | US, P | NX]) | m[rng.choice(PAGES)] << 12
            if kind < 3:
                guest.set_pte(i, value)
            elif kind < 5:
                guest.vcpu.hypercall(14, guest.va(i), value, rng.choice([0, 0, 2]))
            elif kind == 5:
                entry = rng.choice([0, m[50] << 12 | P | RW | US, m[50] << 12 | P | US])
                assert guest.mmu_update((l2 | 16, entry))[0] == 0
            else:
                try:
                    guest.peek(rng.choice(places) + (i << 12))
                except GuestFault:
                    pass
        how = rng.choice([TLB_FLUSH_LOCAL, TLB_FLUSH_ALL, NEW_BASEPTR])
        assert guest.mmuext(how, guest.vcpu.cr3 >> 12 if how == NEW_BASEPTR else 0) == 0
        for place in places:
            for i in rng.sample(PAGES, 6):
                check(guest, place + (i << 12), contents)
    audit(guest)
