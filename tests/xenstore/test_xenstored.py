"""The daemon on a guest's ring page: every message type, watches, and guests that misbehave."""

import random

import pytest

from tests.xenstore.guest import Guest
from xenfast._core import Memory
from xenfast.abi.io import xs_wire as xs
from xenfast.abi.io.xs_wire import XsdSockmsgType as T
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xenstore.wire import Message, Parser
from xenfast.xenstore.xenstored import XenStored

HOME = "/local/domain/1"


@pytest.fixture
def hypervisor():
    return Hypervisor(1, memory=Memory(64))


@pytest.fixture
def store(hypervisor):
    return XenStored(hypervisor)


@pytest.fixture(params=[1024, 7], ids=["whole", "pieces"])
def guest(hypervisor, store, request):
    return Guest(hypervisor, store, chunk=request.param)


def test_the_basic_operations(guest):
    """WRITE, READ, DIRECTORY, MKDIR and RM by relative and absolute paths."""
    assert guest.ask(T.WRITE, b"device/vbd/0\0v\0al") == b"OK\0"
    assert guest.ask(T.READ, f"{HOME}/device/vbd/0\0".encode()) == b"v\0al"
    assert guest.ask(T.MKDIR, b"device/vif\0") == b"OK\0"
    assert guest.ask(T.DIRECTORY, b"device\0") == b"vbd\0vif\0"
    assert guest.ask(T.RM, b"device/vbd\0") == b"OK\0"
    assert guest.error(T.READ, b"device/vbd/0\0") == "ENOENT"
    assert guest.ask(T.DIRECTORY, b"device\0") == b"vif\0"


def test_permissions_travel_as_letters(guest, store):
    """GET_PERMS and SET_PERMS; a guest sees EACCES where it has no business."""
    guest.ask(T.WRITE, b"a\0v")
    assert guest.ask(T.GET_PERMS, b"a\0") == b"n1\0"
    assert guest.ask(T.SET_PERMS, b"a\0n1\0r0\0b2\0") == b"OK\0"
    assert guest.ask(T.GET_PERMS, b"a\0") == b"n1\0r0\0b2\0"
    assert guest.error(T.SET_PERMS, b"a\0q1\0") == "EINVAL"
    assert guest.error(T.WRITE, b"/vm/x\0v") == "EACCES"
    assert guest.error(T.READ, b"/local/domain/2/a\0") == "EACCES"


def test_domain_paths(guest):
    """GET_DOMAIN_PATH and IS_DOMAIN_INTRODUCED."""
    assert guest.ask(T.GET_DOMAIN_PATH, b"1\0") == b"/local/domain/1\0"
    assert guest.ask(T.IS_DOMAIN_INTRODUCED, b"1\0") == b"T\0"
    assert guest.ask(T.IS_DOMAIN_INTRODUCED, b"9\0") == b"F\0"


@pytest.mark.parametrize("kind", [T.INTRODUCE, T.RELEASE, T.RESUME, T.SET_TARGET, T.CONTROL])
def test_a_guest_does_not_administer_domains(guest, kind):
    """What belongs to domain 0 is EACCES for a guest."""
    assert guest.error(kind, b"1\0" b"2\0" b"3\0") == "EACCES"


def test_unknown_messages_are_enosys(guest):
    """An unknown type is an error and not the end of the connection."""
    assert guest.error(77, b"x\0") == "ENOSYS"
    assert guest.error(T.WATCH_EVENT, b"x\0") == "ENOSYS"
    assert guest.ask(T.WRITE, b"a\0b") == b"OK\0"


def test_transactions_over_the_ring(guest, store):
    """START, operations inside, END; EAGAIN after a conflicting write of domain 0, EBUSY for a nested one."""
    tx = int(guest.ask(T.TRANSACTION_START, b"\0").rstrip(b"\0"))
    guest.ask(T.WRITE, b"a\0inside", tx)
    assert guest.error(T.READ, b"a\0") == "ENOENT"
    assert guest.error(T.TRANSACTION_START, b"\0", tx) == "EBUSY"
    assert guest.ask(T.TRANSACTION_END, b"T\0", tx) == b"OK\0"
    assert guest.ask(T.READ, b"a\0") == b"inside"
    tx = int(guest.ask(T.TRANSACTION_START, b"\0").rstrip(b"\0"))
    guest.ask(T.READ, b"a\0", tx)
    store.client().write(f"{HOME}/a", "outside")
    assert guest.error(T.TRANSACTION_END, b"T\0", tx) == "EAGAIN"
    assert guest.error(T.READ, b"a\0", tx) == "ENOENT"


def test_watches_fire_at_once_and_for_everything_below(guest, store):
    """A watch's first event comes after the reply; later ones for changes at or below, told relative if the watch
    was."""
    guest.ask(T.WATCH, b"device\0tok\0")
    assert guest.events() == [("device", "tok")]
    guest.ask(T.WATCH, f"{HOME}/device\0abs\0".encode())
    guest.events()
    store.client().write(f"{HOME}/device/vbd/0/state", "1")
    assert guest.events() == [("device/vbd/0/state", "tok"), (f"{HOME}/device/vbd/0/state", "abs")]
    guest.ask(T.WRITE, b"control/x\0")
    assert guest.events() == []
    assert guest.error(T.WATCH, b"device\0tok\0") == "EEXIST"
    guest.ask(T.UNWATCH, b"device\0tok\0")
    assert guest.error(T.UNWATCH, b"device\0tok\0") == "ENOENT"
    guest.ask(T.RESET_WATCHES, b"\0")
    guest.ask(T.WRITE, b"device/new\0")
    assert guest.events() == []


def test_removing_a_parent_tells_watches_below(guest):
    """RM of a directory fires the watch on exactly a node inside it, with that node's path."""
    guest.ask(T.WRITE, b"device/vbd/0/state\0" b"4")
    guest.ask(T.WATCH, b"device/vbd/0/state\0s\0")
    guest.ask(T.WATCH, b"device\0d\0")
    guest.events()
    guest.ask(T.RM, b"device/vbd\0")
    assert guest.events() == [("device/vbd/0/state", "s"), ("device/vbd", "d")]


def test_transactions_fire_their_watches_at_the_commit(guest):
    """Nothing before; one event for each node however often it was written."""
    guest.ask(T.WATCH, b"a\0t\0")
    guest.events()
    tx = int(guest.ask(T.TRANSACTION_START, b"\0").rstrip(b"\0"))
    for value in (b"1", b"2"):
        guest.ask(T.WRITE, b"a\0" + value, tx)
    assert guest.events() == []
    guest.ask(T.TRANSACTION_END, b"T\0", tx)
    assert guest.events() == [("a", "t")]


def test_a_guest_hears_only_of_what_it_may_read(guest, store):
    """A watch on a foreign directory is accepted and silent (XSA-115), also @releaseDomain until domain 0 permits
    it."""
    for path in (b"/local/domain/2", b"@releaseDomain"):
        guest.ask(T.WATCH, path + b"\0t\0")
    guest.events()
    client = store.client()
    client.write("/local/domain/2/secret", "x")
    store.domain_ended(None, 0)
    assert guest.events() == []
    client.set_perms("@releaseDomain", ["r0"])
    store.domain_ended(None, 0)
    assert guest.events() == [("@releaseDomain", "t")]


def test_domain_0_hears_of_domains_coming_and_going(hypervisor, store):
    """@introduceDomain and @releaseDomain; a released domain leaves nothing behind, and can be introduced anew."""
    heard = []
    for special in ("@introduceDomain", "@releaseDomain"):
        store.client().watch(special, "t", lambda path, token: heard.append(path))
    heard.clear()
    guest = Guest(hypervisor, store)
    guest.ask(T.WATCH, b"a\0t\0")
    guest.domain.shutdown(0)
    hypervisor.loop.run_ready()
    assert heard == ["@introduceDomain", "@releaseDomain"]
    store.release(1)
    assert heard[2:] == ["@releaseDomain"]
    assert not store.client().exists(HOME)
    assert store.watches.count(guest) == 0
    Guest(hypervisor, store).ask(T.WRITE, b"a\0b")


def test_a_callback_may_use_the_store(store):
    """Events caused by a callback come after it has returned, in order."""
    client, log = store.client(), []

    def callback(path, token):
        log.append(path)
        if path == "/tool/a":
            client.write("/tool/b", "")
            log.append("end of a")

    client.watch("/tool", "t", callback)
    client.write("/tool/a", "")
    assert log == ["/tool", "/tool/a", "end of a", "/tool/b"]


def test_a_long_directory_comes_in_parts(guest, store):
    """DIRECTORY is E2BIG beyond 4096 bytes; DIRECTORY_PART gives all of it, with the generation to tell that it did
    not change."""
    names = [f"{i:04d}-{'x' * 40}" for i in range(200)]
    for name in names:
        store.client().write(f"{HOME}/d/{name}", "")
    store.client().set_perms(f"{HOME}/d", ["r0"])
    assert guest.error(T.DIRECTORY, b"d\0") == "E2BIG"
    got, generations = b"", set()
    while True:
        generation, part = guest.ask(T.DIRECTORY_PART, b"d\0%d\0" % len(got)).split(b"\0", 1)
        generations.add(generation)
        got += part
        if part.endswith(b"\0\0") or part == b"\0":
            break
    assert got.rstrip(b"\0").decode().split("\0") == names
    assert len(generations) == 1


def test_quota_of_watches(guest):
    """A guest has 128 watches at most."""
    for i in range(128):
        guest.ask(T.WATCH, b"a\0%d\0" % i)
    assert guest.error(T.WATCH, b"a\0more\0") == "E2BIG"


@pytest.mark.parametrize("prod", [1025, 0x80000000, 0xFFFFFFFF])
def test_a_wild_producer_index_ends_the_connection(guest, prod):
    """The ring's error word says why, and nothing else happens."""
    guest.words[xs.REQ_PROD] = (guest.words[xs.REQ_CONS] + prod) & 0xFFFFFFFF
    guest.notify()
    assert guest.words[xs.RING_ERROR] == xs.XENSTORE_ERROR_RINGIDX


def test_a_wild_response_index_ends_the_connection(guest):
    """The guest's consumer index may not run ahead."""
    guest.words[xs.RSP_CONS] = 5
    guest.receive = lambda: False
    guest.send_bytes(Message(T.READ, 1, 0, b"a\0").pack())
    assert guest.words[xs.RING_ERROR] == xs.XENSTORE_ERROR_RINGIDX


def test_an_oversized_message_ends_the_connection(guest):
    """A length beyond XENSTORE_PAYLOAD_MAX is no message."""
    guest.send_bytes(xs.HEADER.pack(T.WRITE, 1, 0, 4097))
    assert guest.words[xs.RING_ERROR] == xs.XENSTORE_ERROR_PROTO


def test_a_guest_that_does_not_read_is_not_served(hypervisor, store):
    """Replies that are not fetched stop the reading of requests, so that they take a bounded amount of memory."""
    guest = Guest(hypervisor, store)
    guest.receive = lambda: False
    value = b"x" * 2000
    guest.send_bytes(Message(T.WRITE, 1, 0, b"a\0" + value).pack())
    for i in range(500):
        guest.send_bytes(Message(T.READ, i, 0, b"a\0").pack())
    assert len(store.rings[1].backlog) < 64 * 1024


@pytest.mark.parametrize("seed", range(30))
def test_garbage_never_raises(hypervisor, store, seed):
    """Random messages with random types, lengths and payloads get replies or end the connection; the daemon
    survives."""
    random_ = random.Random(seed)
    guest = Guest(hypervisor, store)
    words = [b"a", b"/", b"@x", b"\0", b"\0\0", HOME.encode(), b"T", b"9" * 23, b"\xff\xfe", b"-1", b"r1", b"n1\0b0"]
    for _ in range(60):
        payload = b"".join(random_.choice(words) for _ in range(random_.randint(0, 6)))
        if random_.random() < 0.3:
            payload += random_.randbytes(random_.randint(0, 200))
        length = random_.randint(0, 5000) if random_.random() < 0.02 else len(payload)
        header = xs.HEADER.pack(random_.randint(0, 25), random_.getrandbits(32), random_.choice([0, 0, 1, 2]), length)
        guest.send_bytes(header + payload)
        if not store.rings[1].open:
            break
    assert guest.words[xs.RING_ERROR] in (xs.XENSTORE_ERROR_NONE, xs.XENSTORE_ERROR_PROTO)


@pytest.mark.parametrize("seed", range(10))
def test_messages_survive_any_cutting(seed):
    """The parser gives the same messages however the stream is cut."""
    random_ = random.Random(seed)
    messages = [Message(random_.randint(0, 22), i, 0, random_.randbytes(random_.randint(0, 300))) for i in range(20)]
    stream, parser, got = b"".join(each.pack() for each in messages), Parser(), []
    while stream:
        cut = random_.randint(1, 100)
        got += parser.feed(stream[:cut])
        stream = stream[cut:]
    assert got == messages


def test_retry_runs_until_it_commits(store):
    """Client.retry starts over when something got in between."""
    client, rounds = store.client(), []

    def work(t):
        value = t.read_int("/tool/n")
        rounds.append(value)
        if len(rounds) == 1:
            client.write("/tool/n", 5)
        t.write("/tool/n", value + 1)

    client.retry(work)
    assert (rounds, client.read("/tool/n")) == ([0, 5], "6")
