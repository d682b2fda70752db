"""The network back end, driven by front ends over real rings, grants and event channels."""

import random

import pytest

from tests.dom0.frontend import Machine, Page
from tests.dom0.netfront import NetFront, plug
from tests.dom0.packets import MAC_B, MAC_C, ethernet, ip4, ip6, tcp, udp
from xenfast.abi.io import netif
from xenfast.abi.io.xenbus import XenbusState
from xenfast.dom0 import netback
from xenfast.dom0.net import frame as frames
from xenfast.dom0.net.frame import GSO_TCPV4, GSO_TCPV6, Offload

MAC1, MAC2 = bytes.fromhex("00163e000001"), bytes.fromhex("00163e000002")
OKAY, ERROR = netif.NETIF_RSP_OKAY, netif.NETIF_RSP_ERROR
MORE, EXTRA = netif.NETTXF_more_data, netif.NETTXF_extra_info
BIG = Offload(True, 1448, GSO_TCPV4)


@pytest.fixture
def machine():
    machine = Machine(32)
    yield machine
    machine.close()


@pytest.fixture
def backend(machine):
    return plug(machine)


@pytest.fixture
def front(machine, backend):
    return NetFront(machine, backend)


@pytest.fixture
def world(machine, backend):
    """A plain port on the same switch."""
    port = machine.switch.port("world", MAC_B)
    port.got = []
    port.receiver = lambda frame: port.got.append(bytes(frame))
    return port


def packet(size=100, destination=MAC_B, source=MAC1):
    return ethernet(random.Random(size).randbytes(size - 14), 0x88B5, source, destination)


VARIANTS = {"split": {}, "one channel": {"split": False}, "4 queues": {"queues": 4}, "grants of version 2": {}}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_frames_go_out_and_come_in(machine, backend, world, variant, request):
    """What the guest sends reaches the switch byte for byte, in one slot or many; what the switch has reaches the guest."""
    if "version 2" in request.node.name:
        machine.guest.gnttab.set_version(2)
    front = NetFront(machine, backend, **variant)
    assert front.back_state == XenbusState.Connected
    for queue in front.queues:
        sent = [packet(60), packet(1514), packet(4096), packet(9000)]
        ids = front.submit(sent[0], queue=queue) + front.submit(sent[1], cuts=(14, 54, 700), queue=queue)
        ids += front.submit(sent[2], queue=queue) + front.submit(sent[3], queue=queue)
        assert front.finish(queue) == [(identity, OKAY) for identity in ids]
        assert world.got == sent
        world.got.clear()
    for size in (60, 1514, 4096, 4097, 9000):
        assert world.send(packet(size, MAC1, MAC_B))
        assert front.received() == [(packet(size, MAC1, MAC_B), 0, None)]
    assert backend.stats()["rx_frames"] == 5 and backend.stats()["errors"] == 0


def test_what_the_front_end_reads(machine, backend, front):
    """The nodes xen-netfront of Linux 6.1 reads are there when it reads them, and the hot plug script's answer."""
    for name, value in netback.FEATURES.items():
        assert int(machine.client.read(f"{backend.path}/{name}")) == value
    assert machine.client.read(f"{backend.path}/hotplug-status") == "connected"


@pytest.mark.parametrize("version", [4, 6])
def test_checksums_and_large_packets(machine, backend, front, world, version):
    """A blank checksum and a packet of 60000 bytes leave a plain port finished."""
    def whole(payload):
        if version == 4:
            return ethernet(ip4(tcp(payload, blank=True), 6), source=MAC1)
        return ethernet(ip6(tcp(payload, 6, blank=True), 6), 0x86DD, MAC1)

    front.submit(whole(b"hello"), Offload(True))
    ids = front.submit(whole(bytes(60000)), Offload(True, 1448, GSO_TCPV4 if version == 4 else GSO_TCPV6))
    assert ids[1] is None and front.finish()[1:] == [(identity, netif.NETIF_RSP_NULL if identity is None else OKAY)
                                                     for identity in ids]
    assert len(world.got) == 1 + 42 and all(map(frames.is_valid, world.got))


def test_two_guests_exchange_large_packets_as_they_are(machine, backend, front):
    """A GSO packet with a blank checksum arrives in the other guest whole, its extra slot and flags with it."""
    other = machine.hypervisor.create_domain("other", vcpus=0)
    two = NetFront(machine, plug(machine, other, mac="00:16:3e:00:00:02"), other)
    big = ethernet(ip4(tcp(bytes(range(256)) * 250, blank=True), 6), source=MAC1, destination=MAC2)
    front.submit(big, BIG)
    front.finish()
    ((data, flags, extra),) = two.received()
    assert data == big and flags & (netif.NETRXF_csum_blank | netif.NETRXF_data_validated | EXTRA) == 11   # and extra
    assert extra == netif.EXTRA.pack(1, 0, netif.EXTRA_GSO.pack(1448, GSO_TCPV4, 0))
    two.queue.post(40)
    front.submit(big[:1000], Offload(True))
    front.finish()
    ((data, flags, extra),) = two.received()
    assert data == big[:1000] and flags == netif.NETRXF_csum_blank | netif.NETRXF_data_validated and extra is None


def test_a_front_end_without_features_gets_finished_frames(machine, backend, world):
    """Without sg and GSO a large packet arrives as segments; with no-csum-offload all sums are right."""
    front = NetFront(machine, backend, features=("request-rx-copy", "feature-no-csum-offload"))
    world.send(ethernet(ip4(tcp(bytes(5000), blank=True), 6), source=MAC_B, destination=MAC1), BIG)
    got = front.received()
    assert len(got) == 4 and all(frames.is_valid(data) and not flags for data, flags, _ in got)
    assert world.send(packet(5000, MAC1, MAC_B)) is False and backend.stats()["rx_dropped"] == 1


def test_packets_wait_for_pages_but_not_for_ever(machine, backend, world):
    """Packets for a guest that has posted no pages wait, in order, up to a bound; the guest is asked for an event."""
    front = NetFront(machine, backend, posted=3)
    sent = [packet(4000 + i, MAC1, MAC_B) for i in range(10)]
    assert all(map(world.send, sent))
    assert [data for data, _, _ in front.received()] == sent[:3]
    front.queue.post(2)
    assert [data for data, _, _ in front.received()] == sent[3:5]
    front.queue.post(100)
    assert [data for data, _, _ in front.received()] == sent[5:]
    front.queue.post(-100)
    results = [world.send(packet(4000, MAC1, MAC_B)) for _ in range(1300)]
    assert results.count(False) > 100 and backend.stats()["rx_dropped"] == results.count(False)
    assert backend.queues[0].waiting_bytes <= netback.MAX_WAITING_BYTES


def test_a_packet_needs_all_its_pages(machine, backend, world):
    """A large packet waits until there are pages for all of it and its extra slot."""
    front = NetFront(machine, backend, posted=2)
    big = ethernet(ip4(tcp(bytes(10000), blank=True), 6), source=MAC_B, destination=MAC1)
    world.send(big, BIG)
    assert front.received() == []
    front.queue.post(1)
    assert front.received() == []
    front.queue.post(1)
    assert [data for data, _, _ in front.received()] == [big]


def test_flows_stay_in_their_queue(machine, backend, world):
    """Packets of a connection come by one queue; many connections use all of them."""
    front = NetFront(machine, backend, queues=4)
    for port in range(64):
        for size in (10, 20):
            world.send(ethernet(ip4(udp(bytes(size), source=port), 17), source=MAC_B, destination=MAC1))
    got = [queue.received() for queue in front.queues]
    assert all(got) and sum(map(len, got)) == 128
    for queue in got:
        ports = [data[34:36] for data, _, _ in queue]
        assert all(ports.count(port) == 2 for port in ports)


def test_multicast_filter(machine, backend, front, world):
    """After request-multicast-control, groups that were not asked for are kept out; broadcasts are not."""
    group = b"\1\0\x5e\0\0\x42"
    send = lambda to: (world.send(packet(80, to, MAC_B)), len(front.received()))[1]
    assert send(group) == 1
    machine.client.write(f"{front.path}/request-multicast-control", 1)
    assert (send(group), send(b"\xff" * 6), send(MAC1)) == (0, 1, 1)
    add, remove = (netif.EXTRA.pack(kind, 0, group) for kind in (2, 3))
    front.submit(packet(60), extras=[add])
    assert [status for _, status in front.finish()] == [OKAY, netif.NETIF_RSP_NULL] and send(group) == 1
    front.submit(packet(60), extras=[remove])
    front.finish()
    assert send(group) == 0 and not world.got
    for i in range(100):
        front.submit(packet(60), extras=[netif.EXTRA.pack(2, 0, b"\1\0\0\0\0" + bytes([i]))])
    assert [status for _, status in front.finish()].count(ERROR) == 100 - netback.MAX_MULTICAST


def test_rate(machine, monkeypatch):
    """rate: so many bytes an interval leave, the rest waits for the next one."""
    clock = machine.hypervisor.clock
    time = [clock.now()]
    monkeypatch.setattr(clock, "now", lambda: time[0])
    backend = plug(machine, rate="3000,50000")
    front = NetFront(machine, backend)
    world = machine.switch.port("world", MAC_B)
    got = []
    world.receiver = got.append
    for _ in range(10):
        front.submit(packet(1500))
    front.finish()
    assert len(got) == 2
    time[0] += 50_000_000
    machine.run()
    assert len(got) == 4
    time[0] += 10_000_000_000
    machine.run()
    assert len(got) == 10
    assert netback.parse_rate("nonsense") == netback.parse_rate("0,5") == (0, 0)


HOSTILE_ERRORS = {
    "no grant": lambda page: [(999999, 0, 0, 1, 100)],
    "too short": lambda page: [(page, 0, 0, 1, 13)],
    "nothing": lambda page: [(page, 0, 0, 1, 0)],
    "fragments larger than all": lambda page: [(page, 0, MORE, 1, 100), (page, 0, 0, 2, 200)],
    "19 slots": lambda page: [(page, 0, MORE, 1, 1000)] + [(page, 0, MORE, i, 10) for i in range(17)] + [(page, 0, 0, 9, 10)],
}
HOSTILE_FATAL = {
    "leaves its page": lambda page: [(page, 4000, 0, 1, 100)],
    "fragment leaves its page": lambda page: [(page, 0, MORE, 1, 1000), (page, 4090, 0, 2, 100)],
    "no end": lambda page: [(page, 0, MORE, 1, 1000)],
    "100 slots": lambda page: [(page, 0, MORE, i, 1000) for i in range(100)],
    "no extra": lambda page: [(page, 0, EXTRA, 1, 1000)],
    "extras without end": lambda page: [(page, 0, EXTRA, 1, 1000)] + [b"\1\1" + bytes(10)] * 60,
    "extra of type 0": lambda page: [(page, 0, EXTRA, 1, 1000), bytes(12)],
    "extra of type 200": lambda page: [(page, 0, EXTRA, 1, 1000), b"\xc8" + bytes(11)],
    "GSO size 0": lambda page: [(page, 0, EXTRA, 1, 1000), b"\1\0\0\0\1" + bytes(7)],
    "GSO type 9": lambda page: [(page, 0, EXTRA, 1, 1000), b"\1\0\x00\x05\x09" + bytes(7)],
}


@pytest.mark.parametrize("requests", HOSTILE_ERRORS.values(), ids=list(HOSTILE_ERRORS))
def test_a_bad_packet_gets_an_error(machine, backend, front, world, requests):
    """A packet that cannot be sent is answered with an error for each slot; the next one goes out."""
    bad = requests(Page(front.half).ref)
    front.raw(*bad)
    good = front.submit(packet(60))
    assert front.finish() == [(request[3], ERROR) for request in bad] + [(good[0], OKAY)]
    assert world.got == [packet(60)] and front.back_state == XenbusState.Connected


@pytest.mark.parametrize("requests", HOSTILE_FATAL.values(), ids=list(HOSTILE_FATAL))
def test_nonsense_closes_the_interface(machine, backend, front, world, requests):
    """What no driver does closes the interface with a reason in the error node, and leaves nothing mapped."""
    front.raw(*requests(Page(front.half).ref))
    front.finish()
    assert front.back_state == XenbusState.Closing and not world.got
    assert machine.client.read(f"/local/domain/0/error/backend/{backend.name}/error").startswith("22 ")
    assert not machine.guest.gnttab.active and world.send(packet(60, MAC1, MAC_B))


def test_runaway_indices_and_bad_nodes(machine, backend, world):
    """A producer index beyond the ring closes the interface, in either ring; nodes that are nonsense do, too; the
    guest may try again."""
    for which in ("tx", "rx"):
        front = NetFront(machine, backend)
        ring = getattr(front.queue, which)
        ring.words[0] = ring.req_prod + 10000
        ring.evtchn.send(ring.port)
        machine.run()
        world.send(packet(60, MAC1, MAC_B))
        assert front.back_state == XenbusState.Closing
        front.set_state(XenbusState.Closed)
        front.set_state(XenbusState.Initialising)
        assert front.back_state == XenbusState.InitWait
    for name, value in [("tx-ring-ref", "x"), ("rx-ring-ref", 77777), ("event-channel-tx", 9999), ("request-rx-copy", 0),
                        ("multi-queue-num-queues", 9)]:  # fmt: skip
        front = NetFront.__new__(NetFront)
        machine.client.write(f"{backend.front}/state", 1)
        front.__init__(machine, backend)
        front.set_state(XenbusState.Closed)
        front.set_state(XenbusState.Initialising)
        before = machine.client.read(f"{front.path}/{name}", "")
        machine.client.write(f"{front.path}/{name}", value)
        front.set_state(XenbusState.Connected)
        assert front.back_state == XenbusState.Closing, name
        front.set_state(XenbusState.Closed)
        if before:
            machine.client.write(f"{front.path}/{name}", before)
        else:
            machine.client.rm(f"{front.path}/{name}")
        front.set_state(XenbusState.Initialising)
        assert not machine.guest.gnttab.active


def test_bad_pages_for_packets(machine, backend, world):
    """A posted page that is not granted, or only for reading, costs that packet; the interface goes on."""
    front = NetFront(machine, backend, posted=0)
    rx = front.queue.rx
    rx.put(netif.RX_REQUEST.pack(1, 888888))
    rx.put(netif.RX_REQUEST.pack(2, Page(front.half, readonly=True).ref))
    front.queue.post(1)
    for _ in range(3):
        world.send(packet(60, MAC1, MAC_B))
    machine.run()
    answers = [netif.RX_RESPONSE.unpack(front.queue._slot()) for _ in range(3)]
    assert [status for *_, status in answers] == [ERROR, ERROR, 60]


def test_random_slots_never_hurt(machine, backend, world):
    """Thousands of random slots: the interface answers or closes; no exception, nothing left mapped."""
    random_ = random.Random(7)
    for _ in range(170):
        front = NetFront(machine, backend, posted=16)
        pages = [Page(front.half).ref for _ in range(3)]
        for _ in range(6):
            for _ in range(random_.randint(1, 40)):
                size = random_.choice([0, 14, 60, 1500, 4096, 65535, random_.randrange(65536)])
                request = (random_.choice([*pages, random_.randrange(500)]), random_.choice([0, 0, 64, 4095, 60000]),
                           random_.choice([0, 0, 0, 1, 2, 3, MORE, EXTRA, random_.randrange(65536)]), random_.randrange(65536), size)
                front.raw(request)
            if random_.random() < 0.1:
                front.queue.rx.words[0] = random_.randrange(1 << 32)
            world.send(packet(60, MAC1, MAC_B))
            front.finish()
        front.set_state(XenbusState.Closed)
        assert not machine.guest.gnttab.active
        front.set_state(XenbusState.Initialising)
    assert not machine.hypervisor.loop.failures


def test_unplugged_while_packets_wait(machine, backend, front, world):
    """Hot unplug: rings, ports and the switch's port are given back, packets that wait are lost, nothing else."""
    ports = len(machine.hypervisor.domain(0).evtchn.channels)
    for _ in range(200):
        world.send(packet(1000, MAC1, MAC_B))
    front.submit(packet(60))
    backend.close()
    front.finish()
    assert not machine.guest.gnttab.active and backend.port not in machine.switch.ports
    assert all(c is None for c in machine.hypervisor.domain(0).evtchn.channels[1:ports])
    assert world.send(packet(60, MAC1, MAC_B)) and world.send(packet(60, MAC_C, MAC_B))
