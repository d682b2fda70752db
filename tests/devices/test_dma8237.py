"""The 8237s: programming, both directions, both widths, auto-initialise, decrement, terminal count."""

import random

from xenfast import _core
from xenfast.devices.dma8237 import Dma
from xenfast.xen.hvm import bus
from xenfast.xen.hvm.physmem import PhysMem


class Board:
    def __init__(self):
        memory, physmap = _core.Memory(64), _core.GuestPhysMap(0x1000)
        physmap.set(0, range(64))
        self.mem, self.ports = PhysMem(memory, physmap), bus.ports()
        self.dma = Dma(self.mem)
        self.ports.add(0x00, self.dma.controllers[0].region)
        self.ports.add(0x81, self.dma.pages)
        self.ports.add(0xC0, self.dma.controllers[1].region)

    def out(self, port, *values):
        for value in values:
            self.ports.write(port, 1, value)

    def program2(self, mode, address, count):
        self.out(0x0A, 6)
        self.out(0x0C, 0)
        self.out(0x0B, mode)
        self.out(0x04, address & 0xFF, address >> 8 & 0xFF)
        self.out(0x81, address >> 16)
        self.out(0x05, count - 1 & 0xFF, count - 1 >> 8)
        self.out(0x0A, 2)


def test_to_memory():
    """A write transfer puts the device's data at page and address; at the terminal count the channel masks itself."""
    b = Board()
    channel = b.dma.channel(2)
    assert not channel.ready and channel.to_memory(b"abc") == 0
    b.program2(0x46, 0x12345, 1024)
    assert channel.room == 1024
    assert channel.to_memory(bytes(range(256)) * 2) == 512 and not channel.terminal_count
    assert channel.to_memory(bytes(600)) == 512 and channel.terminal_count and not channel.ready
    assert b.mem.read(0x12345, 256) == bytes(range(256)) and b.ports.read(0x08, 1) == 4 and b.ports.read(0x08, 1) == 0


def test_from_memory():
    """A read transfer; address and count can be read back on the way."""
    b = Board()
    b.mem.write(0x8000, b"hello, world")
    b.program2(0x4A, 0x8000, 12)
    assert b.dma.channel(2).from_memory(5) == b"hello"
    b.out(0x0C, 0)
    assert b.ports.read(0x04, 1) | b.ports.read(0x04, 1) << 8 == 0x8005 and b.ports.read(0x05, 1) == 6
    assert b.dma.channel(2).from_memory(100) == b", world"


def test_verify_and_auto_initialise():
    """A verify transfer counts only; auto-initialise starts over by itself."""
    b = Board()
    b.mem.write(0x9000, b"kept")
    b.program2(0x52, 0x9000, 4)
    channel = b.dma.channel(2)
    assert channel.to_memory(b"lost") == 4 and channel.terminal_count and channel.ready and channel.room == 4
    assert b.mem.read(0x9000, 4) == b"kept"


def test_the_address_wraps_in_its_page():
    """Past the end of 64 KiB it goes on at the beginning of the same page; decrement goes down."""
    b = Board()
    b.program2(0x46, 0x1FFFE, 4)
    b.dma.channel(2).to_memory(b"wxyz")
    assert b.mem.read(0x1FFFE, 2) == b"wx" and b.mem.read(0x10000, 2) == b"yz"
    b.program2(0x66, 0x2003, 4)
    b.dma.channel(2).to_memory(b"abcd")
    assert b.mem.read(0x2000, 4) == b"dcba"


def test_words():
    """Channels 5 to 7 count words and addresses in words, at every second port."""
    b = Board()
    b.out(0xD6, 0x45)
    b.out(0xD8, 0)
    b.out(0xC4, 0x00, 0x10)
    b.out(0xC6, 0x03, 0x00)
    b.out(0x8B, 0x01)
    b.out(0xD4, 1)
    channel = b.dma.channel(5)
    assert channel.room == 8 and channel.to_memory(b"12345678") == 8 and b.mem.read(0x2000, 8) == b"12345678"


def test_a_device_hears_when_it_may_go_on():
    """Unmasking a channel, and switching the controller on, calls what waits for it."""
    b, calls = Board(), []
    b.dma.channel(2).wanted = lambda: calls.append(1)
    b.program2(0x46, 0, 1)
    b.out(0x08, 4)
    assert calls == [1] and not b.dma.channel(2).ready
    b.out(0x08, 0)
    assert calls == [1, 1]


def test_random_accesses():
    """Whatever is programmed: no exception, nothing outside the guest's memory, the state can be saved and loaded."""
    rng, b = random.Random(4), Board()
    for _ in range(8000):
        port = rng.choice([rng.randrange(16), 0xC0 + rng.randrange(32), 0x81 + rng.randrange(15)])
        if rng.random() < .7:
            b.out(port, rng.getrandbits(8))
        else:
            assert 0 <= b.ports.read(port, 1) < 256
        channel = b.dma.channel(rng.choice([0, 1, 2, 3, 5, 6, 7]))
        if rng.random() < .1:
            channel.to_memory(bytes(rng.randrange(2000)))
            assert len(channel.from_memory(rng.randrange(2000))) <= 2000
    c = Board()
    c.dma.load(b.dma.save())
    assert c.dma.save() == b.dma.save()
