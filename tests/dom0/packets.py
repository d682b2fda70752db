"""Frames for tests, made the slow way: every field by hand, every sum in a loop."""

import struct

MAC_A, MAC_B, MAC_C = (bytes([2, 0, 0, 0, 0, i]) for i in (1, 2, 3))


def slow_sum(data):
    data = bytes(data) + b"\0" * (len(data) & 1)
    total = 0
    for i in range(0, len(data), 2):
        total += data[i] << 8 | data[i + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ethernet(payload, kind=0x0800, source=MAC_A, destination=MAC_B, vlan=None):
    tag = struct.pack(">HH", 0x8100, vlan) if vlan is not None else b""
    return destination + source + tag + struct.pack(">H", kind) + payload


def ip4(payload, protocol, options=b"", source=b"\x0a\0\2\x0f", destination=b"\x0a\0\2\2", identity=0x1234, fragment=0):
    size = 20 + len(options)
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + len(payload), identity, fragment, 64, protocol, 0)
    head += source + destination + options
    total = ~slow_sum(head) & 0xFFFF
    return head[:10] + struct.pack(">H", total) + head[12:] + payload


def ip6(payload, protocol, source=bytes(15) + b"\1", destination=bytes(15) + b"\2", extensions=()):
    for kind in reversed(extensions):
        payload, protocol = struct.pack(">BB6x", protocol, 0) + payload, kind
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + source + destination + payload


def pseudo(version, protocol, length, source=None, destination=None):
    if version == 4:
        return (source or b"\x0a\0\2\x0f") + (destination or b"\x0a\0\2\2") + struct.pack(">BBH", 0, protocol, length)
    return (source or bytes(15) + b"\1") + (destination or bytes(15) + b"\2") + struct.pack(">IxxxB", length, protocol)


def tcp(payload, version=4, flags=0x18, seq=1000, options=b"", blank=False):
    head = struct.pack(">HHIIBBHHH", 1234, 80, seq, 77, (20 + len(options)) // 4 << 4, flags, 8192, 0, 0) + options
    cover = pseudo(version, 6, len(head) + len(payload))
    total = slow_sum(cover) if blank else ~slow_sum(cover + head + payload) & 0xFFFF
    return head[:16] + struct.pack(">H", total) + head[18:] + payload


def udp(payload, version=4, source=1234, destination=53, blank=False):
    head = struct.pack(">HHHH", source, destination, 8 + len(payload), 0)
    cover = pseudo(version, 17, len(head) + len(payload))
    total = slow_sum(cover) if blank else (~slow_sum(cover + head + payload) & 0xFFFF) or 0xFFFF
    return head[:6] + struct.pack(">H", total) + payload
