"""What else is plugged into a switch: our DHCP server, streams to other programs, TAP interfaces."""

import os
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import time

import pytest

from tests.dom0.packets import MAC_A, MAC_B, ethernet, ip4, tcp, udp
from xenfast.dom0.net import Offload, Switch, frame, pcap, tap
from xenfast.dom0.net.dhcp import SERVER_MAC, DhcpServer
from xenfast.dom0.net.frame import CAN_ALL, GSO_TCPV4, GSO_TCPV6
from xenfast.dom0.net.link import StreamLink, parse_address
from xenfast.dom0.net.networks import Networks
from xenfast.errors import XenfastError
from xenfast.xen.hypervisor import Hypervisor


@pytest.fixture
def hypervisor():
    with Hypervisor(4) as hypervisor:
        yield hypervisor
        assert not hypervisor.loop.failures


def turn(hypervisor, until, seconds=5.0):
    """Let domain 0 run until something is true."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        hypervisor.loop.run_ready()
        hypervisor.loop.poll(0.02)


# --- DHCP ------------------------------------------------------------------------------------------------------------
class Client:
    def __init__(self, switch, mac):
        self.mac, self.got = mac, []
        self.port = switch.port("client", mac)
        self.port.receiver = lambda data: self.got.append(bytes(data))

    def ask(self, kind, *options, yours=bytes(4), flags=0):
        head = struct.pack(">BBBBIHH4s12x", 1, 1, 6, 0, 0x77, 0, flags, yours) + self.mac + bytes(202)
        body = head + b"\x63\x82\x53\x63" + bytes([53, 1, kind]) + b"".join(options) + b"\xff"
        packet = ip4(udp(body, source=68, destination=67), 17, source=bytes(4), destination=b"\xff" * 4)
        self.got.clear()
        self.port.send(frame.fill_checksum(ethernet(packet, source=self.mac, destination=b"\xff" * 6)))
        if not self.got:
            return None
        data = self.got.pop()
        assert frame.is_valid(data) and data[34:38] == b"\0\x43\0\x44" and data[70:76] == self.mac
        return data[284], data[58:62], data[282:]


def test_leases():
    """Each guest gets an address of its own and keeps it, the one it wants if that is free; released ones are given
    again; a full network gives the oldest away."""
    switch = Switch()
    DhcpServer(switch.port("dhcp"), "10.9.8.0/28")
    one, two = Client(switch, MAC_A), Client(switch, MAC_B)
    kind, address, options = one.ask(1)
    assert (kind, address) == (2, b"\x0a\x09\x08\2") and b"\x36\x04\x0a\x09\x08\1" in options and b"\1\4\xff\xff\xff\xf0" in options
    assert one.ask(3, b"\x32\4" + address)[:2] == (5, address)
    assert two.ask(1, b"\x32\4\x0a\x09\x08\x07")[:2] == (2, b"\x0a\x09\x08\x07")
    assert two.ask(3, b"\x32\4" + address)[:2] == (6, bytes(4))
    assert two.ask(3, yours=b"\x0a\x09\x08\x07")[0] == 5
    assert two.ask(3, b"\x32\4\x0a\x09\x08\x07", b"\x36\4\1\2\3\4") is None
    assert two.ask(8)[0] == 5 and one.ask(1)[1] == address
    assert one.ask(7) is None
    others = [Client(switch, bytes([2, 1, 1, 1, 1, i])).ask(1)[1] for i in range(14)]
    assert len(set(others)) >= 12


def test_the_server_answers_arp_and_ping():
    """ARP requests for it and ICMP echo are answered; garbage is not, and does no harm."""
    switch = Switch()
    DhcpServer(switch.port("dhcp"))
    client = Client(switch, MAC_A)
    client.port.send(ethernet(b"\0\1\x08\0\6\4\0\1" + MAC_A + b"\xc0\xa8\x64\x02" + bytes(6) + b"\xc0\xa8\x64\x01" + bytes(18), 0x806,
                              MAC_A, b"\xff" * 6))  # fmt: skip
    assert client.got.pop()[20:32] == b"\0\2" + SERVER_MAC + b"\xc0\xa8\x64\x01"
    ping = ip4(b"\x08\0" + b"\xf7\xff" + b"\0\0\0\0", 1, source=b"\xc0\xa8\x64\2", destination=b"\xc0\xa8\x64\1")
    client.port.send(ethernet(ping, source=MAC_A, destination=SERVER_MAC))
    assert client.got.pop()[34:42] == b"\0\0\xff\xff\0\0\0\0"
    random_ = random.Random(1)
    base = ethernet(ip4(udp(bytes(300), source=68, destination=67), 17), source=MAC_A)
    for _ in range(2000):
        wild = bytearray(random_.choice([base, ethernet(ping, source=MAC_A, destination=SERVER_MAC)]))
        for _ in range(3):
            wild[random_.randrange(12, len(wild))] = random_.randrange(256)
        client.port.send(bytes(wild[: random_.randint(14, len(wild))]))
    with pytest.raises(XenfastError, match="too small"):
        DhcpServer(switch.port("dhcp"), "10.0.0.0/30")


# --- streams ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_two_switches_joined_by_a_stream(hypervisor, tmp_path, kind):
    """Frames pass both ways, finished; the link is made anew when it breaks."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"tcp:127.0.0.1:{probe.getsockname()[1]}" if kind == "tcp" else f"unix:{tmp_path}/link"
    left, right = Switch("left", hypervisor), Switch("right", hypervisor)
    server = StreamLink(hypervisor.loop, left.port("link"), address, server=True)
    client = StreamLink(hypervisor.loop, right.port("link"), address)
    a, b = left.port("a", MAC_A), right.port("b", MAC_B)
    got_a, got_b = [], []
    a.receiver, b.receiver = got_a.append, got_b.append
    turn(hypervisor, lambda: server.peer is not None)
    big = ethernet(ip4(tcp(bytes(9000), blank=True), 6), source=MAC_A, destination=MAC_B)
    a.send(big, Offload(True, 1448, GSO_TCPV4))
    turn(hypervisor, lambda: len(got_b) == 7)
    assert all(map(frame.is_valid, got_b))
    for i in range(200):
        b.send(ethernet(i.to_bytes(2, "big") * 500, 0x88B5, MAC_B, MAC_A))
    turn(hypervisor, lambda: len(got_a) == 200)
    assert [data[14] << 8 | data[15] for data in got_a] == list(range(200))
    server.peer.shutdown(socket.SHUT_RDWR)
    turn(hypervisor, lambda: client.peer is None)
    client.timer.cancel()
    client._connect()
    turn(hypervisor, lambda: server.peer is not None)
    b.send(ethernet(bytes(60), 0x88B5, MAC_B, MAC_A))
    turn(hypervisor, lambda: len(got_a) == 201)
    for each in (client, server, server):
        each.close()
    assert kind == "tcp" or not os.path.exists(tmp_path / "link")


def test_a_bad_peer_loses_the_connection(hypervisor, tmp_path):
    """A length that cannot be ends the connection; a peer that does not read loses frames, and only whole ones; a
    second peer is turned away; another one may come afterwards."""
    switch = Switch("one", hypervisor)
    link = StreamLink(hypervisor.loop, switch.port("link"), f"unix:{tmp_path}/link", server=True)
    port = switch.port("a", MAC_A)
    assert os.stat(tmp_path / "link").st_mode & 0o077 == 0
    for bad in (b"\xff\xff\xff\xff", b"\0\0\0\5", bytes(4)):
        with socket.socket(socket.AF_UNIX) as peer, socket.socket(socket.AF_UNIX) as second:
            peer.connect(f"{tmp_path}/link")
            turn(hypervisor, lambda: link.peer is not None)
            second.connect(f"{tmp_path}/link")
            turn(hypervisor, lambda second=second: closed(second))
            peer.sendall(bad)
            turn(hypervisor, lambda: link.peer is None)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(f"{tmp_path}/link")
        turn(hypervisor, lambda: link.peer is not None)
        sent = sum(port.send(ethernet(bytes(1400), 0x88B5, MAC_A, MAC_B)) for _ in range(8000))
        assert 100 < sent < 8000
        peer.setblocking(False)
        got = bytearray()
        while True:
            try:
                got += peer.recv(1 << 20)
            except BlockingIOError:
                if not link.pending:
                    break
                link._drain()
        assert len(got) == sent * 1418 and got[:4] == (1414).to_bytes(4, "big")
    link.close()
    for text in ("", "unix:", "tcp:host", "udp:1:2", "tcp:h:99999"):
        with pytest.raises(XenfastError, match="is not an address"):
            parse_address(text)
    with pytest.raises(XenfastError, match="cannot connect"):
        StreamLink(hypervisor.loop, switch.port("x"), f"unix:{tmp_path}/none")
    with pytest.raises(XenfastError, match="cannot listen"):
        StreamLink(hypervisor.loop, switch.port("x"), f"unix:{tmp_path}/no/where", server=True)


def closed(peer):
    try:
        peer.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("passt"), reason="passt is not installed (apt-get install passt)")
def test_passt_gives_a_lease(hypervisor):
    """A real peer: passt speaks the protocol and answers DHCP."""
    directory = tempfile.mkdtemp(prefix="passt-")
    os.chmod(directory, 0o777)              # as root it becomes nobody
    path = f"{directory}/passt"
    with subprocess.Popen(["passt", "-f", "-1", "-s", path, "-a", "10.5.5.5", "-n", "24", "-g", "10.5.5.1"],
                          stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # fmt: skip
        try:
            for _ in range(100):
                if os.path.exists(path) or process.poll() is not None:
                    break
                time.sleep(0.05)
            if process.poll() is not None:
                pytest.skip(f"passt does not run here: {process.stderr.read()[-200:]!r}")
            switch = Switch("one", hypervisor)
            link = StreamLink(hypervisor.loop, switch.port("link"), f"unix:{path}")
            client = Client(switch, MAC_A)
            client.ask(1)
            turn(hypervisor, lambda: any(data[12:14] == b"\x08\0" and data[58:62] == b"\x0a\5\5\5" for data in client.got))
            link.close()
        finally:
            process.kill()
            shutil.rmtree(directory)


# --- TAP -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("offload", [Offload(), Offload(validated=True), Offload(True), Offload(True, 1448, GSO_TCPV4)])
def test_virtio_net_headers(offload):
    """A frame's state survives the header that TAP interfaces use."""
    data = ethernet(ip4(tcp(bytes(3000), blank=True), 6))
    head = tap.vnet_header(data, offload)
    assert tap.from_vnet_header(head + data) == offload
    if offload.gso_type:
        assert tap.VNET.unpack(head) == (1, 1, 54, 1448, 34, 16)
    assert tap.vnet_header(bytes(60), Offload(True)) is None
    assert tap.from_vnet_header(tap.VNET.pack(1, 4, 0, 1428, 0, 0)) == Offload(True, 1428, GSO_TCPV6)
    assert tap.from_vnet_header(tap.VNET.pack(1, 3, 0, 1428, 0, 0)) == Offload(True)


def test_tap_or_one_sentence(hypervisor):
    """As root a TAP interface joins the switch to the host; otherwise one sentence says what is needed."""
    networks = Networks(hypervisor)
    try:
        switch = networks.define("host", "tap,ifname=xftest0")
    except XenfastError as error:
        assert "TAP" in str(error) and "\n" not in str(error)
        return
    port = switch.port("a", MAC_A)
    port.accepts = CAN_ALL
    got = []
    port.receiver = lambda data, offload: got.append((data, offload))
    try:
        ip = shutil.which("ip", path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
        if ip and subprocess.run([ip, "link", "set", "xftest0", "up"], capture_output=True).returncode == 0:
            turn(hypervisor, lambda: got)          # the host announces itself (IPv6 neighbour discovery)
            assert port.send(ethernet(ip4(udp(b"hello"), 17), source=MAC_A, destination=b"\xff" * 6))
    finally:
        networks.close()


def test_networks_with_more_uplinks(hypervisor, tmp_path):
    """A switch is made with several uplinks or none at all if one cannot be."""
    networks = Networks(hypervisor)
    networks.define("a", "dhcp,net=10.1.0.0/24", f"stream,addr=unix:{tmp_path}/a,server=on")
    networks.define("b", f"stream,addr=unix:{tmp_path}/a")
    with pytest.raises(XenfastError, match="cannot connect"):
        networks.define("c", "dhcp", f"stream,addr=unix:{tmp_path}/c")
    assert set(networks.switches) == {"a", "b"}
    client = Client(networks.switch("b"), MAC_A)
    client.ask(1)
    turn(hypervisor, lambda: client.got)
    assert client.got[0][58:62] == b"\x0a\1\0\2"
    assert networks.switch("other").ports[0].name == "dhcp"
    networks.close()


def test_networks_as_text_and_recordings(hypervisor, tmp_path):
    """What --net says defines a switch; a switch or a port is recorded by name; files are whole after the end."""
    networks = Networks(hypervisor)
    assert networks.define_text("none").name == "xenbr0" and networks.define_text("lan=dhcp,net=10.3.0.0/24").name == "lan"
    assert [port.name for port in networks.switches["lan"].ports] == ["dhcp"]
    with pytest.raises(XenfastError, match="not a kind of network"):
        networks.define_text("lan2=magic")
    client = Client(networks.switch("lan"), MAC_A)
    networks.capture("lan", str(tmp_path / "switch"))
    networks.capture("client", str(tmp_path / "port"))
    assert client.ask(1)[1] == b"\x0a\3\0\2"
    with pytest.raises(XenfastError, match="there is no switch"):
        networks.capture("vif9.9", "x")
    networks.close()
    assert len(pcap.read(tmp_path / "switch")) == 2 and len(pcap.read(tmp_path / "port")) == 2
