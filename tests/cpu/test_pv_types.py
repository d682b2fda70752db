"""Page typing: what a PV guest can and cannot put into its page tables (xen/arch/x86/mm.c)."""

import pytest

from tests.cpu.pvguest import (
    ADDR,
    BASE,
    EBUSY,
    EINVAL,
    KERNEL,
    L1,
    L2,
    L3,
    L4,
    NX,
    PINNED,
    RW,
    SEG,
    US,
    VALIDATED,
    WRITABLE,
    A,
    D,
    G,
    P,
    PvGuest,
    audit,
)


@pytest.fixture
def guest():
    g = PvGuest()
    yield g
    audit(g)


def test_boot_tables(guest):
    """Pinning the L4 validates all four levels, and every frame is used as what the tables make of it."""
    m = guest.mfn
    assert [guest.memory.type(m[i])[0] for i in range(4)] == [L4, L3, L2, L1]
    assert guest.memory.type(m[10]) == (WRITABLE, 1)
    assert guest.memory.count(m[10]) == 2


def test_entries_become_user_mappings(guest):
    """Xen sets U in every entry, bit 52 in what was a kernel mapping, and G in what was a user mapping."""
    assert guest.set_pte(20, guest.mfn[20] << 12 | P | US) == 0
    user = int(guest.table(guest.mfn[3])[20])
    kernel = int(guest.table(guest.mfn[3])[21])
    assert user & (US | G | KERNEL) == US | G
    assert kernel & (US | G | KERNEL) == US | KERNEL


def test_page_table_cannot_be_mapped_writable(guest):
    """No level of table can be mapped writable while it is one."""
    for i in range(4):
        assert guest.set_pte(i, guest.mfn[i] << 12 | P | RW) == EBUSY
        assert guest.set_pte(40, guest.mfn[i] << 12 | P | RW) == EBUSY


def test_mapped_page_cannot_become_a_table(guest):
    """A frame that is mapped writable anywhere cannot be pinned as a table, even if it is all zeros."""
    for cmd in range(4):
        assert guest.mmuext(cmd, guest.mfn[20]) == EINVAL
    assert guest.readonly(20)
    for cmd in range(4):
        assert guest.mmuext(cmd, guest.mfn[20]) == 0
        assert guest.mmuext(4, guest.mfn[20]) == 0


def test_unpinned_table_becomes_writable_again(guest):
    """A table is a plain page again after its last use, and can then be of another level."""
    mfn = guest.readonly(20)
    assert guest.mmuext(0, mfn) == 0
    assert guest.set_pte(20, mfn << 12 | P | RW) == EBUSY
    assert guest.mmuext(4, mfn) == 0
    assert guest.set_pte(20, mfn << 12 | P | RW) == 0
    assert guest.memory.type(mfn) == (WRITABLE, 1)


def test_pin_twice(guest):
    """Pinning holds once; a second pin and a second unpin fail and change nothing."""
    mfn = guest.readonly(20)
    assert (guest.mmuext(0, mfn), guest.mmuext(0, mfn)) == (0, EINVAL)
    audit(guest)
    assert (guest.mmuext(4, mfn), guest.mmuext(4, mfn)) == (0, EINVAL)


def test_foreign_frames(guest):
    """A frame of another domain, a free one, Xen's or one that does not exist cannot be mapped."""
    other = int(guest.memory.alloc(2, 1)[0])
    free = max(set(range(128)) - set(guest.mfn) - {other, guest.shared})
    for mfn in (other, free):
        for flags in (P, P | RW):
            assert guest.set_pte(20, mfn << 12 | flags) == EBUSY
    for mfn in (128, 1 << 39, ADDR >> 12):
        assert guest.set_pte(20, mfn << 12 | P) == EINVAL
    assert guest.mmuext(0, other) == EINVAL


def test_reserved_bits(guest):
    """PWT, PCD, PAT and Xen's grant bit are refused in L1 entries, and PSE and G too above; NX and available bits are not."""
    frame = guest.mfn[20] << 12 | P | RW
    for bad in (8, 16, 128, 1 << 62):
        assert guest.set_pte(20, frame | bad) == EINVAL
    for good in (NX, 1 << 9, 1 << 11, 1 << 52, 1 << 58, G, US):
        assert guest.set_pte(20, frame | good) == 0
    l2 = guest.mfn[2]
    for bad in (8, 16, 128, 256):
        assert guest.mmu_update((l2 << 12, guest.mfn[3] << 12 | P | RW | bad))[0] == EINVAL


def test_no_superpages(guest):
    """A 2 MiB mapping is refused."""
    assert guest.mmu_update((guest.mfn[2] << 12 | 8, P | RW | 128))[0] == EINVAL


@pytest.mark.parametrize("type", [L2, L3, L4])
def test_wrong_level(guest, type):
    """An entry must name a table of the level below."""
    below = guest.readonly(20)
    assert guest.mmuext(type - 1, below) == 0            # the same level, empty
    assert guest.make_table(21, {3: below << 12 | P | RW}, type) == EINVAL
    assert guest.memory.type(guest.mfn[21])[1] == 0


def test_failed_validation_gives_everything_back(guest):
    """One bad entry behind many good ones: the table is refused, and no reference is left."""
    entries = dict.fromkeys(range(100), guest.mfn[20] << 12 | P)
    entries[300] = guest.mfn[0] << 12 | P | RW
    before = guest.memory.count(guest.mfn[20])
    assert guest.make_table(21, entries, L1) == EBUSY
    assert guest.memory.count(guest.mfn[20]) == before


def test_failed_validation_of_a_tree(guest):
    """The same three levels down."""
    guest.readonly(22)
    guest.table(guest.mfn[22])[7] = guest.mfn[0] << 12 | P | RW
    guest.readonly(21)
    guest.table(guest.mfn[21])[0] = guest.mfn[22] << 12 | P
    assert guest.make_table(20, {0: guest.mfn[21] << 12 | P}, L3) == EBUSY


def test_xen_slots(guest):
    """L4 slots 256 to 271 are Xen's: they cannot be set, and validation clears what the guest left there."""
    l4 = guest.mfn[0]
    for slot in (256, 271):
        assert guest.mmu_update((l4 << 12 | slot * 8, guest.mfn[1] << 12 | P))[0] == EINVAL
        assert guest.mmu_update((l4 << 12 | slot * 8, 0))[0] == EINVAL
    for slot in (0, 255, 272, 511):
        assert guest.mmu_update((l4 << 12 | slot * 8, guest.mfn[1] << 12 | P | RW))[0] == 0
    assert guest.make_table(20, {260: guest.mfn[1] << 12 | P, 1: guest.mfn[1] << 12 | P}, L4) == 0
    assert int(guest.table(guest.mfn[20])[260]) == 0


def test_self_map(guest):
    """A table may map itself read-only, at levels 2 to 4, without counting; never writable."""
    for i, type in ((20, L2), (21, L3), (22, L4)):
        mfn = guest.mfn[i]
        assert guest.make_table(i, {5: mfn << 12 | P}, type) == 0
        assert guest.memory.type(mfn) == (type, 1)
        assert guest.mmu_update((mfn << 12 | 6 * 8, mfn << 12 | P))[0] == 0
        assert guest.mmu_update((mfn << 12 | 7 * 8, mfn << 12 | P | RW))[0] == EINVAL
        assert guest.mmuext(4, mfn) == 0
    assert guest.make_table(23, {5: guest.mfn[23] << 12 | P | RW}, L4) == EINVAL


def test_self_map_does_not_make_tables_writable(guest):
    """Through a self map a table appears as data, which update_va_mapping and grants must not take for an L1."""
    l4 = guest.mfn[0]
    assert guest.mmu_update((l4 << 12 | 300 * 8, l4 << 12 | P))[0] == 0
    va = (0xFFFF << 48) | 300 << 39 | 300 << 30 | 300 << 21 | 300 << 12
    assert guest.peek(va + 272 * 8)[0] == int(guest.table(l4)[272])
    assert guest.vcpu.hypercall(14, va, guest.mfn[0] << 12 | P | RW, 0) == EINVAL
    assert guest.vcpu.grant_map(va, guest.mfn[20]) == EINVAL


def test_loops_between_tables(guest):
    """Two tables of a level cannot name each other: that would keep both for ever."""
    a = guest.readonly(20)
    assert guest.mmuext(3, a) == 0
    assert guest.make_table(21, {0: a << 12 | P}, L4) == EINVAL


def test_shared_table(guest):
    """A table may be named many times; it is validated once and let go with the last name."""
    l1 = guest.readonly(20)
    assert guest.mmuext(0, l1) == 0
    assert guest.make_table(21, dict.fromkeys(range(512), l1 << 12 | P), L2) == 0
    assert guest.memory.type(l1) == (L1, 513)
    assert guest.mmuext(4, l1) == 0
    assert guest.mmuext(4, guest.mfn[21]) == 0
    assert guest.memory.type(l1)[1] == 0


def test_released_subtree(guest):
    """Dropping the only name of an unpinned table lets all below it go."""
    l1 = guest.readonly(20)
    guest.table(l1)[9] = guest.mfn[30] << 12 | P | RW
    l2 = guest.mfn[2]
    assert guest.mmu_update((l2 << 12 | 8, l1 << 12 | P | RW))[0] == 0
    assert guest.memory.type(guest.mfn[30]) == (WRITABLE, 2)
    assert guest.mmu_update((l2 << 12 | 8, 0))[0] == 0
    assert guest.memory.type(guest.mfn[30]) == (WRITABLE, 1)
    assert guest.memory.type(l1)[1] == 0


def test_fast_path_keeps_references(guest):
    """Changing only A, D, NX, U or available bits of an entry does not count the frame again."""
    mfn = guest.mfn[20]
    for flags in (P | RW, P | RW | A | D, P | RW | NX, P | RW | US, P | RW | 1 << 9):
        assert guest.set_pte(20, mfn << 12 | flags) == 0
        assert (guest.memory.count(mfn), guest.memory.type(mfn)) == (2, (WRITABLE, 1))
    assert guest.set_pte(20, mfn << 12 | P) == 0
    assert (guest.memory.count(mfn), guest.memory.type(mfn)[1]) == (2, 0)


def test_shared_info_frame_stays_writable(guest):
    """A page that Xen shares can be mapped, and never becomes a table or descriptors."""
    assert guest.set_pte(20, guest.shared << 12 | P | RW) == 0
    assert guest.set_pte(20, 0) == 0
    assert guest.mmuext(0, guest.shared) == EINVAL
    assert guest.vcpu.set_gdt([guest.shared], 512) == EINVAL


def test_frame_freed_under_a_mapping(guest):
    """A frame given up while mapped stays the guest's until it is unmapped, and cannot be mapped again after that."""
    mfn = guest.mfn[20]
    guest.memory.free([mfn])
    assert guest.memory.owner(mfn) == 1
    audit(guest)
    assert guest.set_pte(20, 0) == 0
    assert guest.memory.owner(mfn) is None
    assert guest.set_pte(20, mfn << 12 | P) == EBUSY


def test_freed_page_is_zero_for_the_next_owner(guest):
    """What the last owner wrote is not there for the next one, nor reachable by an old translation."""
    mfn = guest.mfn[20]
    guest.poke(guest.va(20), "<Q", 0x1234)
    assert guest.set_pte(20, 0) == 0
    guest.memory.free([mfn])
    other = PvGuest(n=63, beside=guest, domid=2)
    assert mfn in other.mfn
    assert int(guest.memory.array(mfn)[0]) == 0
    with pytest.raises(Exception, match="cannot write"):
        guest.poke(guest.va(20), "<Q", 1)


def test_descriptor_page_excludes_writing(guest):
    """A GDT frame cannot be mapped writable, and a writable frame cannot be a GDT."""
    assert guest.vcpu.set_gdt([guest.mfn[20]], 512) == EINVAL
    guest.readonly(20)
    assert guest.vcpu.set_gdt([guest.mfn[20]], 512) == 0
    assert guest.memory.type(guest.mfn[20]) == (SEG, 1)
    assert guest.set_pte(20, guest.mfn[20] << 12 | P | RW) == EBUSY
    assert guest.mmuext(0, guest.mfn[20]) == EINVAL
    assert guest.vcpu.set_gdt([], 0) == 0
    assert guest.set_pte(20, guest.mfn[20] << 12 | P | RW) == 0


def test_audit_sees_a_lost_reference(guest):
    """The audit itself notices a count that is off by one."""
    assert guest.memory.get_page(guest.mfn[20], 1)
    with pytest.raises(AssertionError):
        audit(guest)
    audit(guest, held={guest.mfn[20]: (1, 0)})
    guest.memory.put_page(guest.mfn[20])


def test_release(guest):
    """A domain that ends gives everything back."""
    guest.vcpu.release()
    guest.vcpus.clear()
    guest.domain.release_page_tables()
    audit(guest)
    table = guest.memory.frame_table
    assert not (table["flags"] & (VALIDATED | PINNED)).any()
    guest.memory.free(guest.mfn + [guest.shared])
    assert guest.memory.free_pages == guest.memory.frames


def test_validate_holds_nothing(guest):
    """validate() says whether a table would do, and leaves no type behind."""
    mfn = guest.readonly(20)
    assert guest.domain.validate(mfn, 1) == 0
    guest.table(mfn)[0] = guest.mfn[0] << 12 | P | RW
    assert guest.domain.validate(mfn, 1) == EBUSY
    assert guest.memory.type(mfn)[1] == 0


def test_base_is_the_first_guest_slot():
    """The tests map their guest at the first L4 slot behind Xen's."""
    assert BASE >> 39 & 511 == 272
