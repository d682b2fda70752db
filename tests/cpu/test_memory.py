"""Machine memory: allocation, references, contents."""

import numpy
import pytest

from xenfast._core import Memory

ALL_ONES = (1 << 64) - 1


@pytest.fixture
def memory():
    return Memory(64)


def test_new_memory_is_free_and_unmapped(memory):
    """A new memory has only free frames, none of them in the M2P."""
    assert (memory.frames, memory.free_pages) == (64, 64)
    assert memory.owner(5) is None
    assert (memory.m2p == ALL_ONES).all()


def test_alloc_gives_zeroed_owned_frames(memory):
    """Allocated frames belong to the domain, hold one reference, no type, and zeros."""
    mfns = memory.alloc(3, 10)
    assert mfns.dtype == numpy.uint64 and len(set(mfns.tolist())) == 10
    for mfn in mfns:
        assert (memory.owner(mfn), memory.count(mfn), memory.type(mfn)) == (3, 1, (0, 0))
        assert not any(memory.view(mfn))
    assert memory.free_pages == 54


def test_contiguous(memory):
    """A contiguous allocation finds adjacent frames, or says that there are none."""
    singles = memory.alloc(1, 64)
    memory.free(singles[10:20])
    memory.free(singles[30:35])
    run = memory.alloc(2, 8, contiguous=True)
    assert (numpy.diff(run) == 1).all()
    with pytest.raises(MemoryError):
        memory.alloc(2, 6, contiguous=True)


def test_alloc_of_too_much_takes_nothing(memory):
    """An allocation that fails leaves the memory as it was."""
    with pytest.raises(MemoryError):
        memory.alloc(1, 65)
    assert memory.free_pages == 64


def test_free_forgets_contents(memory):
    """A frame that is allocated again holds zeros, and its M2P entry is gone."""
    (mfn,) = memory.alloc(1, 1).tolist()
    memory.view(mfn)[:4] = b"data"
    memory.m2p[mfn] = 7
    assert memory.free([mfn]) == 1
    assert memory.m2p[mfn] == ALL_ONES
    memory.alloc(2, 64)
    assert bytes(memory.view(mfn)[:4]) == bytes(4)


def test_referenced_frame_outlives_its_allocation(memory):
    """A frame with a user is freed by the last put_page, not by free(); nor is it freed twice."""
    (mfn,) = memory.alloc(1, 1).tolist()
    assert memory.get_page(mfn, 1)
    assert memory.free([mfn]) == 0
    assert memory.owner(mfn) == 1
    with pytest.raises(ValueError):
        memory.free([mfn])
    memory.put_page(mfn)
    assert memory.owner(mfn) is None


def test_get_page_checks_the_owner(memory):
    """A reference needs the right owner and an existing frame."""
    (mfn,) = memory.alloc(1, 1).tolist()
    assert not memory.get_page(mfn, 2)
    assert not memory.get_page(1 << 40, 1)
    assert not memory.get_page((mfn + 1) % 64, 1)


def test_shared_pages_are_writable_for_ever(memory):
    """A page that Xen shares holds a writable use of its own, so that it never becomes a page table."""
    (mfn,) = memory.alloc(1, 1, shared=True).tolist()
    assert memory.type(mfn) == (7, 1)
    memory.free([mfn])
    assert memory.owner(mfn) is None


def test_bounds(memory):
    """Frames that do not exist are refused."""
    for bad in (64, -1, 1 << 70):
        with pytest.raises((ValueError, OverflowError)):
            memory.view(bad)
        with pytest.raises((ValueError, OverflowError)):
            memory.wrote(bad)
    with pytest.raises(ValueError):
        memory.view(63, 2)


def test_views_keep_the_memory_alive():
    """A view is valid after the last other reference to its memory is gone."""
    view = Memory(4).view(1)
    view[0] = 5
    assert view[0] == 5


def test_big_memory_costs_nothing_until_used():
    """4 GiB of machine memory can be reserved; only frame table and M2P are paid for as they are used."""
    memory = Memory(1 << 20)
    memory.view((1 << 20) - 1)[0] = 1
    assert memory.array((1 << 20) - 1, dtype="u1")[0] == 1
