"""The switch: where frames go, what it remembers, what it bounds, what it counts and records."""

import pytest

from tests.dom0.packets import MAC_A, MAC_B, MAC_C, ethernet, ip4, tcp, udp
from xenfast.dom0.net import Switch, frame, pcap
from xenfast.dom0.net import switch as switch_module
from xenfast.dom0.net.frame import CAN_ALL, GSO_TCPV4, Offload
from xenfast.xen.hypervisor import Hypervisor

ALL = b"\xff" * 6


class Net:
    """A switch with a clock of ours and some ports, each with a list of what it has got."""

    def __init__(self, ports=3, **options):
        self.time = 0
        self.switch = Switch("xenbr0", now=lambda: self.time, **options)
        self.ports, self.got = [], []
        for i in range(ports):
            self.plug(f"vif{i}.0")

    def plug(self, name, mac=None):
        port = self.switch.port(name, mac)
        got = []
        port.receiver = got.append
        self.ports.append(port)
        self.got.append(got)
        return port

    def counts(self):
        found = [len(got) for got in self.got]
        for got in self.got:
            got.clear()
        return found


def plain(source, destination):
    return ethernet(b"hello" * 10, 0x88B5, source, destination)


@pytest.fixture
def net():
    return Net()


def test_frames_are_flooded_until_the_address_is_known(net):
    """Unknown destinations and groups go to all others; known ones to their port only; nothing comes back."""
    a, b, _ = net.ports
    a.send(plain(MAC_A, MAC_B))
    assert net.counts() == [0, 1, 1]
    b.send(plain(MAC_B, MAC_A))
    assert net.counts() == [1, 0, 0]
    a.send(plain(MAC_A, MAC_B))
    assert net.counts() == [0, 1, 0]
    a.send(plain(MAC_A, ALL))
    a.send(plain(MAC_A, b"\1\0\x5e\0\0\1"))
    assert net.counts() == [0, 2, 2]
    a.send(plain(MAC_C, MAC_A))         # both behind the same port
    a.send(plain(MAC_A, MAC_C))
    assert net.counts() == [0, 0, 0]


def test_reserved_groups_and_bad_frames_end_here(net):
    """Pause frames and BPDUs, sources that are groups, frames too short or too long are not passed on."""
    a = net.ports[0]
    for i in range(16):
        a.send(plain(MAC_A, b"\1\x80\xc2\0\0" + bytes([i])))
    a.send(plain(ALL, MAC_B))
    a.send(b"\xff" * 13)
    a.send(plain(MAC_A, MAC_B) + bytes(70000))
    assert net.counts() == [0, 0, 0] and a.stats.invalid == 3
    a.send(plain(MAC_A, b"\1\x80\xc2\0\0\x10"))
    assert net.counts() == [0, 1, 1]


def test_addresses_age_and_move(net):
    """After 300 s of silence an address is unknown again; one seen elsewhere has moved."""
    a, b, c = net.ports
    b.send(plain(MAC_B, MAC_A))
    net.counts()
    net.time += switch_module.AGEING_NS
    a.send(plain(MAC_A, MAC_B))
    assert net.counts() == [0, 1, 0]
    net.time += 1
    a.send(plain(MAC_A, MAC_B))
    assert net.counts() == [0, 1, 1]
    b.send(plain(MAC_B, MAC_A))
    c.send(plain(MAC_B, MAC_A))
    net.counts()
    a.send(plain(MAC_A, MAC_B))
    assert net.counts() == [0, 0, 1]
    assert net.switch.addresses() == {MAC_A: "vif0.0", MAC_B: "vif2.0"}


def test_no_guest_fills_the_table_or_takes_an_address(net):
    """A port teaches a bounded number of addresses, at its own cost; an address given at creation stays."""
    a, b, c = net.ports
    b.send(plain(MAC_B, MAC_A))
    own = net.plug("vif3.0", "02:00:00:00:00:03")
    for i in range(5000):
        a.send(ethernet(b"x" * 50, 0x88B5, b"\6" + i.to_bytes(5, "big"), MAC_B))
    assert len(a.learnt) == switch_module.MAX_ADDRESSES and len(net.switch.table) <= switch_module.MAX_ADDRESSES + 2
    a.send(plain(MAC_C, MAC_B))         # pretends to be vif3.0
    net.counts()
    b.send(plain(MAC_B, MAC_C))
    assert net.counts() == [0, 0, 0, 1]
    own.close()
    b.send(plain(MAC_B, MAC_C))
    assert net.counts() == [1, 0, 1, 0] and own not in net.switch.ports


def test_two_ports_with_one_address(net):
    """An HVM guest's emulated card and its PV device have one address: frames go to the one that was used last, and to
    the other when that is gone."""
    a = net.ports[0]
    emulated, pv = (net.plug(name, "02:00:00:00:00:03") for name in ("vif3.0-emu", "vif3.0"))
    for port, where in ((emulated, 3), (pv, 4), (emulated, 3)):
        port.send(plain(MAC_C, MAC_A))
        net.counts()
        a.send(plain(MAC_A, MAC_C))
        assert net.counts() == [1 if i == where else 0 for i in range(5)]
    emulated.close()
    a.send(plain(MAC_A, MAC_C))
    assert net.counts() == [0, 0, 0, 0, 1]


def test_answers_come_after_the_question_and_storms_end(net):
    """A receiver may send; two that answer each other for ever are stopped, and counted."""
    a, b, _ = net.ports
    a.receiver = lambda frame: a.send(plain(MAC_A, MAC_B))
    b.receiver = lambda frame: b.send(plain(MAC_B, MAC_A))
    a.send(plain(MAC_A, MAC_B))
    assert net.switch.lost and not net.switch.busy
    a.receiver = None
    a.send(plain(MAC_A, MAC_B))
    assert net.switch.queue == switch_module.deque()


def test_unfinished_frames_pass_only_between_who_can(net):
    """A GSO frame reaches an able port as it is, and others as segments with sums."""
    a, b, c = net.ports
    seen = []
    b.accepts = CAN_ALL
    b.receiver = lambda frame, offload: seen.append((frame, offload))
    big, offload = ethernet(ip4(tcp(bytes(5000), blank=True), 6), destination=ALL), Offload(True, 1448, GSO_TCPV4)
    a.send(big, offload)
    assert seen == [(big, offload)]
    assert len(net.got[2]) == 4 and all(map(frame.is_valid, net.got[2]))
    b.accepts = frame.CAN_CHECKSUM_V6
    seen.clear()
    a.send(ethernet(ip4(udp(b"abc", blank=True), 17), destination=ALL), Offload(True))
    assert frame.is_valid(seen[0][0]) and seen[0][1] == frame.PLAIN
    a.send(ethernet(bytes(60), destination=ALL), Offload(True))
    assert c.stats.invalid == 1


def test_a_full_receiver_is_told_to_the_sender(net):
    """A receiver that returns False has no room: the frame is dropped, counted, and send() says so."""
    a, b, _ = net.ports
    b.send(plain(MAC_B, MAC_A))
    b.receiver = lambda frame: False
    assert a.send(plain(MAC_A, MAC_B)) is False
    assert b.stats.dropped == 1 and b.stats.received == 0
    b.close()
    b.close()
    assert b.send(plain(MAC_B, MAC_A)) is False
    assert a.send(plain(MAC_A, MAC_B)) is True


def test_counters_and_recordings(net, tmp_path):
    """Counters are of whole frames; a recording of a port has its frames of both directions, one of the switch all."""
    a, b, c = net.ports
    net.time = 5_000_000_123
    b.capture = pcap.Pcap(tmp_path / "b.pcap", lambda: net.time)
    net.switch.capture = pcap.Pcap(tmp_path / "all.pcap", lambda: net.time, 20)
    frames = [plain(MAC_A, MAC_B), plain(MAC_B, MAC_A), plain(MAC_C, MAC_A)]
    for port, each in zip(net.ports, frames):
        port.send(each)
    assert a.stats.as_dict() == {"sent": 1, "sent_bytes": 64, "received": 2, "received_bytes": 128, "dropped": 0, "invalid": 0}
    b.capture.close()
    net.switch.close()
    assert pcap.read(tmp_path / "b.pcap") == [(5_000_000_123, frames[0]), (5_000_000_123, frames[1])]
    assert [data for _, data in pcap.read(tmp_path / "all.pcap")] == [each[:20] for each in frames]
    with pytest.raises(frame.XenfastError, match="cannot be written"):
        pcap.Pcap(tmp_path / "none" / "x")


def test_a_device_s_port_works_under_the_lock():
    """What a device sends while it holds the hypervisor's lock is passed on from the loop; it gets frames under the lock;
    the queue is bounded."""
    with Hypervisor(4) as hypervisor:
        switch = Switch("xenbr0", hypervisor)
        device, other = switch.device_port("tap1.0", "02:00:00:00:00:01"), switch.port("vif2.0", MAC_B)
        got, answers = [], []
        other.receiver = lambda frame: (got.append(frame), other.send(plain(MAC_B, MAC_A)))
        device.receiver = lambda frame: answers.append((hypervisor.lock._is_owned(), frame))
        buffer = bytearray(plain(MAC_A, MAC_B))
        with hypervisor.lock:
            assert device.send(memoryview(buffer))
            buffer[:] = bytes(len(buffer))      # the device uses its memory again
        assert not got
        hypervisor.loop.run_ready()
        assert got == [plain(MAC_A, MAC_B)] and answers == [(True, plain(MAC_B, MAC_A))]
        sent = [device.send(plain(MAC_A, MAC_B)) for _ in range(2000)]
        assert sent.count(True) == switch_module.MAX_QUEUE and device.stats.dropped == 2000 - switch_module.MAX_QUEUE
        hypervisor.loop.run_ready()
        assert len(got) == 1 + switch_module.MAX_QUEUE and not hypervisor.loop.failures and device.queued == 0
