"""The VNC server: handshakes, passwords, every encoding, input, sizes, several clients, and clients that mean no good."""

import random
import socket
import struct
import subprocess
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tests.firmware.pc import FakeTimers
from tests.libxl.rfbclient import Client
from xenfast.devices import vga_picture
from xenfast.devices.ps2 import Ps2Controller
from xenfast.devices.vga import Vga
from xenfast.devices.vga_dispi import ENABLED, INDEX_BPP, INDEX_ENABLE, INDEX_XRES, INDEX_YRES
from xenfast.errors import XenfastError
from xenfast.firmware.vgabios_core import VgaBios
from xenfast.libxl import des, vnc
from xenfast.libxl.rfb_encodings import PixelFormat, changed_tiles, rectangles
from xenfast.libxl.screen import Input
from xenfast.xen.eventloop import EventLoop
from xenfast.xen.hvm.irq import nowhere
from xenfast.xen.time import Clock

RAW, COPYRECT, RRE, HEXTILE, ZLIB, TIGHT, ZRLE = 0, 1, 2, 5, 6, 7, 16


class Memory:
    """What a video BIOS writes its data area into."""

    def __init__(self):
        self.data = bytearray(1 << 20)

    def read(self, at, n):
        return bytes(self.data[at:at + n])

    def write(self, at, data):
        self.data[at:at + len(data)] = data

    def read_int(self, at, n):
        return int.from_bytes(self.data[at:at + n], "little")

    def write_int(self, at, n, value):
        self.data[at:at + n] = (value & (1 << 8 * n) - 1).to_bytes(n, "little")


class Host:
    """A guest's screen in text mode, and its server on an event loop."""

    def __init__(self, **options):
        self.timers = FakeTimers()
        self.vga = Vga(self.timers, size=4 << 20)
        self.bios, self.mem = VgaBios(self.vga), Memory()
        self.bios.post(self.mem)
        self.vga.crtc[0x0A] = 0x20              # a cursor that blinks makes updates
        self.ps2 = Ps2Controller(nowhere(), nowhere())
        self.user = Input(self.ps2.keyboard, self.ps2.mouse, self.timers, size=lambda: vga_picture.size(self.vga))
        self.loop = EventLoop(Clock())
        self.server = vnc.VncServer(vnc.VgaSource(self.vga), self.user, self.loop, threading.RLock(), name="guest", display=200,
                                    unused=True, **options)
        self.codes = []

    def pump(self):
        self.loop.poll(0.001)
        self.loop.run_ready()
        while self.ps2.read_status() & 1:
            self.codes.append(self.ps2.read_data())
        assert self.loop.failures == 0

    def client(self, *args, **options):
        return Client(self.server.port, self.pump, *args, **options)

    def print(self, text):
        for code in text.encode("cp437"):
            self.bios.teletype(self.mem, code, 0, None)

    def linear(self, width, height, bpp=32):
        dispi = self.vga.dispi
        dispi.disable()
        for index, value in ((INDEX_XRES, width), (INDEX_YRES, height), (INDEX_BPP, bpp), (INDEX_ENABLE, ENABLED)):
            dispi.write(index, value)
        return self.vga.lfb.bytes[:width * height * 4].view("<u4").reshape(height, width)

    @property
    def frame(self):
        return vga_picture.frame(self.vga)

    def close(self):
        self.server.close()
        self.loop.close()


@pytest.fixture
def host():
    host = Host()
    yield host
    host.close()


# --- handshake ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", [b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n", b"RFB 003.889\n"])
def test_versions(host, version):
    """3.3, 3.7, 3.8 and what calls itself newer: the name, the size, the first picture."""
    host.print("Hello")
    if version == b"RFB 003.889\n":
        client = host.client(version=b"RFB 003.008\n")
    else:
        client = host.client(version=version)
    assert client.name == "guest" and client.security == 1
    assert (client.update(0) == host.frame).all() and client.screen.any()


@pytest.mark.parametrize("version", [b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.008\n"])
def test_passwords(version):
    """With vncpasswd only who knows it gets in; 3.8 says why; after five wrong ones nobody does for a while."""
    host = Host(password="s3cret")
    try:
        assert host.client(version=version, password="s3cret").status == 0
        for _ in range(5):
            client = host.client(version=version, password="guess")
            assert client.status == 1 and client.closed()
            assert client.reason == (b"the password is wrong" if version.endswith(b"8\n") else b"")
        if version != b"RFB 003.003\n":
            client = host.client(version=version, password="s3cret")
            assert client.status == 1 and b"try again later" in client.reason
    finally:
        host.close()


def test_des_is_des():
    """The vectors of FIPS 46-3's commentary, and 200 random blocks as OpenSSL has them."""
    assert des.encrypt(bytes.fromhex("133457799BBCDFF1"), bytes.fromhex("0123456789ABCDEF")).hex() == "85e813540f0ab405"
    rng = random.Random(3)
    key, data = rng.randbytes(8), rng.randbytes(1600)
    command = ["openssl", "enc", "-des-ecb", "-K", key.hex(), "-nopad", "-provider", "legacy", "-provider", "default"]
    try:
        answer = subprocess.run(command, input=data, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl has no DES here")
    assert des.encrypt(key, data) == answer


# --- encodings ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoding", [RAW, RRE, HEXTILE, ZLIB, TIGHT, ZRLE])
@pytest.mark.parametrize("kind", ["text", "dots", "photo"])
def test_encodings(host, encoding, kind):
    """Each encoding carries text, pictures of few colours and of many, whole and in pieces, to the last dot."""
    rng = np.random.default_rng(encoding)
    if kind == "text":
        host.print("The quick brown fox\r\n" * 10)
    else:
        pixels = host.linear(320, 203)
        pixels[:] = rng.integers(0, 12 if kind == "dots" else 1 << 24, (203, 320))
        pixels[50:120, 30:250] = 0x123456
    client = host.client((encoding,))
    assert (client.update(0) == host.frame).all() and client.seen == {encoding}
    for _ in range(3):
        if kind == "text":
            host.print("jumps over")
        else:
            pixels[rng.integers(203), rng.integers(320)] = rng.integers(1 << 24)
        assert (client.update() == host.frame).all()
    assert client.rects <= 4


def test_the_clients_first_choice_counts(host):
    """The first encoding of the client's list that the server has is used."""
    client = host.client((1000, TIGHT, ZRLE, RAW))
    client.update(0)
    assert client.seen == {TIGHT}


def test_scrolling_is_a_copy(host):
    """A text screen that scrolls is copied by the client itself; only the new line is sent."""
    host.print("".join(f"line {i} of many\r\n" for i in range(30)))
    client = host.client((ZRLE, COPYRECT))
    client.update(0)
    client.seen.clear()
    host.print("and another\r\n")
    assert (client.update() == host.frame).all() and client.seen == {COPYRECT, ZRLE}


@pytest.mark.parametrize(("wire", "check"), [
    (PixelFormat(16, 16, False, True, (31, 63, 31), (11, 5, 0)), 0xFD20),
    (PixelFormat(16, 16, True, True, (31, 63, 31), (11, 5, 0)), 0xFD20),
    (PixelFormat(8, 8, False, True, (7, 7, 3), (0, 3, 6)), 0x2F),
    (PixelFormat(32, 24, True, True, (255, 255, 255), (0, 8, 16)), 0x00A6FF),
])
def test_pixel_formats(host, wire, check):
    """Pixels come as the client has asked: 8, 16, 32 bits, either byte order, any order of colours."""
    host.linear(64, 32)[:] = 0xFFA600
    client = host.client((RAW,))
    client.send(b"\0\0\0\0" + wire.pack())
    client.request(0)
    client.take(4 + 12)
    data = client.take(64 * 32 * wire.bpp // 8)
    assert set(np.frombuffer(data, wire.dtype).tolist()) == {check} and PixelFormat.parse(wire.pack()) == wire


def test_a_client_without_true_colour_gets_a_palette(host):
    """Its pixels are 8 bits, and the map of colours comes first."""
    host.linear(64, 32)[:] = 0xFF0000
    client = host.client((RAW,))
    client.send(b"\0\0\0\0" + struct.pack(">BBBBHHHBBB3x", 8, 8, 0, 0, 0, 0, 0, 0, 0, 0))
    client.request(0)
    assert client.take(6) == struct.pack(">BxHH", 1, 0, 256)
    table = np.frombuffer(client.take(256 * 6), ">u2").reshape(256, 3)
    client.take(16)
    assert (table[np.frombuffer(client.take(64 * 32), np.uint8)] == [65535, 0, 0]).all()


# --- what changes ------------------------------------------------------------------------------------------------------------
def test_only_what_has_changed_is_sent(host):
    """One dot is one rectangle of a tile, and nothing is sent while nothing changes."""
    pixels = host.linear(640, 480)
    client = host.client((RAW,))
    client.update(0)
    pixels[100, 200] = 0xFFFFFF
    client.request()
    client.take(4)
    assert struct.unpack(">HHHHi", client.take(12)) == (192, 96, 32, 32, 0)
    client.take(32 * 32 * 4)
    client.request()
    for _ in range(60):
        host.pump()
    with pytest.raises(BlockingIOError):
        client.sock.recv(1)


def test_tiles_become_few_rectangles():
    """Tiles join to the right and downward; the pieces cover exactly what has changed."""
    before = np.zeros((100, 130), np.uint32)
    now = before.copy()
    now[0:70, 10:100] = 1
    mask = changed_tiles(before, now, 32)
    assert rectangles(mask, 32, 100, 130) == [(0, 0, 128, 96)]
    rng = np.random.default_rng(1)
    for _ in range(50):
        mask = rng.integers(0, 2, (7, 9)).astype(bool)
        cover = np.zeros((7 * 32, 9 * 32), int)
        for x, y, w, h in rectangles(mask, 32, *cover.shape):
            cover[y:y + h, x:x + w] += 1
        assert (cover == np.repeat(np.repeat(mask, 32, 0), 32, 1)).all()


@pytest.mark.parametrize("encoding", [-223, -308])
def test_sizes(host, encoding):
    """A mode change is told to clients that understand it."""
    client = host.client((ZRLE, encoding))
    client.update(0)
    assert client.screen.shape == (400, 720)
    host.linear(800, 600)[:] = 0x336699
    assert (client.update() == host.frame).all() and client.screen.shape == (600, 800)


def test_a_client_that_cannot_be_resized_sees_a_part(host):
    """Its size stays; what is beyond the screen is black."""
    client = host.client((RAW,))
    client.update(0)
    host.linear(640, 480)[:] = 0x336699
    assert (client.update() == np.pad(host.frame, ((0, 0), (0, 80)))[:400, :720]).all()
    host.linear(320, 200)[:] = 0x112233
    client.update()
    assert (client.screen[:200, :320] == 0x112233).all() and not client.screen[200:].any()


def test_several_clients(host):
    """Each has its own state; one that wants the screen alone gets it."""
    first, second = host.client((ZRLE,)), host.client((HEXTILE,))
    first.update(0)
    host.print("news")
    assert (second.update(0) == host.frame).all() and (first.update() == host.frame).all()
    third = host.client((RAW,), shared=0)
    third.update(0)
    assert first.closed() and second.closed() and len(host.server.clients) == 1


# --- input -------------------------------------------------------------------------------------------------------------------
def test_keys(host):
    """Keysyms and raw keys reach the keyboard; what is held when the last client goes is released."""
    client = host.client((RAW, -258, -261))
    client.update(0)
    assert {-258, -261} <= client.seen and client.leds == 0
    client.key(ord("a"))
    client.key(ord("a"), 0)
    client.send(struct.pack(">BBHII", 255, 0, 1, 0xFF52, 0xC8))
    client.send(struct.pack(">BBHII", 255, 0, 1, 0xFF1B, 0))
    client.sock.close()
    for _ in range(20):
        host.pump()
    assert bytes(host.codes).hex() == "1e9ee0480181e0c8"


def test_pointer(host):
    """Positions move a PS/2 mouse; a client that knows of relative pointers is told, and sends movements."""
    for byte in (0xF4,):
        host.ps2.write_command(0, 1, 0xD4)
        host.ps2.write_data(0, 1, byte)
    host.pump()
    host.codes.clear()
    client = host.client((RAW,))
    client.pointer(100, 100)
    client.pointer(90, 102, 4)
    other = host.client((RAW, -257))
    other.update(0)
    assert other.mode == 0
    other.pointer(0x7FFF + 3, 0x7FFF, 0)
    for _ in range(20):
        host.pump()
    assert host.codes == [0x38, 0xF6, 0xFE, 0x0A, 0, 0, 0x0A, 3, 0, 8, 0, 0]


def test_texts_of_the_client_are_cut(host):
    """A cut text of megabytes is read and not kept."""
    client = host.client((RAW,))
    client.send(struct.pack(">BxxxI", 6, 3 << 20))
    for _ in range(48):
        client.send(b"x" * (64 << 10))
        host.pump()
    client.update(0)
    (_, connection), = host.server.clients.values()
    assert len(connection.cut_text) == 64 << 10 and len(connection._in) < 1 << 17


def test_a_client_may_not_resize(host):
    """SetDesktopSize is answered "prohibited"."""
    client = host.client((RAW, -308))
    client.update(0)
    client.send(struct.pack(">BxHHBxIHHHHI", 251, 1024, 768, 1, 0, 0, 0, 1024, 768, 0))
    client.take(4)
    client.rectangle()
    assert client.resize_status == (1, 1)


# --- hostile clients ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\n\r\n", b"RFB 00x.008\n", b"RFB 003.008\n\x07", b"RFB 003.008\n\x01\x01\x99",
    b"RFB 003.008\n\x01\x01\x00\0\0\0" + struct.pack(">BBBBHHHBBB3x", 24, 24, 0, 1, 255, 255, 255, 0, 8, 16),
    b"RFB 003.008\n\x01\x01\x00\0\0\0" + struct.pack(">BBBBHHHBBB3x", 8, 8, 0, 1, 65535, 255, 255, 0, 8, 250),
    b"RFB 003.008\n\x01\x01\xff\x09",
])
def test_nonsense_closes_the_connection(host, data):
    """What is no RFB ends with the connection, and nothing else."""
    sock = socket.create_connection(("127.0.0.1", host.server.port))
    sock.sendall(data)
    sock.settimeout(0.01)
    for _ in range(50):
        host.pump()
        try:
            if not sock.recv(4096):
                break
        except TimeoutError:
            pass
        except ConnectionError:
            break
    else:
        raise AssertionError("still open")
    assert not host.server.clients and host.client().name == "guest"


def test_random_bytes(host):
    """Clients that send anything after a good beginning: no failure, no growth."""
    rng = random.Random(9)
    for _ in range(60):
        try:
            client = host.client((ZRLE, HEXTILE, -223, -239, -257, -258, -308))
            for _ in range(15):
                kind = rng.choice((0, 2, 3, 4, 5, 6, 251, 255, rng.getrandbits(8)))
                client.send(bytes((kind,)) + rng.randbytes(rng.choice((0, 3, 7, 9, 19, 100))))
                host.pump()
        except OSError:
            pass
        for _, connection in host.server.clients.values():
            assert len(connection._in) < 1 << 19 and len(connection.out) < 8 << 20
        client.sock.close()
    for _ in range(20):
        host.pump()
    assert not host.server.clients


def test_a_client_that_does_not_read(host):
    """Updates are not made while the one before waits to be sent."""
    host.linear(800, 600)[:] = np.arange(480000).reshape(600, 800)
    client = host.client((RAW,))
    for _ in range(200):
        client.request(0)
        host.pump()
    (_, connection), = host.server.clients.values()
    assert len(connection.out) <= 800 * 600 * 4 + 100


def test_too_many_clients(host):
    """Who has not logged in makes room for the next."""
    idle = []
    for _ in range(40):
        idle.append(socket.create_connection(("127.0.0.1", host.server.port)))
        host.pump()
    assert len(host.server.clients) == vnc.MAX_CLIENTS and host.client().name == "guest"
    for sock in idle:
        sock.close()


# --- configuration -----------------------------------------------------------------------------------------------------------
def config(**values):
    return SimpleNamespace(**{"vnc": 1, "vnclisten": "127.0.0.1", "vncdisplay": 200, "vncunused": 1, "vncpasswd": "", **values})


def test_keys_of_the_configuration(host, caplog):
    """vnc, vncdisplay, vncunused, vnclisten, vncpasswd; what cannot be done is one sentence."""
    loop, lock = host.loop, threading.RLock()

    def start(**values):
        return vnc.start(host.vga, host.user, loop, lock, config(**values), "guest")

    assert start(vnc=0) is None
    server = start()
    assert server.port > host.server.port and server.display == server.port - 5900
    assert vnc.store_nodes(server) == {"vnc-port": str(server.port), "vnc-listen": "127.0.0.1"}
    with pytest.raises(XenfastError, match=f"cannot listen on 127.0.0.1:{server.port}: Address already in use"):
        start(vncdisplay=server.display, vncunused=0)
    with pytest.raises(XenfastError, match="'nowhere.invalid' is no address"):
        start(vnclisten="nowhere.invalid")
    with pytest.raises(XenfastError, match="no display from 60000 on is free"):
        start(vncdisplay=60000)
    server.close()
    server.close()
    server = start(vnclisten="0.0.0.0")
    assert "vncpasswd is not set" in caplog.text
    server.close()


# --- a client library --------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_real_client(host, tmp_path):
    """vncdotool connects, types, sees the screen change and takes its picture."""
    pytest.importorskip("vncdotool")
    from PIL import Image
    from vncdotool import api

    host.print("before")
    done = threading.Event()
    results = {}

    def use():
        try:
            with api.connect(f"127.0.0.1::{host.server.port}") as client:
                client.timeout = 10
                client.captureScreen(str(tmp_path / "a.png"))
                client.keyPress("x")
                time.sleep(0.2)
                client.captureScreen(str(tmp_path / "b.png"))
        except Exception as error:
            results["error"] = error
        done.set()

    thread = threading.Thread(target=use)
    thread.start()
    end = time.monotonic() + 20
    typed = False
    while not done.is_set() and time.monotonic() < end:
        host.pump()
        if host.codes and not typed:
            typed = True
            host.print("X")
    thread.join(1)
    api.shutdown()
    assert not results and host.codes == [0x2D, 0xAD]
    picture = np.asarray(Image.open(tmp_path / "b.png").convert("RGB"))
    assert (picture == vga_picture.rgb(host.frame)).all()
    assert (np.asarray(Image.open(tmp_path / "a.png").convert("RGB")) != picture).any()
