"""The block back end, driven by a front end over real rings, grants and event channels."""

import os
import random
import threading

import pytest

from tests.dom0.frontend import BlkFront
from xenfast.abi.io.blkif import (
    ABI_X86_32,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from xenfast.dom0.block import open_image

SECTORS = 4096
FULL = (0, 7)


@pytest.fixture
def backend(machine, image):
    backend = machine.disk(image)
    yield backend
    backend.close()
    backend.image.close()


@pytest.fixture
def front(machine, backend):
    return BlkFront(machine, backend)


VARIANTS = {
    "plain": {},
    "persistent": {"persistent": True},
    "i386": {"abi": ABI_X86_32},
    "i386, 4 pages": {"abi": ABI_X86_32, "order": 2, "persistent": True},
    "16 pages": {"order": 4},
    "indices that wrap": {"start": 0xFFFFFFF0},
    "4 queues": {"queues": 4, "order": 1},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_random_requests_agree_with_a_bytearray(machine, backend, image, variant):
    """Reads, writes, discards and indirect requests of all shapes give what the same operations on a bytearray give."""
    front, random_ = BlkFront(machine, backend, **variant), random.Random(5)
    model = bytearray(image.read_bytes())
    pool = [front.page() for _ in range(80)]
    for _ in range(25):
        checks = {}
        random_.shuffle(pool)
        free = list(pool)
        for _ in range(random_.randint(1, 6)):
            indirect = random_.random() < 0.3
            count = min(random_.randint(1, 30 if indirect else 11), len(free))
            if not count:
                break
            segments = [(free.pop(), *sorted(random_.choices(range(8), k=2))) for _ in range(count)]
            length = sum(last - first + 1 for _, first, last in segments) * 512
            offset = random_.randrange(SECTORS - length // 512) * 512
            writing = random_.random() < 0.5
            if writing:
                data = b""
                for page, first, last in segments:
                    page.view[:] = random_.randbytes(4096)
                    data += bytes(page.view[first * 512 : (last + 1) * 512])
                model[offset : offset + length] = data
            operation = BLKIF_OP_WRITE if writing else BLKIF_OP_READ
            if indirect:
                identity = front.submit_indirect(operation, offset // 512, segments)
            else:
                identity = front.submit(operation, offset // 512, segments, random_.choice(front.rings[:1]))
            checks[identity] = None if writing else (segments, bytes(model[offset : offset + length]))
        if random_.random() < 0.2:
            sector = random_.randrange(SECTORS - 20)
            checks[front.submit_discard(sector, 20)] = None
            model[sector * 512 : (sector + 20) * 512] = bytes(20 * 512)
        statuses = front.finish()
        assert statuses == dict.fromkeys(checks, BLKIF_RSP_OKAY)
        for segments, expected in filter(None, checks.values()):
            assert b"".join(bytes(p.view[f * 512 : (l + 1) * 512]) for p, f, l in segments) == expected
    assert image.read_bytes() == model
    stats = backend.stats()
    assert stats["errors"] == 0 and stats["bytes_written"] and stats["bytes_read"]


def test_every_queue_is_served(machine, backend):
    """Each queue has its own ring and event channel."""
    front = BlkFront(machine, backend, queues=4)
    page = front.page()
    wanted = [front.submit(BLKIF_OP_READ, i, [(page, 0, 0)], ring) for i, ring in enumerate(front.rings)]
    assert front.finish() == dict.fromkeys(wanted, BLKIF_RSP_OKAY)
    assert [ring.events for ring in front.rings] == [1, 1, 1, 1]


def test_what_the_front_end_reads(machine, backend, front):
    """The nodes xen-blkfront of Linux 6.1 reads are there when it reads them."""
    read = lambda name: int(machine.client.read(f"{backend.path}/{name}"))
    assert (read("sectors"), read("sector-size"), read("physical-sector-size"), read("info")) == (SECTORS, 512, 512, 0)
    for name in ("feature-flush-cache", "feature-barrier", "feature-discard", "feature-persistent"):
        assert read(name) == 1
    assert (read("feature-max-indirect-segments"), read("max-ring-page-order")) == (256, 4)
    assert read("multi-queue-max-queues") == 4


def test_a_flush_is_answered_after_fdatasync(machine, backend, front, monkeypatch):
    """The answer to FLUSH, and to a barrier, comes after the image has been synced, and everything before has been
    written."""
    log = []
    image, ring = backend.image, backend.queues[0].ring
    for name in ("writev", "flush"):
        real = getattr(image, name)
        monkeypatch.setattr(image, name, lambda *a, name=name, real=real: (log.append(name), real(*a)))
    monkeypatch.setattr(ring, "respond", lambda *f, real=ring.respond: (log.append(f"respond {f[1]}"), real(*f)))
    page = front.page()
    front.submit(BLKIF_OP_WRITE, 0, [(page, *FULL)])
    front.submit(BLKIF_OP_FLUSH_DISKCACHE, 0)
    front.submit(BLKIF_OP_WRITE_BARRIER, 8, [(page, *FULL)])
    front.submit(BLKIF_OP_READ, 8, [(page, *FULL)])
    assert set(front.finish().values()) == {BLKIF_RSP_OKAY}
    assert log == ["writev", "respond 1", "flush", "respond 3", "flush", "writev", "flush", "respond 2", "respond 0"]


def test_nothing_flushed_is_lost_in_a_crash(machine, backend, front, monkeypatch):
    """At every answered flush the host's disk holds all writes answered before it: replayed with a disk that keeps
    only what was synced."""
    durable, volatile = {}, {}
    real_write = backend.image.writev

    def writev(offset, buffers):
        volatile[offset] = b"".join(map(bytes, buffers))
        real_write(offset, buffers)

    monkeypatch.setattr(backend.image, "writev", writev)
    monkeypatch.setattr(backend.image, "flush", lambda: durable.update(volatile))
    random_, page, answered = random.Random(1), front.page(), {}
    for i in range(200):
        if random_.random() < 0.2:
            assert front.do(BLKIF_OP_FLUSH_DISKCACHE, 0) == BLKIF_RSP_OKAY
            assert answered.items() <= durable.items()
        else:
            sector = random_.randrange(100) * 8
            page.view[:] = i.to_bytes(4, "little") * 1024
            assert front.do(BLKIF_OP_WRITE, sector, [(page, *FULL)]) == BLKIF_RSP_OKAY
            answered[sector * 512] = bytes(page.view)


def test_a_failed_sync_fails_the_flush(backend, front, monkeypatch):
    """When fdatasync reports an error the guest hears of it."""
    def broken():
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(backend.image, "flush", broken)
    assert front.do(BLKIF_OP_FLUSH_DISKCACHE, 0) == BLKIF_RSP_ERROR


def test_a_read_only_disk(machine, image):
    """Reads and flushes work, writes and discards fail, `info` says so."""
    backend = machine.disk(image, readonly=True)
    front = BlkFront(machine, backend)
    page = front.page()
    assert machine.client.read(f"{backend.path}/info") == "4"
    assert not machine.client.exists(f"{backend.path}/feature-discard")
    assert front.do(BLKIF_OP_READ, 1, [(page, 0, 0)]) == BLKIF_RSP_OKAY
    assert bytes(page.view[:4]) == b"\1\0\0\0"
    assert front.do(BLKIF_OP_FLUSH_DISKCACHE, 0) == BLKIF_RSP_OKAY
    assert front.do(BLKIF_OP_WRITE, 1, [(page, 0, 0)]) == BLKIF_RSP_ERROR
    discard = front.submit_discard(0, 8)
    assert front.finish()[discard] == BLKIF_RSP_EOPNOTSUPP


def test_a_grant_may_be_read_only_for_writes(machine, backend, image, front):
    """A write needs to read the guest's page only; a read into a page granted read-only fails."""
    page = front.page(readonly=True)
    page.view[:] = b"w" * 4096
    assert front.do(BLKIF_OP_WRITE, 0, [(page, *FULL)]) == BLKIF_RSP_OKAY
    assert front.do(BLKIF_OP_READ, 8, [(page, *FULL)]) == BLKIF_RSP_ERROR
    assert image.read_bytes()[:4096] == b"w" * 4096
    assert bytes(page.view) == b"w" * 4096


def test_plain_grants_are_given_back_and_persistent_ones_kept(machine, backend):
    """After a request without persistent grants no page is mapped; with them the page stays mapped until the device
    closes."""
    for persistent in (False, True):
        front = BlkFront(machine, backend, persistent=persistent)
        page = front.page()
        assert front.do(BLKIF_OP_READ, 0, [(page, *FULL)]) == BLKIF_RSP_OKAY
        assert (page.ref in machine.guest.gnttab.active) == persistent
        front.close()
        assert not machine.guest.gnttab.active
        front.set_state(1)


def test_persistent_grants_are_bounded(machine, backend):
    """The least recently used mappings go first when there are too many."""
    front = BlkFront(machine, backend, persistent=True)
    backend.queues[0].grants.limit = 5
    pages = [front.page() for _ in range(12)]
    for page in (*pages, pages[7]):
        front.do(BLKIF_OP_READ, 0, [(page, 0, 0)])
    assert {page.ref for page in pages if page.ref in machine.guest.gnttab.active} == {page.ref for page in pages[7:]}


def test_only_what_was_asked_for_is_notified(front):
    """A batch of requests gives one event; none comes while the front end has not asked for it."""
    page = front.page()
    for i in range(20):
        front.submit(BLKIF_OP_READ, i, [(page, 0, 0)])
    assert len(front.finish()) == 20
    assert (front.ring.sent, front.ring.events) == (1, 1)
    front.ring.words[3] = (front.ring.words[2] + 100) & 0xFFFFFFFF
    front.submit(BLKIF_OP_READ, 0, [(page, 0, 0)])
    assert len(front.finish()) == 1
    assert front.ring.events == 1


@pytest.mark.parametrize("operation, sector, segments", [
    (BLKIF_OP_READ, SECTORS, [(None, 0, 0)]),  # beyond the end
    (BLKIF_OP_READ, SECTORS - 7, [(None, 0, 7)]),
    (BLKIF_OP_WRITE, (1 << 64) - 1, [(None, 0, 0)]),
    (BLKIF_OP_READ, 0, [(None, 3, 2)]),  # backwards
    (BLKIF_OP_READ, 0, [(None, 0, 8)]),  # beyond the page
    (BLKIF_OP_WRITE, 0, [(None, 255, 255)]),
    (BLKIF_OP_READ, 0, []),
    (BLKIF_OP_WRITE, 0, []),
    (BLKIF_OP_READ, 0, [(None, 0, 0)] * 12),  # too many
    (BLKIF_OP_READ, 0, [(None, 0, 0)] * 255),
    (BLKIF_OP_READ, 0, [(0xFFFFFFFF, 0, 0)]),  # bad grants
    (BLKIF_OP_READ, 0, [(0, 0, 0)]),
    (BLKIF_OP_WRITE, 0, [(400, 0, 0)]),
])
def test_bad_requests_fail_and_the_next_is_served(backend, front, image, operation, sector, segments):
    """Nonsense in a request is that request's error, and touches nothing."""
    before, page = image.read_bytes(), front.page()
    segments = [(page if ref is None else ref, first, last) for ref, first, last in segments]
    assert front.do(operation, sector, segments) == BLKIF_RSP_ERROR
    assert front.do(BLKIF_OP_READ, 2, [(page, 0, 0)]) == BLKIF_RSP_OKAY
    assert image.read_bytes() == before
    assert backend.stats()["errors"] == 1


@pytest.mark.parametrize("count", [0, 257, 4096, 65535])
def test_bad_indirect_requests_fail(front, count):
    """More indirect segments than were offered, or none."""
    page = front.page()
    identity = front.submit_indirect(BLKIF_OP_READ, 0, [(page, 0, 0)], count)
    assert front.finish() == {identity: BLKIF_RSP_ERROR}
    identity = front.submit_indirect(BLKIF_OP_FLUSH_DISKCACHE, 0, [(page, 0, 0)])
    assert front.finish() == {identity: BLKIF_RSP_ERROR}


def test_unknown_operations_are_eopnotsupp(front):
    """The packet command and whatever comes next; secure discard of an image that cannot wipe."""
    front.backend.secure = False
    for operation in (4, 7, 255):
        assert front.do(operation, 0) == BLKIF_RSP_EOPNOTSUPP
    identity = front.submit_discard(0, 8, flag=1)
    assert front.finish() == {identity: BLKIF_RSP_EOPNOTSUPP}
    identity = front.submit_discard(SECTORS, 1)
    assert front.finish() == {identity: BLKIF_RSP_ERROR}


@pytest.mark.parametrize("ahead", [33, 1000, 0x80000000, 0xFFFFFFFF])
def test_a_wild_producer_index_closes_the_device(machine, backend, front, ahead):
    """The back end stops, says why in the error node and lets go of every page."""
    front.ring.words[0] = ahead
    front.ring.evtchn.send(front.ring.port)
    machine.run()
    assert front.back_state == 5
    name = f"error/backend/vbd/{machine.guest.domid}/51712/error"
    assert "req_prod" in machine.client.read(name)
    assert not machine.guest.gnttab.active


@pytest.mark.parametrize("seed", range(8))
def test_random_garbage_in_the_ring(machine, backend, front, seed):
    """Slots full of random bytes get one response each; the host survives."""
    random_, page = random.Random(seed), front.page()
    for _ in range(40):
        for _ in range(random_.randint(1, 32)):
            raw = bytearray(random_.randbytes(112))
            if random_.random() < 0.8:
                raw[0], raw[1] = random_.randint(0, 7), random_.randint(0, 12)
            if random_.random() < 0.5:
                raw[24:28] = page.ref.to_bytes(4, "little")
            front.ring.put(bytes(raw))
        expected = (front.ring.req_prod - front.ring.rsp_cons) & 0xFFFFFFFF
        front.ring.push()
        machine.run()
        assert len(front.ring.responses()) == expected
    assert set(machine.guest.gnttab.active) == {front.ring.pages[0].ref}


def test_a_guest_that_never_stops_does_not_stop_domain_0(machine, backend, front):
    """A ring that is refilled while it is served is left for others after some rounds, and served again later."""
    page = front.page()
    queue, rounds = backend.queues[0], []
    real = queue.ring.push

    def push():
        result = real()
        rounds.append(len(rounds))
        front.ring.responses()
        if len(rounds) < 20:
            for i in range(32):
                front.submit(BLKIF_OP_READ, i, [(page, 0, 0)])
            front.ring.words[0] = front.ring.req_prod
        return result

    queue.ring.push = push
    front.submit(BLKIF_OP_READ, 0, [(page, 0, 0)])
    front.ring.push()
    queue.on_event()
    assert len(rounds) < 20
    machine.run()
    assert len(rounds) == 20


def test_secure_discard_overwrites_first(machine, backend, front, image, monkeypatch):
    """A secure discard writes zeros over what was there before the space goes back to the host."""
    assert machine.client.read(f"{backend.path}/discard-secure") == "1"
    log = []
    for name in ("wipe", "discard"):
        real = getattr(backend.image, name)
        monkeypatch.setattr(backend.image, name, lambda *a, name=name, real=real: (log.append(name), real(*a)), raising=False)
    identity = front.submit_discard(8, 16, flag=1)
    assert front.finish() == {identity: BLKIF_RSP_OKAY}
    data = image.read_bytes()
    assert log == ["wipe", "discard"] and not any(data[4096:12288]) and any(data[:4096]) and any(data[12288:13000])


def test_a_disk_grows_under_the_guest(machine, backend, front, image):
    """When the file has grown the front end is told by the nodes it watches, and can use what is new."""
    page, seen = front.page(), []
    machine.client.watch(f"{backend.path}/state", "test", lambda path, token: seen.append(machine.client.read(path, "gone")))
    assert front.do(BLKIF_OP_READ, SECTORS, [(page, *FULL)]) == BLKIF_RSP_ERROR
    with image.open("r+b") as file:
        file.truncate(SECTORS * 1024)
    assert backend.image.grown() and not backend.image.grown()
    backend.size_changed()
    machine.run()
    assert seen == ["4", "4"] and machine.client.read(f"{backend.path}/sectors") == str(2 * SECTORS)
    assert front.do(BLKIF_OP_WRITE, 2 * SECTORS - 8, [(page, *FULL)]) == BLKIF_RSP_OKAY


def test_a_drive_gets_another_medium(machine, image, tmp_path):
    """A medium goes and another comes: requests to an empty drive fail, the size follows."""
    backend = machine.disk(image, readonly=True, **{"device-type": "cdrom", "removable": 1})
    front, page = BlkFront(machine, backend), backend.image
    assert machine.client.read(f"{backend.path}/info") == "7"
    page = front.page()
    backend.change_image(open_image("", "empty")).close()
    assert machine.client.read(f"{backend.path}/sectors") == "0"
    assert front.do(BLKIF_OP_READ, 0, [(page, *FULL)]) == BLKIF_RSP_ERROR
    (tmp_path / "other").write_bytes(b"other medium".ljust(4096, b"."))
    backend.change_image(open_image(str(tmp_path / "other"), "raw", True))
    assert front.do(BLKIF_OP_READ, 0, [(page, *FULL)]) == BLKIF_RSP_OKAY and bytes(page.view[:12]) == b"other medium"
    assert front.do(BLKIF_OP_READ, 8, [(page, *FULL)]) == BLKIF_RSP_ERROR


def test_unplugging(machine, backend, front):
    """The front end is asked to let go; when it has, whoever asked is told, once."""
    told = []
    backend.unplug(lambda: told.append(True))
    assert front.back_state == 5 and machine.client.read(f"{backend.path}/online") == "0" and not told
    front.set_state(5)
    front.set_state(6)
    assert told == [True] and not backend.queues and not machine.guest.gnttab.active
    front.set_state(6)
    assert told == [True]


def test_unplugging_what_was_never_used(machine, backend):
    """A device that no driver has connected to goes at once."""
    told = []
    backend.unplug(lambda: told.append(True))
    assert told == [True]


def test_a_slow_disk_holds_up_its_queue_only(machine, backend, front, monkeypatch):
    """While a thread waits for a slow disk, the requests behind the flush wait, and domain 0 goes on; the answers come
    in order.  A disk that is quick again is waited for in place."""
    real, release, errors = os.fdatasync, threading.Event(), []
    monkeypatch.setattr(os, "fdatasync", lambda fd: (release.wait(10), errors and (_ for _ in ()).throw(errors.pop()), real(fd)))
    page = front.page()
    backend.slow_disk = True
    first = front.submit(BLKIF_OP_WRITE, 0, [(page, *FULL)])
    flush = front.submit(BLKIF_OP_FLUSH_DISKCACHE, 0)
    last = front.submit(BLKIF_OP_READ, 0, [(page, *FULL)])
    assert front.finish() == {first: BLKIF_RSP_OKAY}
    front.ring.evtchn.send(front.ring.port)             # does not get past it
    assert front.finish() == {}
    release.set()
    assert waited(front) == [(flush, BLKIF_RSP_OKAY), (last, BLKIF_RSP_OKAY)]
    backend.slow_disk = True
    release.clear()
    errors.append(OSError(5, "no"))
    flush = front.submit(BLKIF_OP_FLUSH_DISKCACHE, 0)
    assert front.finish() == {}
    release.set()
    assert waited(front) == [(flush, BLKIF_RSP_ERROR)]
    assert not backend.slow_disk and front.do(BLKIF_OP_FLUSH_DISKCACHE, 0) == BLKIF_RSP_OKAY
    assert backend.stats()["flushes"] == 3


def test_unplugged_while_a_flush_waits(machine, backend, front, monkeypatch):
    """The device goes away under a flush: nothing is answered any more, nothing fails."""
    release = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: release.wait(10))
    backend.slow_disk = True
    front.submit(BLKIF_OP_FLUSH_DISKCACHE, 0)
    front.finish()
    backend.close()
    release.set()
    while not machine.hypervisor.loop._ready:
        machine.hypervisor.loop.poll(0.05)
    machine.run()
    assert not machine.guest.gnttab.active


def waited(front):
    """Let domain 0 wait until something is answered: (id, status) of all answers, in order."""
    for _ in range(200):
        front.machine.hypervisor.loop.poll(0.05)
        front.machine.run()
        found = [(identity, status) for identity, _, status in front.ring.responses()]
        if found:
            return found
    raise AssertionError("no answer")
