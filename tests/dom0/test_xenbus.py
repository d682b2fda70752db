"""The handshake of a split device: states, reconnection, and front ends that write nonsense."""

import pytest

from tests.dom0.frontend import BlkFront
from xenfast.abi.io.blkif import BLKIF_OP_READ, BLKIF_RSP_OKAY
from xenfast.abi.io.xenbus import XenbusState, parse_state


@pytest.fixture
def backend(machine, image):
    backend = machine.disk(image)
    yield backend
    backend.close()
    backend.image.close()


def state_of(machine, backend):
    return parse_state(machine.client.read(f"{backend.path}/state", ""))


def test_the_states_of_a_device_s_life(machine, backend):
    """InitWait at once, Connected when the front end is Initialised, Closing and Closed after it."""
    seen = []
    machine.client.watch(f"{backend.path}/state", "t", lambda *_: seen.append(state_of(machine, backend).name))
    front = BlkFront(machine, backend)
    front.close()
    assert seen == ["InitWait", "Connected", "Closing", "Closed"]
    assert not machine.guest.gnttab.active


def test_a_front_end_may_come_back(machine, backend):
    """After Closed, a new front end (module reloaded, kexec, mini-os after its boot loader) connects again."""
    for _ in range(3):
        front = BlkFront(machine, backend)
        assert front.back_state == XenbusState.Connected
        assert front.do(BLKIF_OP_READ, 0, [(front.page(), 0, 0)]) == BLKIF_RSP_OKAY
        front.close()
        front.set_state(XenbusState.Initialising)
        assert front.back_state == XenbusState.InitWait


def test_a_front_end_may_skip_initialised(machine, backend):
    """mini-os writes Connected at once."""
    front = BlkFront(machine, backend, connect=False)
    front.set_state(XenbusState.Connected)
    assert front.back_state == XenbusState.Connected


def test_the_back_end_hears_of_a_removed_front_end(machine, backend):
    """When the toolstack removes the front end's directory the back end lets go."""
    front = BlkFront(machine, backend)
    machine.client.rm(front.path)
    assert front.back_state == XenbusState.Closed
    assert not machine.guest.gnttab.active


def test_closing_removes_the_nodes(machine, image):
    """The toolstack's close() leaves neither nodes nor watches nor mappings."""
    backend = machine.disk(image)
    BlkFront(machine, backend)
    backend.close()
    backend.close()
    assert not machine.client.exists(backend.path)
    assert not machine.guest.gnttab.active
    assert machine.store.watches.count(backend.store) == 0


@pytest.mark.parametrize("node, value", [
    ("ring-ref", "nonsense"),
    ("ring-ref", ""),
    ("ring-ref", "4294967296"),
    ("ring-ref", "7"),
    ("ring-ref", "-1"),
    ("event-channel", "99"),
    ("event-channel", "x"),
    ("event-channel", "9" * 100),
    ("protocol", "sparc-abi"),
    ("ring-page-order", "5"),
    ("ring-page-order", "99999999"),
    ("ring-page-order", "one"),
    ("multi-queue-num-queues", "0"),
    ("multi-queue-num-queues", "1000000"),
    ("multi-queue-num-queues", "2"),
])
def test_nonsense_from_the_front_end_closes_the_device(machine, backend, node, value):
    """The error node says what is wrong, nothing stays mapped, and a better front end can still connect."""
    front = BlkFront(machine, backend, connect=False)
    machine.client.write(f"{front.path}/{node}", value)
    front.set_state(XenbusState.Initialised)
    assert front.back_state == XenbusState.Closing
    assert machine.client.read(f"error/backend/vbd/{machine.guest.domid}/51712/error").startswith("22 ")
    assert not machine.guest.gnttab.active
    front.set_state(XenbusState.Closed)
    machine.client.rm(f"{front.path}/{node}")
    front.set_state(XenbusState.Initialising)
    assert BlkFront(machine, backend).back_state == XenbusState.Connected or node == "ring-page-order"


def test_a_ring_in_an_impossible_state_is_refused(machine, backend):
    """Indices that differ by more than the ring holds when it is handed over."""
    front = BlkFront(machine, backend, connect=False)
    front.ring.words[0] = 100
    front.set_state(XenbusState.Initialised)
    assert front.back_state == XenbusState.Closing


@pytest.mark.parametrize("text, state", [("4", 4), ("9", 0), ("", 0), ("x", 0), (None, 0), ("-1", 0)])
def test_states_are_parsed_leniently(text, state):
    """Nonsense in a state node is Unknown."""
    assert parse_state(text) == state


def test_any_sequence_of_states_is_survived(machine, backend):
    """A guest that writes random states ends where a proper front end can start."""
    import random

    random_ = random.Random(3)
    front = BlkFront(machine, backend, connect=False)
    for _ in range(300):
        front.set_state(random_.randint(0, 9))
    front.set_state(XenbusState.Closed)
    front.set_state(XenbusState.Initialising)
    assert front.back_state == XenbusState.InitWait
