"""grant_table_op by PV guests: one grants, the other maps and copies; both versions of the table."""

import struct

import pytest

from tests.xen.pvguest import DATA, L1, D, P, PvGuest
from xenfast.abi import grant_table as abi
from xenfast.abi import xen
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import VirtualClock

EINVAL, EPERM, EBUSY = -22, -1, -16
IN_USE = abi.GTF_reading | abi.GTF_writing


@pytest.fixture
def hv():
    with Hypervisor(1, clock=VirtualClock()) as hv:
        yield hv


class Pair:
    """Two guests: ``a`` grants, ``b`` uses; a's table is mapped in a, as a guest's is."""

    def __init__(self, hv, version):
        self.hv = hv
        self.a, self.b = PvGuest(hv), PvGuest(hv)
        self.version = version
        if version == 2:
            assert self.a.op("grant_table_op", abi.GNTTABOP_set_version, abi.set_version, count=1, version=2)[0] == 0
        self.table = hv.memory.view(self.a.domain.gnttab.frames[0])

    def grant(self, ref, i, flags=0, domid=None):
        """Grant a's frame i to b."""
        flags |= abi.GTF_permit_access
        domid = self.b.domain.domid if domid is None else domid
        if self.version == 1:
            struct.pack_into("<HHI", self.table, 8 * ref, flags, domid, self.a.mfn[i])
        else:
            struct.pack_into("<HHIQ", self.table, 16 * ref, flags, domid, 0, self.a.mfn[i])
        return ref

    def status(self, ref):
        if self.version == 1:
            return struct.unpack_from("<H", self.table, 8 * ref)[0] & IN_USE
        words = self.hv.memory.view(self.a.domain.gnttab.status_frames[0])
        return struct.unpack_from("<H", words, 2 * ref)[0] & IN_USE

    def map(self, ref, address=None, flags=abi.GNTMAP_host_map, dom=None):
        result, op = self.b.op(
            "grant_table_op",
            abi.GNTTABOP_map_grant_ref,
            abi.map_grant_ref,
            count=1,
            ref=ref,
            flags=flags,
            host_addr=self.b.va(self.b.n - 2) if address is None else address,
            dom=self.a.domain.domid if dom is None else dom,
        )
        assert result == 0
        return op

    def unmap(self, handle, address=None):
        result, op = self.b.op(
            "grant_table_op",
            abi.GNTTABOP_unmap_grant_ref,
            abi.unmap_grant_ref,
            count=1,
            handle=handle,
            host_addr=self.b.va(self.b.n - 2) if address is None else address,
        )
        assert result == 0
        return op.status

    def copy(self, **fields):
        result, op = self.b.op("grant_table_op", abi.GNTTABOP_copy, abi.copy, count=1, **fields)
        assert result == 0
        return op.status


@pytest.fixture(params=[1, 2])
def pair(hv, request):
    return Pair(hv, request.param)


def test_map_and_unmap(hv, pair):
    """A mapped grant is the granter's page, in use until it is unmapped; nobody can free it meanwhile."""
    ref, frame = pair.grant(9, 20), pair.a.mfn[20]
    references = hv.memory.count(frame)
    op = pair.map(ref)
    assert op.status == 0
    pair.b.write(pair.b.va(pair.b.n - 2), b"from b")
    assert pair.a.read(pair.a.va(20), "6s") == (b"from b",)
    assert pair.status(ref) == IN_USE
    assert not pair.a.domain.gnttab.end_access(ref)
    assert pair.unmap(op.handle) == 0
    assert pair.status(ref) == 0
    assert hv.memory.count(frame) == references
    assert pair.unmap(op.handle) == abi.GNTST_bad_handle


def test_readonly_map(pair):
    """A read-only grant maps read-only and not otherwise."""
    ref = pair.grant(9, 20, abi.GTF_readonly)
    assert pair.map(ref).status == abi.GNTST_general_error
    op = pair.map(ref, flags=abi.GNTMAP_host_map | abi.GNTMAP_readonly)
    assert op.status == 0
    assert pair.status(ref) == abi.GTF_reading
    with pytest.raises(Exception, match="cannot write"):
        pair.b.write(pair.b.va(pair.b.n - 2), b"x")
    assert pair.unmap(op.handle) == 0
    assert pair.status(ref) == 0


def test_map_by_page_table_entry(pair):
    """GNTMAP_contains_pte names the L1 entry by its machine address."""
    slot = pair.b.mfn[L1] << 12 | 8 * (pair.b.n - 1)
    op = pair.map(pair.grant(9, 20), slot, abi.GNTMAP_host_map | abi.GNTMAP_contains_pte)
    assert op.status == 0
    entry = int(pair.hv.memory.array(pair.b.mfn[L1])[pair.b.n - 1])
    assert entry >> 12 & (1 << 40) - 1 == pair.a.mfn[20] and entry & (P | D) == P | D
    assert pair.unmap(op.handle, slot) == 0


@pytest.mark.parametrize(
    "what, status",
    [
        ("other domain", abi.GNTST_general_error),
        ("no entry", abi.GNTST_general_error),
        ("beyond", abi.GNTST_bad_gntref),
        ("no domain", abi.GNTST_bad_domain),
        ("flags", abi.GNTST_bad_gntref),
        ("address", abi.GNTST_general_error),
        ("page table", abi.GNTST_general_error),
    ],
)
def test_map_is_refused(pair, what, status):
    """What may not be mapped is refused with Xen's status, and leaves nothing in use."""
    ref = pair.grant(9, L1 if what == "page table" else 20, domid=77 if what == "other domain" else None)
    op = pair.map(
        {"no entry": 10, "beyond": 100_000}.get(what, ref),
        address=0x1000 if what == "address" else None,
        flags=0 if what == "flags" else abi.GNTMAP_host_map,
        dom=88 if what == "no domain" else None,
    )
    assert op.status == status
    assert pair.status(9) == 0
    assert not pair.a.domain.gnttab.active
    assert not pair.b.domain.maptrack


def test_the_granter_dies_first(hv, pair):
    """A mapped page outlives the domain that granted it, until it is unmapped."""
    op = pair.map(pair.grant(9, 20))
    free = hv.memory.free_pages
    pair.a.domain.destroy()
    pair.b.write(pair.b.va(pair.b.n - 2), b"still here")
    middle = hv.memory.free_pages
    assert pair.unmap(op.handle) == 0
    assert hv.memory.free_pages == middle + 1 > free


def test_the_mapper_dies(hv, pair):
    """When the mapping domain ends, the grant is no longer in use."""
    ref = pair.grant(9, 20)
    assert pair.map(ref).status == 0
    pair.b.domain.destroy()
    assert pair.status(ref) == 0
    assert not pair.a.domain.gnttab.active


def test_copy(pair):
    """Bytes travel from a grant to an own frame and back, within the page."""
    ref = pair.grant(9, 20)
    pair.a.write(pair.a.va(20, 100), b"payload")
    me, other = xen.DOMID_SELF, pair.a.domain.domid
    assert (
        pair.copy(
            source=ref,
            source_domid=other,
            source_offset=100,
            dest=pair.b.mfn[21],
            dest_domid=me,
            dest_offset=7,
            len=7,
            flags=abi.GNTCOPY_source_gref,
        )
        == 0
    )
    assert pair.b.read(pair.b.va(21, 7), "7s") == (b"payload",)
    assert (
        pair.copy(
            source=pair.b.mfn[21],
            source_domid=me,
            source_offset=7,
            dest=ref,
            dest_domid=other,
            dest_offset=4089,
            len=7,
            flags=abi.GNTCOPY_dest_gref,
        )
        == 0
    )
    assert pair.a.read(pair.a.va(20, 4089), "7s") == (b"payload",)
    assert pair.status(ref) == 0


@pytest.mark.parametrize(
    "fields, status",
    [
        ({"len": 4097 - 100}, abi.GNTST_bad_copy_arg),
        ({"flags": 0}, abi.GNTST_permission_denied),
        ({"source": 11}, abi.GNTST_general_error),
        ({"dest": 1 << 40}, abi.GNTST_bad_page),
        ({"dest": "table"}, abi.GNTST_bad_page),
    ],
    ids=["page", "no grant", "ref", "frame", "page table"],
)
def test_copy_is_refused(pair, fields, status):
    """A copy across a page, without a grant, from no grant, or into a frame that may not be written."""
    if fields.get("dest") == "table":
        fields = {"dest": pair.b.mfn[L1]}
    good = {
        "source": pair.grant(9, 20),
        "source_domid": pair.a.domain.domid,
        "source_offset": 100,
        "dest": pair.b.mfn[21],
        "dest_domid": xen.DOMID_SELF,
        "len": 8,
        "flags": abi.GNTCOPY_source_gref,
    }
    assert pair.copy(**{**good, **fields}) == status
    assert pair.status(9) == 0


def test_setup_table(pair):
    """setup_table grows the table and lists its frames; too many are EINVAL, another domain's are refused."""
    a, at = pair.a, pair.a.va(DATA, 512)
    result, op = a.op(
        "grant_table_op",
        abi.GNTTABOP_setup_table,
        abi.setup_table,
        count=1,
        dom=xen.DOMID_SELF,
        nr_frames=3,
        frame_list=at,
    )
    assert (result, op.status) == (0, 0)
    assert list(a.read(at, "<3Q")) == a.domain.gnttab.frames
    result, op = a.op("grant_table_op", abi.GNTTABOP_query_size, abi.query_size, count=1, dom=xen.DOMID_SELF)
    assert (op.status, op.nr_frames, op.max_nr_frames) == (0, 3, 64)
    assert (
        a.op(
            "grant_table_op",
            abi.GNTTABOP_setup_table,
            abi.setup_table,
            count=1,
            dom=xen.DOMID_SELF,
            nr_frames=65,
            frame_list=at,
        )[0]
        == EINVAL
    )
    op = a.op(
        "grant_table_op",
        abi.GNTTABOP_setup_table,
        abi.setup_table,
        count=1,
        dom=pair.b.domain.domid,
        nr_frames=1,
        frame_list=at,
    )[1]
    assert op.status == abi.GNTST_permission_denied


def test_versions(hv):
    """A new table has version 1; the change is EBUSY while a grant is mapped, and keeps the reserved entries."""
    pair = Pair(hv, 1)
    pair.grant(abi.GNTTAB_RESERVED_XENSTORE, 30, domid=0)
    op = pair.map(pair.grant(9, 20))

    def set_version(version):
        return pair.a.op("grant_table_op", abi.GNTTABOP_set_version, abi.set_version, count=1, version=version)

    assert set_version(2)[0] == EBUSY
    pair.unmap(op.handle)
    assert set_version(3)[0] == EINVAL
    result, answer = set_version(2)
    assert (result, answer.version) == (0, 2)
    assert (
        pair.a.op("grant_table_op", abi.GNTTABOP_get_version, abi.get_version, count=1, dom=xen.DOMID_SELF)[1].version
        == 2
    )
    table = pair.a.domain.gnttab
    assert table.entry(abi.GNTTAB_RESERVED_XENSTORE) == (abi.GTF_permit_access, 0, pair.a.mfn[30])
    assert table.entry(9) == (0, 0, 0)
    mapping = table.map(abi.GNTTAB_RESERVED_XENSTORE)
    assert mapping.mfn == pair.a.mfn[30]
    mapping.unmap()


def test_swap(pair):
    """swap_grant_ref exchanges two entries that are not in use."""
    pair.grant(9, 20)
    pair.grant(10, 21)
    result, op = pair.a.op(
        "grant_table_op", abi.GNTTABOP_swap_grant_ref, abi.swap_grant_ref, count=1, ref_a=9, ref_b=10
    )
    assert (result, op.status) == (0, 0)
    assert [pair.a.domain.gnttab.entry(ref)[2] for ref in (9, 10)] == [pair.a.mfn[21], pair.a.mfn[20]]
    op = pair.map(9)
    assert (
        pair.a.op("grant_table_op", abi.GNTTABOP_swap_grant_ref, abi.swap_grant_ref, count=1, ref_a=9, ref_b=10)[
            1
        ].status
        == abi.GNTST_eagain
    )
    pair.unmap(op.handle)


def test_unmap_and_replace(pair):
    """unmap_and_replace moves another mapping to where the grant was."""
    b = pair.b
    op = pair.map(pair.grant(9, 20))
    b.write(b.va(30), b"moved")
    result, answer = b.op(
        "grant_table_op",
        abi.GNTTABOP_unmap_and_replace,
        abi.unmap_and_replace,
        count=1,
        handle=op.handle,
        host_addr=b.va(b.n - 2),
        new_addr=b.va(30),
    )
    assert (result, answer.status) == (0, 0)
    assert b.read(b.va(b.n - 2), "5s") == (b"moved",)
    assert pair.status(9) == 0
