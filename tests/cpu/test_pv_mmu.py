"""mmu_update, update_va_mapping, mmuext_op, writable page tables, grant entries, and who sees which memory."""

import struct

import pytest

from tests.cpu.pvguest import (
    EFAULT,
    EINVAL,
    ENOSYS,
    EPERM,
    ESRCH,
    KERNEL,
    L1,
    L4,
    NX,
    RW,
    US,
    WRITABLE,
    A,
    D,
    P,
    PvGuest,
    audit,
)
from xenfast._core import GuestFault

M2P = 0xFFFF800000000000
PREEMPTED = 1 << 31


@pytest.fixture
def guest():
    g = PvGuest()
    yield g
    audit(g)


def test_mmu_update_counts_what_it_did(guest):
    """A failing request ends the batch; pdone says how many came before it."""
    good = (guest.pte(20), guest.mfn[20] << 12 | P)
    bad = (guest.pte(21), guest.mfn[0] << 12 | P | RW)
    assert guest.mmu_update(good, good, bad, good) == (-16, 2)
    assert guest.mmu_update() == (0, 0)


def test_mmu_update_preserve_ad(guest):
    """MMU_PT_UPDATE_PRESERVE_AD keeps the A and D bits that are set; a normal update does not."""
    entry = guest.mfn[20] << 12 | P
    assert guest.mmu_update((guest.pte(20), entry | A | D))[0] == 0
    assert guest.mmu_update((guest.pte(20) | 2, entry))[0] == 0
    assert int(guest.table(guest.mfn[3])[20]) & (A | D) == A | D
    assert guest.mmu_update((guest.pte(20), entry))[0] == 0
    assert int(guest.table(guest.mfn[3])[20]) & (A | D) == 0


def test_machphys_update(guest):
    """MMU_MACHPHYS_UPDATE sets the M2P entry of an own frame only."""
    assert guest.mmu_update((guest.mfn[20] << 12 | 1, 0x777))[0] == 0
    assert int(guest.memory.m2p[guest.mfn[20]]) == 0x777
    assert guest.mmu_update((127 << 12 | 1, 5))[0] == EINVAL
    assert guest.mmu_update((1 << 50 | 1, 5))[0] == EINVAL


def test_mmu_update_of_plain_memory(guest):
    """An update of a frame that is no table writes a word of it; of a GDT frame it fails."""
    assert guest.mmu_update((guest.mfn[20] << 12 | 8, 0xABCD))[0] == 0
    assert guest.peek(guest.va(20) + 8) == (0xABCD,)
    guest.readonly(21)
    assert guest.vcpu.set_gdt([guest.mfn[21]], 1) == 0
    assert guest.mmu_update((guest.mfn[21] << 12, 0xFFFF))[0] == EINVAL


def test_foreign_domains(guest):
    """No other domain's tables, and not by its own number either."""
    assert guest.mmu_update((guest.pte(20), 0), domid=2)[0] == EPERM
    assert guest.mmu_update((guest.pte(20), 0), domid=1)[0] == ESRCH
    assert guest.mmu_update((guest.pte(20), 0), domid=3 << 16 | 0x7FF0)[0] == EPERM
    assert guest.vcpu.hypercall(26, guest.va(6), 1, 0, 2) == EPERM
    assert guest.vcpu.hypercall(22, guest.va(20), 0, 0, 2) == EPERM


def test_arguments_that_fault(guest):
    """Requests the guest cannot read are -EFAULT, also in Xen's own area and beyond canonical addresses."""
    for at in (0, 0x1000, guest.va(64), M2P, 0xFFFF830000000000, 1 << 47, (1 << 64) - 8):
        assert guest.vcpu.hypercall(1, at, 1, 0, 0x7FF0) == EFAULT
        assert guest.vcpu.hypercall(26, at, 1, 0, 0x7FF0) == EFAULT


def test_preempted_mmu_update(guest):
    """A continuation (MMU_UPDATE_PREEMPTED) adds to the count of what was done before."""
    at = guest.va(guest.DATA)
    guest.poke(at, "<QQ", guest.pte(20), guest.mfn[20] << 12 | P)
    guest.poke(at + 4088, "<I", 41)
    assert guest.vcpu.hypercall(1, at, 1 | PREEMPTED, at + 4088, 0x7FF0) == 0
    assert guest.peek(at + 4088, "<I") == (42,)


def test_update_va_mapping(guest):
    """Changes the entry that maps an address; with UVMF_INVLPG the vcpu sees it at once."""
    guest.poke(guest.va(30), "<Q", 30)
    guest.poke(guest.va(31), "<Q", 31)
    assert guest.vcpu.hypercall(14, guest.va(30), guest.mfn[31] << 12 | P | RW, 2) == 0
    assert guest.peek(guest.va(30)) == (31,)
    assert guest.vcpu.hypercall(14, guest.va(30), 0, 1 | 4) == 0
    with pytest.raises(GuestFault):
        guest.peek(guest.va(30))


def test_update_va_mapping_needs_a_table(guest):
    """There must be an L1 table for the address, outside Xen's area."""
    for va in (0, 1 << 47, M2P, 0xFFFF87FFFFFFF000, guest.va(512)):
        assert guest.vcpu.hypercall(14, va, guest.mfn[20] << 12 | P, 0) == EINVAL


def test_type_change_drops_stale_writes(guest):
    """A page unmapped without a flush and made a table cannot be written by the old translation."""
    guest.poke(guest.va(20), "<Q", 0)                # the TLB holds it writable now
    mfn = guest.readonly(20)
    assert guest.mmuext(0, mfn) == 0
    with pytest.raises(GuestFault):
        guest.poke(guest.va(20), "<Q", guest.mfn[0] << 12 | P | RW)
    assert int(guest.memory.array(mfn)[0]) == 0


def test_type_change_drops_stale_writes_of_other_vcpus():
    """The same for the TLB of another vcpu of the domain."""
    guest = PvGuest(vcpus=2)
    other = guest.vcpus[1]
    other.copy_to_guest(guest.va(20), bytes(8))
    mfn = guest.readonly(20)
    assert guest.mmuext(0, mfn) == 0
    with pytest.raises(GuestFault):
        other.copy_to_guest(guest.va(20), b"12345678")
    audit(guest)


def test_writable_page_tables(guest):
    """With VMASST_TYPE_writable_pagetables a kernel's write to its L1 table goes through validation; without, it faults."""
    entry = guest.va(3) + 20 * 8
    with pytest.raises(GuestFault):
        guest.vcpu.store(entry, 0)
    assert guest.vcpu.hypercall(21, 0, 2) == 0
    guest.vcpu.store(entry, 0)
    assert int(guest.table(guest.mfn[3])[20]) == 0
    with pytest.raises(GuestFault):
        guest.vcpu.store(entry, guest.mfn[0] << 12 | P | RW)
    guest.vcpu.store(entry, guest.mfn[20] << 12 | P | RW)
    assert guest.memory.type(guest.mfn[20]) == (WRITABLE, 1)
    guest.vcpu.store(entry, P | A, 1)                 # a part of an entry
    assert guest.memory.type(guest.mfn[20]) == (WRITABLE, 0)
    with pytest.raises(GuestFault):
        guest.vcpu.store(entry + 4, 0, 8)             # parts of two


def test_writable_page_tables_are_l1_only(guest):
    """Writes to higher tables fault in any case."""
    assert guest.vcpu.hypercall(21, 0, 2) == 0
    for i in range(3):
        with pytest.raises(GuestFault):
            guest.vcpu.store(guest.va(i), 0)


def test_m2p_is_readable(guest):
    """The kernel reads the M2P at its place, and cannot write it; behind the table and in the rest of Xen's area nothing is."""
    assert guest.vcpu.read(M2P + 8 * guest.mfn[20], 8) == struct.pack("<Q", 20)
    with pytest.raises(GuestFault):
        guest.peek(M2P + 8 * guest.mfn[20])           # hypercalls take no arguments from there
    for address in (M2P + 8 * guest.mfn[20], M2P + 4096, 0xFFFF82D080000000):
        with pytest.raises(GuestFault):
            guest.vcpu.write(address, bytes(8))
    with pytest.raises(GuestFault):
        guest.vcpu.read(M2P + 4096, 8)


def test_new_baseptr(guest):
    """NEW_BASEPTR takes a valid L4 of the guest's own, and holds it; the old one is let go."""
    assert guest.make_table(20, {272: guest.mfn[1] << 12 | P | RW}, L4) == 0
    assert guest.mmuext(5, guest.mfn[20]) == 0
    assert guest.vcpu.cr3 == guest.mfn[20] << 12
    assert guest.mmuext(4, guest.mfn[20]) == 0
    assert guest.memory.type(guest.mfn[20]) == (L4, 1)
    for bad in (guest.mfn[1], guest.mfn[30], 0, 127, 1 << 60):
        assert guest.mmuext(5, bad) == EINVAL
    assert guest.vcpu.cr3 == guest.mfn[20] << 12


def test_user_baseptr(guest):
    """NEW_USER_BASEPTR: the same for user mode, and 0 for none."""
    assert guest.make_table(20, {}, L4) == 0
    assert guest.mmuext(15, guest.mfn[20]) == 0
    assert guest.vcpu.user_cr3 == guest.mfn[20] << 12
    assert guest.mmuext(15, guest.mfn[1]) == EINVAL
    assert guest.mmuext(15, 0) == 0
    assert guest.vcpu.user_cr3 == 0
    assert guest.memory.type(guest.mfn[20]) == (L4, 1)


def test_clear_and_copy_page(guest):
    """CLEAR_PAGE and COPY_PAGE work on own plain frames, not on tables or others' frames."""
    guest.poke(guest.va(20), "<Q", 77)
    assert guest.mmuext(17, guest.mfn[21], guest.mfn[20]) == 0
    assert guest.peek(guest.va(21)) == (77,)
    assert guest.mmuext(16, guest.mfn[20]) == 0
    assert guest.peek(guest.va(20)) == (0,)
    assert guest.mmuext(16, guest.mfn[0]) == EINVAL
    assert guest.mmuext(16, 127) == EINVAL
    assert guest.mmuext(17, guest.mfn[20], 127) == EINVAL
    assert guest.mmuext(17, guest.mfn[1], guest.mfn[20]) == EINVAL


def test_tlb_flushes(guest):
    """All kinds of flush succeed; a mask that cannot be read is -EFAULT."""
    at = guest.va(7)
    guest.poke(at, "<Q", 1)
    for cmd in (6, 7, 10, 11, 12, 18):
        assert guest.mmuext(cmd, guest.va(20)) == 0
    for cmd in (8, 9):
        assert guest.mmuext(cmd, guest.va(20), at) == 0
        assert guest.mmuext(cmd, guest.va(20), 0x123) == EFAULT
    assert guest.mmuext(7, 0x1234 << 48) == 0
    for cmd in (14, 19, 20, 21, 1 << 31):
        assert guest.mmuext(cmd) == ENOSYS


def test_grant_entries(guest):
    """A granted frame of another domain is mapped and unmapped by address; the entry holds it meanwhile."""
    mfn = int(guest.memory.alloc(2, 1)[0])
    guest.memory.array(mfn)[0] = 99
    assert guest.set_pte(20, 0) == 0
    assert guest.vcpu.grant_map(guest.va(20), mfn) == 0
    assert guest.peek(guest.va(20)) == (99,)
    guest.poke(guest.va(20), "<Q", 98)
    assert guest.memory.type(mfn) == (WRITABLE, 1)
    audit(guest)
    assert guest.vcpu.grant_unmap(guest.va(20), guest.mfn[21]) == -2
    assert guest.vcpu.grant_unmap(guest.va(20), mfn) == 0
    with pytest.raises(GuestFault):
        guest.peek(guest.va(20))
    assert guest.memory.count(mfn) == 1


def test_grant_entries_by_pte_address(guest):
    """GNTMAP_contains_pte: the machine address of an L1 entry; nothing else will do."""
    mfn = int(guest.memory.alloc(2, 1)[0])
    assert guest.vcpu.grant_map(guest.pte(20), mfn, contains_pte=True, readonly=True) == 0
    assert int(guest.table(guest.mfn[3])[20]) & (RW | P) == P
    assert guest.vcpu.grant_unmap(guest.pte(20), mfn, contains_pte=True) == 0
    for bad in (guest.pte(20) | 4, guest.mfn[2] << 12, guest.mfn[30] << 12, 127 << 12, 1 << 60):
        assert guest.vcpu.grant_map(bad, mfn, contains_pte=True) == EINVAL


def test_grant_entry_that_the_guest_overwrites(guest):
    """The entry's own reference goes with it; the grant's, which the caller holds, stays."""
    mfn = int(guest.memory.alloc(2, 1)[0])
    assert guest.memory.get_page(mfn, 2)
    assert guest.vcpu.grant_map(guest.va(20), mfn) == 0
    assert guest.set_pte(20, guest.mfn[20] << 12 | P | RW) == 0
    assert guest.memory.count(mfn) == 2
    assert guest.vcpu.grant_unmap(guest.va(20), mfn) == -2
    assert guest.set_pte(20, mfn << 12 | P | RW) != 0
    guest.memory.put_page(mfn)


def test_unmap_and_replace(guest):
    """GNTTABOP_unmap_and_replace moves another mapping into the place of the granted frame."""
    mfn = int(guest.memory.alloc(2, 1)[0])
    guest.poke(guest.va(21), "<Q", 21)
    assert guest.vcpu.grant_map(guest.va(20), mfn) == 0
    assert guest.vcpu.grant_unmap(guest.va(20), mfn, replace=guest.va(21)) == 0
    assert guest.peek(guest.va(20)) == (21,)
    with pytest.raises(GuestFault):
        guest.peek(guest.va(21))


def test_table_as_grant(guest):
    """A page table of another domain cannot be mapped writable by a grant."""
    other = PvGuest(n=32, beside=guest, domid=2)
    assert guest.vcpu.grant_map(guest.va(20), other.mfn[3]) == EINVAL
    assert guest.vcpu.grant_map(guest.va(20), other.mfn[3], readonly=True) == 0
    assert guest.vcpu.grant_unmap(guest.va(20), other.mfn[3]) == 0


def test_user_mode_has_its_own_tables(guest):
    """In user mode the guest sees the user L4's mappings only, and no M2P; toggling back shows the kernel's."""
    l1, l2, l3, l4 = (guest.mfn[i] for i in (20, 21, 22, 23))
    for i in (20, 21, 22, 23):
        guest.readonly(i)
    guest.table(l1)[0] = guest.mfn[30] << 12 | P | RW | US
    guest.table(l2)[0], guest.table(l3)[0], guest.table(l4)[0] = l1 << 12 | 7, l2 << 12 | 7, l3 << 12 | 7
    assert guest.mmuext(3, l4) == 0
    assert guest.mmuext(15, l4) == 0
    guest.poke(guest.va(30), "<Q", 30)
    guest.vcpu.kernel_mode = False
    assert guest.vcpu.read(0, 8) == struct.pack("<Q", 30)
    for address in (guest.va(30), M2P + 8 * guest.mfn[20]):
        with pytest.raises(GuestFault):
            guest.vcpu.read(address, 8)
    assert guest.vcpu.copy_from_guest(guest.va(30), 8) == struct.pack("<Q", 30)
    guest.vcpu.kernel_mode = True
    assert guest.vcpu.read(guest.va(30), 8) == struct.pack("<Q", 30)
    with pytest.raises(GuestFault):
        guest.vcpu.read(0, 8)


def test_entries_read_back(guest):
    """What the guest set is what it reads, but for the bits Xen adds."""
    assert guest.set_pte(20, guest.mfn[20] << 12 | P | RW | NX | 1 << 9) == 0
    assert guest.peek(guest.va(3) + 160) == (guest.mfn[20] << 12 | P | RW | NX | 1 << 9 | US | KERNEL,)
    assert guest.memory.type(guest.mfn[3])[0] == L1
