"""GDT and LDT of a PV guest: which descriptors and selectors it can have."""

import pytest

from tests.cpu.pvguest import EFAULT, EINVAL, RW, SEG, P, PvGuest, audit

CODE64, CODE32, DATA = 0x00AFFB000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF
KERNEL_CODE, CALL_GATE, TSS, LDT_DESC = 0x00AF9B000000FFFF, 0x00008C0000080000, 0x0000890000000067, 0x0000820000000067
DPL3 = 3 << 45


@pytest.fixture
def guest():
    g = PvGuest()
    yield g
    audit(g)


def gdt(guest, i, *entries):
    """Make the guest's frame i a GDT."""
    guest.table(guest.mfn[i])[:len(entries)] = entries
    return guest.vcpu.set_gdt([guest.readonly(i)], len(entries))


def test_gdt(guest):
    """Code and data descriptors are accepted, with their DPL raised to 3."""
    assert gdt(guest, 20, 0, KERNEL_CODE, DATA) == 0
    assert int(guest.table(guest.mfn[20])[1]) == KERNEL_CODE | DPL3
    assert guest.vcpu.load_segments(cs=0x0B, ss=0x13) == 0


@pytest.mark.parametrize("bad", [CALL_GATE, TSS, LDT_DESC])
def test_system_descriptors(guest, bad):
    """Gates, TSS and LDT descriptors are refused, unless they are not present."""
    assert gdt(guest, 20, 0, bad) == EINVAL
    assert guest.memory.type(guest.mfn[20])[1] == 0
    assert gdt(guest, 21, 0, bad & ~(1 << 47)) == 0


def test_set_gdt_hypercall(guest):
    """Takes a list of own frames; a bad one leaves the old GDT in place; more than 7168 entries are refused."""
    assert gdt(guest, 20, 0, CODE64) == 0
    at = guest.va(7)
    guest.poke(at, "<3Q", guest.readonly(21), guest.readonly(22), 127)
    assert guest.vcpu.hypercall(2, at, 1024) == 0
    assert guest.vcpu.gdt_frames() == [guest.mfn[21], guest.mfn[22]]
    assert guest.memory.type(guest.mfn[20])[1] == 0
    assert guest.vcpu.hypercall(2, at, 1025) == EINVAL
    assert guest.vcpu.hypercall(2, at, 7169) == EINVAL
    assert guest.vcpu.hypercall(2, 0x1000, 1) == EFAULT
    assert guest.vcpu.gdt_frames() == [guest.mfn[21], guest.mfn[22]]
    assert guest.vcpu.hypercall(2, 0, 0) == 0


def test_update_descriptor(guest):
    """Writes a checked descriptor to a GDT frame or to plain memory, not to a page table."""
    assert gdt(guest, 20, 0, CODE64) == 0
    machine = guest.mfn[20] << 12 | 0x10
    assert guest.vcpu.hypercall(10, machine, DATA & ~DPL3) == 0
    assert int(guest.table(guest.mfn[20])[2]) == DATA
    assert guest.vcpu.hypercall(10, machine, CALL_GATE) == EINVAL
    assert guest.vcpu.hypercall(10, machine + 4, DATA) == EINVAL
    assert guest.vcpu.hypercall(10, guest.mfn[3] << 12, DATA) == EINVAL
    assert guest.vcpu.hypercall(10, 127 << 12, DATA) == EINVAL
    assert guest.vcpu.hypercall(10, guest.mfn[21] << 12, DATA) == 0
    assert int(guest.table(guest.mfn[21])[0]) == DATA


def test_xens_selectors(guest):
    """Xen's flat selectors work without any GDT of the guest's; its own ring-0 ones and null do not."""
    for cs in (0xE033, 0xE023):
        assert guest.vcpu.load_segments(cs=cs, ss=0xE02B) == 0
    for cs in (0, 3, 0xE008, 0xE02B, 0xE03B, 0xFFFF, 0x33):
        assert guest.vcpu.load_segments(cs=cs, ss=0xE02B) == EINVAL
    for ss in (0, 3, 0xE033, 0xE010, 0x2B):
        assert guest.vcpu.load_segments(cs=0xE033, ss=ss) == EINVAL


def test_bad_code_descriptors(guest):
    """Not present, both L and D, or not code: CS cannot be loaded."""
    assert gdt(guest, 20, 0, CODE64 & ~(1 << 47), CODE64 | 1 << 54, DATA, CODE32) == 0
    for index in (1, 2, 3):
        assert guest.vcpu.load_segments(cs=index * 8 | 3) == EINVAL
    assert guest.vcpu.load_segments(cs=0x23) == 0
    assert guest.vcpu.segment("cs") == (0x23, 0, 0xFFFFFFFF, 0xC0FB)


def test_ldt(guest):
    """Selectors of an LDT work while its page is mapped read-only and holds only good descriptors."""
    guest.table(guest.mfn[20])[:2] = CODE32, DATA
    assert guest.mmuext(13, guest.va(20), 2) == 0
    assert guest.vcpu.load_segments(cs=0x07, ss=0x0F) == EINVAL      # writable
    guest.readonly(20)
    assert guest.vcpu.load_segments(cs=0x07, ss=0x0F) == 0
    assert guest.memory.type(guest.mfn[20]) == (SEG, 0)
    assert guest.vcpu.load_segments(cs=0x17) == EINVAL               # beyond the limit
    assert guest.set_pte(20, guest.mfn[20] << 12 | P | RW) == 0
    guest.table(guest.mfn[20])[9] = CALL_GATE
    guest.readonly(20)
    assert guest.vcpu.load_segments(cs=0x07) == EINVAL


def test_set_ldt(guest):
    """A base that is not a page of the guest's, or more than 8192 entries, are refused."""
    for base, entries in ((guest.va(20) + 8, 1), (1 << 47, 1), (0xFFFF800000000000, 1), (guest.va(20), 8193)):
        assert guest.mmuext(13, base, entries) == EINVAL
    assert guest.mmuext(13, 0, 0) == 0
    assert guest.mmuext(13, 0x1000, 8192) == 0
    assert guest.vcpu.load_segments(cs=0x07) == EINVAL               # not mapped
