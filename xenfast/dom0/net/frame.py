"""Ethernet frames: addresses, checksums, and how a frame that a guest left unfinished is finished.

A guest hands over TCP segments larger than the MTU and checksums that are blank, because hardware, or the other guest,
does the rest (RFC 1071 for the sum, section 5.1 of the virtio specification for the same idea).  ``finish`` is that
hardware: it cuts (GSO) and sums, a whole packet's segments at once in numpy.  UDP is summed but not cut.
"""

import re
import struct
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from xenfast.errors import XenfastError

Buffer = bytes | bytearray | memoryview

MIN_FRAME = 14
MAX_FRAME = 65535 + 14 + 8      # the largest IP packet, its header and two VLAN tags
MTU = 1500

BROADCAST = b"\xff" * 6

ETH_IPV4, ETH_ARP, ETH_VLAN, ETH_QINQ, ETH_IPV6 = 0x0800, 0x0806, 0x8100, 0x88A8, 0x86DD
IP_TCP, IP_UDP = 6, 17
CHECKSUM_AT = {IP_TCP: 16, IP_UDP: 6}       # where the checksum is in the header
IPV6_EXTENSIONS = (0, 43, 60)               # hop by hop, routing, destination options: (next header, length in 8 bytes - 1)
MAX_EXTENSIONS = 8

# Offload.gso_type, as XEN_NETIF_GSO_TYPE_*
GSO_NONE, GSO_TCPV4, GSO_TCPV6 = 0, 1, 2
MIN_GSO_SIZE = 64                           # no guest has so small an MTU: bounds the number of segments

# Port.accepts: what its receiver takes unfinished
CAN_CHECKSUM_V4, CAN_CHECKSUM_V6, CAN_TCPV4, CAN_TCPV6 = 1, 2, 4, 8
CAN_ALL = 15
CAN_GSO = {GSO_TCPV4: CAN_TCPV4, GSO_TCPV6: CAN_TCPV6}

FIN, PSH, CWR = 0x01, 0x08, 0x80


class Offload(NamedTuple):
    """What is still to be done to a frame."""

    blank: bool = False         # the TCP or UDP checksum holds that of the pseudo header only
    gso_size: int = 0           # bytes of payload a segment
    gso_type: int = GSO_NONE
    validated: bool = False     # whoever takes it need not look at the checksum


PLAIN = Offload()
VALIDATED = Offload(validated=True)


class Transport(NamedTuple):
    """Where a frame's headers are."""

    network: int                # offset of the IP header
    start: int                  # offset of the TCP or UDP header
    end: int                    # end of the IP packet; padding may follow
    protocol: int
    version: int                # 4 or 6


def parse_mac(text: str) -> bytes:
    if not re.fullmatch("[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", text):
        raise XenfastError(f"{text!r} is not a MAC address (six pairs of hexadecimal digits with colons)")
    return bytes.fromhex(text.replace(":", ""))


def format_mac(mac: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in mac)


def find_transport(frame: Buffer) -> Transport | None:
    """The TCP or UDP header of a frame; None where there is none that is whole, and in fragments."""
    at = 12
    for _ in range(3):
        if len(frame) < at + 2:
            return None
        kind = frame[at] << 8 | frame[at + 1]
        if kind not in (ETH_VLAN, ETH_QINQ):
            break
        at += 4
    network = at + 2
    if kind == ETH_IPV4:
        return _find_v4(frame, network)
    return _find_v6(frame, network) if kind == ETH_IPV6 else None


def _find_v4(frame: Buffer, network: int) -> Transport | None:
    if len(frame) < network + 20 or frame[network] >> 4 != 4:
        return None
    start = network + (frame[network] & 15) * 4
    length, fragment = struct.unpack_from(">HxxH", frame, network + 2)
    if start < network + 20 or fragment & 0x3FFF:
        return None
    return _checked(frame, Transport(network, start, network + length, frame[network + 9], 4))


def _find_v6(frame: Buffer, network: int) -> Transport | None:
    if len(frame) < network + 40 or frame[network] >> 4 != 6:
        return None
    (length,) = struct.unpack_from(">H", frame, network + 4)
    kind, start = frame[network + 6], network + 40
    for _ in range(MAX_EXTENSIONS):
        if kind not in IPV6_EXTENSIONS:
            break
        if len(frame) < start + 8:
            return None
        kind, start = frame[start], start + 8 + frame[start + 1] * 8
    return _checked(frame, Transport(network, start, network + 40 + length, kind, 6))


def _checked(frame: Buffer, found: Transport) -> Transport | None:
    """Is there a whole TCP or UDP header within the packet, and the packet within the frame?"""
    size = {IP_TCP: 20, IP_UDP: 8}.get(found.protocol)
    if size is None or found.start + size > found.end or found.end > len(frame):
        return None
    return found


def sum16(data: Buffer) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071), below 65536, 0 for 65535."""
    if len(data) < 2048:
        total = int.from_bytes(data, "big")
        return (total << 8 if len(data) & 1 else total) % 0xFFFF
    whole = len(data) & ~3
    total = int(np.frombuffer(data, "<u4", whole // 4).sum(dtype=np.uint64)) % 0xFFFF
    total = (total << 8 | total >> 8) & 0xFFFF      # the sum of swapped words is the swapped sum
    rest = bytes(data[whole:]) + bytes(whole + 4 - len(data))
    return (total + int.from_bytes(rest, "big")) % 0xFFFF


def checksum(*parts: Buffer) -> int:
    """The Internet checksum of the parts, each but the last of even length; never 0, but its equal FFFFh."""
    return ~(sum(map(sum16, parts)) % 0xFFFF) & 0xFFFF


def pseudo_header(frame: Buffer, found: Transport, length: int) -> bytes:
    """What the sum covers besides the segment itself (RFC 9293 3.1, RFC 8200 8.1)."""
    at = found.network
    if found.version == 4:
        return bytes(frame[at + 12 : at + 20]) + struct.pack(">xBH", found.protocol, length)
    return bytes(frame[at + 8 : at + 40]) + struct.pack(">IxxxB", length, found.protocol)


def fill_checksum(frame: Buffer) -> bytes | None:
    """The frame with its TCP or UDP checksum filled in; None if it has none."""
    found = find_transport(frame)
    if found is None:
        return None
    at = found.start + CHECKSUM_AT[found.protocol]
    result = bytearray(frame)
    result[at : at + 2] = b"\0\0"
    with memoryview(result) as view:
        total = checksum(pseudo_header(frame, found, found.end - found.start), view[found.start : found.end])
    result[at : at + 2] = total.to_bytes(2, "big")      # not 0, which would mean "none" with UDP
    return bytes(result)


def is_valid(frame: Buffer) -> bool:
    """Are the checksums right, of IPv4 and of TCP or UDP?  Frames without any are."""
    found = find_transport(frame)
    if found is None:
        return True
    if found.version == 4 and sum16(frame[found.network : (found.network + (frame[found.network] & 15) * 4)]):
        return False
    at = found.start + CHECKSUM_AT[found.protocol]
    if found.protocol == IP_UDP and found.version == 4 and not any(frame[at : at + 2]):
        return True
    pseudo = pseudo_header(frame, found, found.end - found.start)
    return (sum16(pseudo) + sum16(bytes(frame[found.start : found.end]))) % 0xFFFF == 0


def finish(frame: Buffer, offload: Offload) -> Iterable[Buffer]:
    """The frame as frames that anyone takes; none if it is not what ``offload`` calls it."""
    if offload.gso_type:
        found = find_transport(frame)
        if found is None or found.protocol != IP_TCP:
            return ()
        return segment(frame, found, offload.gso_size)
    if offload.blank:
        done = fill_checksum(frame)
        return () if done is None else (done,)
    return (frame,)


def acceptable(offload: Offload, accepts: int, frame: Buffer) -> bool:
    """Does a receiver take it as it is?"""
    if offload.gso_type:
        return bool(accepts & CAN_GSO.get(offload.gso_type, 0))
    if not offload.blank:
        return True
    if accepts & 3 in (0, 3):
        return accepts & 3 == 3
    kind = find_transport(frame)
    return kind is not None and bool(accepts & (CAN_CHECKSUM_V4 if kind.version == 4 else CAN_CHECKSUM_V6))


def segment(frame: Buffer, found: Transport, size: int) -> list[bytes]:
    """Cut a TCP packet into segments of ``size`` bytes of payload, each with its own lengths, numbers and sums."""
    start = found.start
    header = start + (frame[start + 12] >> 4) * 4
    payload = np.frombuffer(frame, np.uint8)[header : found.end]
    if header < start + 20 or header > found.end or size < MIN_GSO_SIZE:
        return []
    count = max(1, -(-len(payload) // size))
    even = size + (header - start + size & 1)
    rows = np.zeros((count, header + even), np.uint8)
    rows[:, :header] = np.frombuffer(frame, np.uint8, header)
    whole = len(payload) // size
    rows[:whole, header : header + size] = payload[: whole * size].reshape(whole, size)
    if whole < count:
        rows[whole, header : header + len(payload) - whole * size] = payload[whole * size :]
    lengths = np.full(count, size, np.int64)
    lengths[-1] = len(payload) - (count - 1) * size
    _put(rows, start + 4, (int.from_bytes(frame[start + 4 : start + 8], "big") + np.arange(count) * size) & 0xFFFFFFFF, 4)
    rows[:-1, start + 13] &= ~(FIN | PSH) & 0xFF
    rows[1:, start + 13] &= ~CWR & 0xFF
    _network_headers(rows, found, lengths + header - found.network)
    rows[:, start + 16 : start + 18] = 0
    pseudo = sum16(pseudo_header(frame, found, 0))
    # rows are of even length from the TCP header on; what lies behind a payload is zero
    sums = _row_sums(rows[:, start : header + even]) + pseudo + lengths + (header - start)
    _put(rows, start + 16, _folded(sums), 2)
    return [row[: header + int(length)].tobytes() for row, length in zip(rows, lengths)]


def _network_headers(rows: np.ndarray, found: Transport, lengths: np.ndarray) -> None:
    """Length, identification and sum of the IP headers."""
    at = found.network
    if found.version == 6:
        _put(rows, at + 4, lengths - 40, 2)
        return
    _put(rows, at + 2, lengths, 2)
    first = int(rows[0, at + 4]) << 8 | int(rows[0, at + 5])
    _put(rows, at + 4, (first + np.arange(len(rows))) & 0xFFFF, 2)
    rows[:, at + 10 : at + 12] = 0
    _put(rows, at + 10, _folded(_row_sums(rows[:, at : at + (int(rows[0, at]) & 15) * 4])), 2)


def _put(rows: np.ndarray, at: int, values: np.ndarray, size: int) -> None:
    """Store a big-endian number a row."""
    rows[:, at : at + size] = values.astype(f">u{size}").view(np.uint8).reshape(-1, size)


def _row_sums(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows).view(">u2").sum(axis=1, dtype=np.int64)


def _folded(sums: np.ndarray) -> np.ndarray:
    """Checksums of sums; never 0."""
    return ~(sums % 0xFFFF) & 0xFFFF
