"""Checksums and segmentation of frames, against sums made in a loop."""

import random
import struct

import pytest

from tests.dom0.packets import ethernet, ip4, ip6, slow_sum, tcp, udp
from xenfast.dom0.net import frame
from xenfast.dom0.net.frame import GSO_TCPV4, GSO_TCPV6, Offload, finish


@pytest.mark.parametrize("size", [0, 1, 2, 3, 59, 60, 1499, 2047, 2048, 2049, 2050, 2051, 9000, 65535])
def test_sums_are_those_of_the_rfc(size):
    """sum16 is the ones' complement sum, for every length modulo 4 and for the long way and the short one."""
    data = random.Random(size).randbytes(size)
    assert frame.sum16(data) == slow_sum(data) % 0xFFFF


def whole(version, protocol_data, protocol, **more):
    if version == 4:
        return ethernet(ip4(protocol_data, protocol), **more)
    return ethernet(ip6(protocol_data, protocol, extensions=more.pop("extensions", ())), 0x86DD, **more)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("make, protocol", [(tcp, 6), (udp, 17)], ids=["tcp", "udp"])
@pytest.mark.parametrize("size", [0, 1, 5, 1400, 5001])
@pytest.mark.parametrize("vlan", [None, 7])
def test_a_blank_checksum_is_filled_in(version, make, protocol, size, vlan):
    """The finished frame is the one that the slow way makes, with and without a VLAN tag."""
    payload = random.Random(size).randbytes(size)
    blank = whole(version, make(payload, version, blank=True), protocol, vlan=vlan)
    good = whole(version, make(payload, version), protocol, vlan=vlan)
    assert frame.is_valid(good) and not frame.is_valid(blank)
    (done,) = finish(blank, Offload(blank=True))
    assert done == good


def test_padding_and_extension_headers():
    """Padding behind a short packet is not summed; extension headers of IPv6 are stepped over."""
    good = ethernet(ip4(udp(b"x"), 17)) + b"\xee" * 17
    assert frame.is_valid(good)
    assert list(finish(ethernet(ip4(udp(b"x", blank=True), 17)) + b"\xee" * 17, Offload(blank=True))) == [good]
    assert frame.is_valid(whole(6, tcp(b"abc", 6), 6, extensions=(0, 60, 43)))


@pytest.mark.parametrize("version, kind", [(4, GSO_TCPV4), (6, GSO_TCPV6)])
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 64000])
@pytest.mark.parametrize("mss", [1000, 1447])
@pytest.mark.parametrize("options", [b"", bytes(12)])
def test_segments_are_packets_of_their_own(version, kind, size, mss, options):
    """Each segment is valid, not too large, numbered on; together they are the payload; flags are where they belong."""
    payload = random.Random(size).randbytes(size)
    big = whole(version, tcp(payload, version, flags=0x99, seq=0xFFFFFC00, options=options, blank=True), 6)
    parts = list(finish(big, Offload(True, mss, kind)))
    assert len(parts) == max(1, -(-size // mss))
    start = 34 if version == 4 else 54
    header = start + 20 + len(options)
    assert b"".join(part[header:] for part in parts) == payload
    for i, part in enumerate(parts):
        assert frame.is_valid(part)
        assert len(part) - header == mss or i == len(parts) - 1
        assert struct.unpack_from(">I", part, start + 4)[0] == (0xFFFFFC00 + i * mss) & 0xFFFFFFFF
        last, first = i == len(parts) - 1, i == 0
        assert part[start + 13] == 0x10 | (0x09 if last else 0) | (0x80 if first else 0)
        if version == 4:
            assert struct.unpack_from(">HH", part, 16) == (len(part) - 14, 0x1234 + i)


def test_nonsense_is_dropped():
    """Frames that are not what their offload calls them, or are cut short anywhere, give no frame and no exception."""
    big = whole(4, tcp(bytes(3000), blank=True), 6)
    assert list(finish(big, Offload(True, 63, GSO_TCPV4))) == []
    assert list(finish(ethernet(bytes(100)), Offload(True))) == []
    assert list(finish(whole(4, udp(b"abc"), 17), Offload(True, 1000, GSO_TCPV4))) == []
    assert list(finish(ethernet(ip4(udp(b"abc"), 17, fragment=0x2000)), Offload(True))) == []
    random_ = random.Random(4)
    for base in (big, whole(6, tcp(bytes(200), 6), 6, extensions=(0, 43)), whole(4, udp(b"abc"), 17, vlan=3)):
        for cut in range(14, 140):
            for offload in (Offload(True), Offload(True, 1000, GSO_TCPV4), Offload(True, 1000, GSO_TCPV6)):
                list(finish(base[:cut], offload))
        for _ in range(300):
            wild = bytearray(base)
            for _ in range(3):
                wild[random_.randrange(12, min(80, len(wild)))] = random_.randrange(256)
            list(finish(bytes(wild), Offload(True)))
            list(finish(bytes(wild), Offload(True, 1000, GSO_TCPV4)))
            frame.is_valid(bytes(wild))


def test_addresses_as_text():
    """MAC addresses are six pairs of digits; anything else is one clear sentence."""
    assert frame.format_mac(frame.parse_mac("00:16:3E:0a:0b:ff")) == "00:16:3e:0a:0b:ff"
    for text in ("", "00:16:3e:0a:0b", "00:16:3e:0a:0b:1g", "0:16:3e:0a:0b:11", "00-16-3e-0a-0b-11", "+0:16:3e:0a:0b:11"):
        with pytest.raises(frame.XenfastError, match="is not a MAC address"):
            frame.parse_mac(text)
