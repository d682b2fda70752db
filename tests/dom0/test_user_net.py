"""The user network, driven by frames: leases, ARP, connections both ways with segments as large as they come."""

import socket
import struct
import time

import pytest

from tests.dom0.packets import MAC_A, ethernet, ip4, tcp, udp
from xenfast.dom0.net import Switch, frame, slirp, user
from xenfast.dom0.net.frame import CAN_ALL, PLAIN
from xenfast.dom0.net.networks import Networks
from xenfast.dom0.net.user import UserNet, UserOptions, parse_hostfwd
from xenfast.errors import XenfastError
from xenfast.xen.hypervisor import Hypervisor

needs_slirp = pytest.mark.skipif(not slirp.available(), reason="libslirp is not installed (apt-get install libslirp0)")
GUEST = b"\x0a\0\2\x0f"


class World:
    """A guest's port on a switch with a user network."""

    def __init__(self, **options):
        self.hypervisor = Hypervisor(4)
        self.switch = Switch("xenbr0", self.hypervisor)
        self.net = UserNet(self.hypervisor.loop, self.switch.port("user"), UserOptions(**options))
        self.port = self.switch.port("vif1.0", MAC_A)
        self.port.accepts = CAN_ALL
        self.got = []
        self.port.receiver = lambda data, offload: self.got.append((bytes(data), offload))
        self.router = b"\xff" * 6

    def wait(self, accept, seconds=5.0):
        """The next frame that is accepted, with its offload."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.hypervisor.loop.run_ready()
            for i, (data, offload) in enumerate(self.got):
                if accept(data):
                    del self.got[: i + 1]
                    return data, offload
            self.hypervisor.loop.poll(0.05)
        raise AssertionError("no such frame")

    def arp(self):
        """Learn the router's address."""
        request = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + MAC_A + GUEST + bytes(6) + b"\x0a\0\2\2"
        self.port.send(ethernet(request + bytes(18), 0x806, MAC_A, b"\xff" * 6))
        data, _ = self.wait(lambda data: data[12:14] == b"\x08\x06" and data[20:22] == b"\0\2")
        self.router = data[22:28]

    def tcp(self, flags, payload=b"", seq=1000, ack=0, port=80, local=5555, options=b"", to=b"\x0a\0\2\2", offload=PLAIN):
        head = tcp(payload, flags=flags, seq=seq, options=options)
        head = struct.pack(">HHII", local, port, seq, ack) + head[12:]
        packet = ethernet(ip4(head, 6, source=GUEST, destination=to), source=MAC_A, destination=self.router)
        self.port.send(frame.fill_checksum(packet) if offload is PLAIN else packet, offload)

    def answer(self, flag):
        """The next TCP packet with a flag: (seq, ack, payload, frame, offload)."""
        data, offload = self.wait(lambda data: data[12:14] == b"\x08\0" and data[23] == 6 and data[47] & flag)
        seq, ack = struct.unpack_from(">II", data, 38)
        return seq, ack, data[34 + (data[46] >> 4) * 4 :], data, offload

    def close(self):
        self.net.close()
        self.net.close()
        assert not self.hypervisor.loop.failures
        self.hypervisor.close()


@pytest.fixture
def world(request):
    world = World(**getattr(request, "param", {}))
    yield world
    world.close()


@needs_slirp
def test_a_guest_gets_a_lease(world):
    """DHCP offers the first address, with router and name server, from the user network."""
    discover = struct.pack(">BBBBIHH16x", 1, 1, 6, 0, 0x1234, 0, 0) + MAC_A + bytes(202) + b"\x63\x82\x53\x63\x35\1\1\xff"
    packet = udp(discover, source=68, destination=67)
    packet = ip4(packet, 17, source=bytes(4), destination=b"\xff" * 4)
    world.port.send(frame.fill_checksum(ethernet(packet, source=MAC_A, destination=b"\xff" * 6)))
    data, offload = world.wait(lambda data: data[34:38] == b"\0\x43\0\x44")
    assert data[42 + 16 : 42 + 20] == GUEST and b"\x03\x04\x0a\0\2\2" in data and b"\x06\x04\x0a\0\2\3" in data
    assert offload.validated and frame.is_valid(data)


@needs_slirp
def test_a_connection_to_the_host_is_made_of_large_segments(world):
    """The router leads to the host's 127.0.0.1; what comes is cut to the guest's MSS by whoever must, and not before."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        world.arp()
        world.tcp(user.SYN, port=server.getsockname()[1], options=b"\2\4" + struct.pack(">H", 1460))
        seq, ack, *_ = world.answer(user.SYN)
        assert ack == 1001
        world.tcp(0x10, seq=1001, ack=seq + 1, port=server.getsockname()[1])
        world.hypervisor.loop.run_ready()
        peer, _ = server.accept()
        with peer:
            peer.sendall(bytes(range(256)) * 80)
            _, _, payload, data, offload = world.answer(0x10)
            while not payload:
                _, _, payload, data, offload = world.answer(0x10)
            assert len(payload) > 4000 and offload.gso_size == 1460 and offload.gso_type == frame.GSO_TCPV4
            parts = list(frame.finish(data, offload))
            assert all(map(frame.is_valid, parts)) and b"".join(part[54:] for part in parts) == payload
            big = bytes(range(255, -1, -1)) * 128
            world.tcp(0x18, big, seq=1001, ack=seq + 1, port=server.getsockname()[1],
                      offload=frame.Offload(True, 1460, frame.GSO_TCPV4))
            world.hypervisor.loop.run_ready()
            peer.settimeout(5)
            got = b""
            while len(got) < len(big):
                got += peer.recv(1 << 16)
            assert got == big


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@needs_slirp
def test_a_forward_reaches_the_guest(world):
    """A connection to the host's port arrives in the guest as one from the router; a forward can be taken away."""
    port = free_port()
    world.net.add_hostfwd(f"tcp::{port}-:22")
    world.arp()
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        world.hypervisor.loop.poll(0.1)
        data, _ = world.wait(lambda data: data[12:14] == b"\x08\0" and data[23] == 6 and data[47] & 2)
        assert data[36:38] == b"\0\x16" and data[30:34] == GUEST
        remote, seq = struct.unpack_from(">H", data, 34)[0], struct.unpack_from(">I", data, 38)[0]
        world.tcp(0x12, seq=7, ack=seq + 1, port=remote, local=22)
        client.sendall(b"hello")
        *_, payload, _, _ = world.answer(0x08)
        assert payload == b"hello"
    with pytest.raises(XenfastError, match="cannot be forwarded"):
        world.net.add_hostfwd(f"tcp:127.0.0.1:{port}-:23")
    world.net.remove_hostfwd(f"tcp::{port}-:22")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
    with pytest.raises(XenfastError, match="no port forward"):
        world.net.remove_hostfwd("tcp::1-:22")


@needs_slirp
@pytest.mark.parametrize("world", [{"restrict": True}], indirect=True)
def test_restrict_keeps_guests_in(world):
    """With restrict a connection to the host is refused."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        world.arp()
        world.tcp(user.SYN, port=server.getsockname()[1])
        server.settimeout(0.2)
        world.hypervisor.loop.run_ready()
        with pytest.raises(TimeoutError):
            server.accept()


@needs_slirp
def test_garbage_does_not_hurt(world):
    """Cut and changed frames of every kind: nothing fails."""
    import random

    random_ = random.Random(3)
    packets = [ethernet(ip4(tcp(b"x" * 40, flags=2, options=b"\2\4\5\xb4" + bytes(4)), 6)), ethernet(ip4(udp(b"y" * 90), 17)),
               ethernet(struct.pack(">HHBBH", 1, 0x800, 6, 4, 1) + bytes(30), 0x806), ethernet(bytes(80), 0x86DD)]  # fmt: skip
    for _ in range(2000):
        wild = bytearray(random_.choice(packets))
        for _ in range(random_.randint(0, 4)):
            wild[random_.randrange(12, len(wild))] = random_.randrange(256)
        world.port.send(bytes(wild[: random_.randint(14, len(wild))]) if random_.random() < 0.3 else bytes(wild))
    world.hypervisor.loop.run_ready()


def test_forwards_as_text():
    """Port forwards are written as in QEMU; the host's address is 127.0.0.1 unless given."""
    assert parse_hostfwd("tcp::2222-:22") == (False, "127.0.0.1", 2222, "", 22)
    assert parse_hostfwd("udp:0.0.0.0:53-10.0.2.9:5353") == (True, "0.0.0.0", 53, "10.0.2.9", 5353)
    for text in ("", "tcp::0-:22", "tcp::1-:65536", "icmp::1-:2", "tcp:host:1-:2", "tcp::1", "tcp::a-:2", "tcp::1-:2-:3"):
        with pytest.raises(XenfastError, match="is not a port forward such as"):
            parse_hostfwd(text)


@pytest.mark.parametrize("text, reason", [
    ("nat", "not a kind of network"), ("user,color=red", "not an option of a user network"), ("user,net=x", "addresses are no use"),
    ("user,host=1.2.3.4", "not in 10.0.2.0/24"), ("user,restrict=maybe", "neither on nor off"), ("user,tftp=/none", "does not exist"),
    ("user,hostfwd=x", "is not a port forward"), ("user,net=10.0.0.0/30", "addresses are no use"),
])  # fmt: skip
@needs_slirp
def test_uplinks_that_cannot_be(text, reason):
    """A network that cannot be is one sentence, and leaves no switch behind."""
    with Hypervisor(4) as hypervisor:
        networks = Networks(hypervisor)
        with pytest.raises(XenfastError, match=reason):
            networks.define("xenbr7", text)
        assert not networks.switches
        networks.close()


@needs_slirp
def test_the_default_switch_leads_out():
    """xenbr0 is made when it is asked for, with a user network; names are what they should be."""
    with Hypervisor(4) as hypervisor:
        networks = Networks(hypervisor)
        assert networks.switch("") is networks.switch("xenbr0") and networks.user().forwards == []
        networks.define("lonely", "none")
        with pytest.raises(XenfastError, match="has no user network"):
            networks.user("lonely")
        with pytest.raises(XenfastError, match="cannot be the name"):
            networks.define("a\nb")
        networks.close()


def test_without_the_library(monkeypatch):
    """Where libslirp is missing, who asks for a user network is told which package to install."""
    monkeypatch.setattr(slirp.ctypes, "PyDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    slirp.library.cache_clear()
    try:
        assert not slirp.available()
        with Hypervisor(4) as hypervisor, pytest.raises(XenfastError, match="apt-get install libslirp0"):
            Networks(hypervisor).define("xenbr0", "user")
    finally:
        slirp.library.cache_clear()
