"""QEMU's firmware configuration device, driven as SeaBIOS and OVMF drive it."""

import random
import struct

import pytest

from xenfast.devices import fw_cfg
from xenfast.devices.fw_cfg import FwCfg
from xenfast.xen.hvm import bus


class Memory:
    def __init__(self):
        self.data = bytearray(1 << 20)

    def read(self, at, size):
        return bytes(self.data[at:at + size]).ljust(size, b"\xff")

    def write(self, at, data):
        if at + len(data) <= len(self.data):
            self.data[at:at + len(data)] = data


@pytest.fixture
def machine():
    memory, ports = Memory(), bus.ports()
    device = FwCfg(memory)
    device.attach(ports)
    device.add_int(fw_cfg.NB_CPUS, 2, 3)
    device.add_file("etc/e820", b"map")
    device.add_file("bootorder", b"/pci@i0cf8/ide@1,1/drive@0/disk@0\0")
    return device, memory, ports


def read(ports, key, size):
    ports.write(0x510, 2, key)
    return bytes(ports.read(0x511, 1) for _ in range(size))


def dma(memory, ports, control, length, address, at=0x1000):
    memory.write(at, struct.pack(">IIQ", control, length, address))
    ports.write(0x514, 4, int.from_bytes(struct.pack(">I", at >> 32), "little"))
    ports.write(0x518, 4, int.from_bytes(struct.pack(">I", at & 0xFFFFFFFF), "little"))
    return struct.unpack_from(">I", memory.data, at)[0]


def test_items_are_read_by_port(machine):
    """The signature, an integer, zeros behind an item and for one that is not there."""
    _, _, ports = machine
    assert read(ports, fw_cfg.SIGNATURE, 6) == b"QEMU\0\0"
    assert read(ports, fw_cfg.NB_CPUS, 2) == b"\3\0" and read(ports, 0x7777, 2) == b"\0\0"
    assert read(ports, fw_cfg.ID, 4) == b"\3\0\0\0"


def test_files_are_listed(machine):
    """The directory is big endian and sorted by name; each file has a key."""
    _, _, ports = machine
    count = struct.unpack(">I", read(ports, fw_cfg.FILE_DIR, 4))[0]
    listing = read(ports, fw_cfg.FILE_DIR, 4 + 64 * count)[4:]
    entries = {listing[at + 8:at + 64].rstrip(b"\0"): struct.unpack_from(">IH", listing, at) for at in range(0, len(listing), 64)}
    assert list(entries) == [b"bootorder", b"etc/e820"]
    size, key = entries[b"etc/e820"]
    assert read(ports, key, size) == b"map"


def test_dma(machine):
    """A signature says that it is there; select, read and skip by one structure in memory; writing is refused."""
    device, memory, ports = machine
    signature = struct.pack("<II", ports.read(0x514, 4), ports.read(0x518, 4))
    assert signature == b"QEMU CFG"
    key = device.files["bootorder"]
    memory.data[0x2000:0x2040] = b"\xee" * 64
    assert dma(memory, ports, key << 16 | fw_cfg.SELECT | fw_cfg.READ, 4, 0x2000) == 0
    assert dma(memory, ports, fw_cfg.SKIP, 2, 0) == 0
    assert dma(memory, ports, fw_cfg.READ, 40, 0x2004) == 0
    assert bytes(memory.data[0x2000:0x2030]) == b"/pci0cf8/ide@1,1/drive@0/disk@0\0".ljust(44, b"\0") + b"\xee" * 4
    assert dma(memory, ports, fw_cfg.WRITE, 4, 0x2000) == fw_cfg.ERROR
    assert dma(memory, ports, fw_cfg.READ, 0xFFFFFFFF, 0) == fw_cfg.ERROR


def test_garbage_is_survived(machine):
    """20,000 random accesses of every size: no exception, and the state can be saved and loaded."""
    device, _, ports = machine
    rng = random.Random(5)
    for _ in range(20000):
        port, size = 0x510 + rng.randrange(16), rng.choice((1, 2, 4))
        if rng.random() < 0.5:
            ports.read(port, size)
        elif port < 0x518 or rng.random() < 0.05:
            ports.write(port, size, rng.getrandbits(8 * size))
    state = device.save()
    device.reset()
    device.load(state)
    assert device.save() == state
