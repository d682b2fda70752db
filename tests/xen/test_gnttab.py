"""Grant tables: mapping by a Python domain, and what the granting guest sees."""

import pytest

from xenfast._core import Memory
from xenfast.abi import grant_table as abi
from xenfast.errors import XenError
from xenfast.xen.hypervisor import Hypervisor


@pytest.fixture
def hv():
    return Hypervisor(1, memory=Memory(64))


@pytest.fixture
def guest(hv):
    return hv.create_domain("guest")


def test_map_and_unmap(hv, guest):
    """A mapped grant is marked as in use until it is unmapped."""
    mfn = int(guest.alloc_pages(1)[0])
    ref = guest.gnttab.grant(mfn, 0)
    mapping = guest.gnttab.map(ref)
    assert mapping.mfn == mfn
    mapping.view[:4] = b"data"
    assert bytes(hv.memory.view(mfn)[:4]) == b"data"
    assert guest.gnttab.entry(ref)[0] == abi.GTF_permit_access | abi.GTF_reading | abi.GTF_writing
    mapping.unmap()
    assert guest.gnttab.entry(ref)[0] == abi.GTF_permit_access
    assert hv.memory.count(mfn) == 1


@pytest.mark.parametrize(
    "frame, to, readonly, status",
    [
        ("own", 5, False, abi.GNTST_general_error),  # granted to somebody else
        ("own", 0, True, abi.GNTST_general_error),  # read-only
        (0xFFFFFF, 0, False, abi.GNTST_general_error),  # no such frame
    ],
)
def test_map_is_refused(hv, guest, frame, to, readonly, status):
    """A grant for another domain, read-only, or of a frame that is not the granter's, cannot be mapped for writing."""
    mfn = int(guest.alloc_pages(1)[0]) if frame == "own" else frame
    ref = guest.gnttab.grant(mfn, to, readonly)
    with pytest.raises(XenError) as e:
        guest.gnttab.map(ref)
    assert e.value.errno == status
    assert not guest.gnttab.active
    assert guest.gnttab.entry(ref)[0] & (abi.GTF_reading | abi.GTF_writing) == 0
