"""The back end's side of a ring by itself: slots, responses, and when an event is due."""

import struct

import pytest

from xenfast.abi.io.blkif import ABI_X86_64
from xenfast.abi.io.ring import SRING_REQ_EVENT, SRING_REQ_PROD, SRING_RSP_EVENT, SRING_RSP_PROD, ring_slots
from xenfast.dom0.ring import BackRing, RingError

RESPONSE = struct.Struct("<QI")


def make(pages=1, slot=112, start=0):
    views = [memoryview(bytearray(4096)) for _ in range(pages)]
    views[0][:16].cast("I")[SRING_RSP_PROD] = start
    views[0][:16].cast("I")[SRING_REQ_PROD] = start
    return views, BackRing(views, slot, RESPONSE)


@pytest.mark.parametrize("size, entry, slots", [(4096, 112, 32), (4096, 108, 32), (8192, 112, 64), (4096, 12, 256)])
def test_the_number_of_slots_is_a_power_of_two(size, entry, slots):
    """__RING_SIZE rounds down."""
    assert ring_slots(size, entry) == slots


def test_slots_across_pages_are_whole():
    """Where a slot straddles two pages, requests are read and responses written in both parts."""
    views, ring = make(pages=4)
    memory = bytearray(b"".join(views))
    for i in range(ring.slots):
        memory[64 + 112 * i : 176 + 112 * i] = bytes([i]) * 112
    for i, view in enumerate(views):
        view[16 if not i else 0 :] = memory[i * 4096 + (16 if not i else 0) : i * 4096 + 4096]
    ring.words[SRING_REQ_PROD] = ring.slots
    assert ring.pending() == ring.slots
    assert [ring.take() for _ in range(ring.slots)] == [bytes([i]) * 112 for i in range(ring.slots)]
    for i in range(ring.slots):
        ring.respond(i << 33, i)
    memory = b"".join(views)
    for i in range(ring.slots):
        assert RESPONSE.unpack_from(memory, 64 + 112 * i) == (i << 33, i)


def test_a_response_may_be_cut_by_the_end_of_a_page():
    """Slots that are smaller than the responses' share of two pages."""
    views, ring = make(pages=2, slot=20)
    for i in range(ring.slots):
        ring.respond(i + 1, 7)
    memory = b"".join(views)
    assert [RESPONSE.unpack_from(memory, 64 + 20 * i)[0] for i in range(ring.slots)] == list(range(1, ring.slots + 1))


@pytest.mark.parametrize("start", [0, 0xFFFFFFFD])
@pytest.mark.parametrize("event, due", [(0, False), (1, True), (3, True), (5, True), (6, False), (100, False)])
def test_an_event_is_due_when_the_wished_response_is_in_the_batch(start, event, due):
    """rsp_event in (old, new] notifies, anything else does not, also where the indices wrap."""
    _, ring = make(start=start)
    ring.words[SRING_RSP_EVENT] = (start + event) & 0xFFFFFFFF
    for i in range(5):
        ring.respond(i, 0)
    assert ring.push() is due
    assert not ring.push()


def test_rest_looks_once_more():
    """After asking for an event the index is read again, so that no request falls between."""
    _, ring = make()
    assert ring.rest()
    assert ring.words[SRING_REQ_EVENT] == 1
    ring.words[SRING_REQ_PROD] = 1
    assert not ring.rest()


@pytest.mark.parametrize("produced", [33, 64, 1 << 31, 0xFFFFFFFF])
def test_more_requests_than_slots_are_refused(produced):
    """req_prod may lead rsp_prod by the size of the ring at most."""
    _, ring = make()
    ring.words[SRING_REQ_PROD] = produced
    with pytest.raises(RingError):
        ring.pending()


def test_a_ring_that_was_in_use_goes_on():
    """BACK_RING_ATTACH: requests without a response are served by the next back end."""
    views, ring = make(start=7)
    ring.words[SRING_REQ_PROD] = 9
    again = BackRing(views, ABI_X86_64.slot_size, ABI_X86_64.response)
    assert (again.pending(), again.req_cons) == (2, 7)
