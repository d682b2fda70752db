"""A small server for a switch that leads nowhere: DHCP leases (RFC 2131, options of RFC 2132), ARP and ICMP echo.

Leases are by hardware address and kept as long as the switch is; the server is the first address of the network.  It
says nothing of routers or name servers, as there are none.  Other hosts on the switch with addresses of their own are not
noticed.
"""

import ipaddress
import struct
from typing import Any

from xenfast.dom0.net.frame import BROADCAST, ETH_ARP, ETH_IPV4, IP_UDP, checksum, fill_checksum, find_transport
from xenfast.dom0.net.switch import Port
from xenfast.errors import XenfastError

SERVER_MAC = bytes.fromhex("00163e000000")      # Xen's own range
LEASE_SECONDS = 86400
MAGIC = b"\x63\x82\x53\x63"
BOOTP = struct.Struct(">BBBBIHH4s4s4s4s16s")    # op to chaddr; then sname, file, magic, options
OPTIONS_AT = 240
PAD, MASK, HOSTNAME, REQUESTED, LEASE, TYPE, SERVER, PARAMETERS, END = 0, 1, 12, 50, 51, 53, 54, 55, 255
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
ICMP, ECHO, ECHO_REPLY = 1, 8, 0


class DhcpServer:
    def __init__(self, port: Port, net: str = "192.168.100.0/24") -> None:
        try:
            self.net = ipaddress.IPv4Network(net)
        except ValueError as error:
            raise XenfastError(f"the network of the DHCP server is no use: {error}") from None
        if self.net.num_addresses < 8:
            raise XenfastError(f"the network {net} of the DHCP server is too small")
        self.port = port
        self.address = self.net[1]
        self.leases: dict[bytes, ipaddress.IPv4Address] = {}    # hardware address -> lease, the oldest first
        port.receiver = self.receive

    def close(self) -> None:
        self.port.close()

    def receive(self, frame: Any) -> None:
        data = bytes(frame)
        kind = data[12:14]
        if kind == ETH_ARP.to_bytes(2, "big"):
            self._arp(data)
        elif kind == ETH_IPV4.to_bytes(2, "big") and len(data) >= 34 and data[14] == 0x45:
            found = find_transport(data)
            if found is not None and found.protocol == IP_UDP and data[found.start + 2 : found.start + 4] == b"\0\x43":
                self._dhcp(data[found.start + 8 : found.end])
            elif data[23] == ICMP and data[30:34] == self.address.packed:
                self._echo(data)

    def _arp(self, data: bytes) -> None:
        if len(data) >= 42 and data[14:22] == b"\0\1\x08\0\6\4\0\1" and data[38:42] == self.address.packed:
            answer = b"\0\1\x08\0\6\4\0\2" + SERVER_MAC + self.address.packed + data[22:32]
            self._send(data[6:12], ETH_ARP, answer)

    def _echo(self, data: bytes) -> None:
        end = 14 + int.from_bytes(data[16:18], "big")
        if end <= len(data) and end >= 42 and data[34] == ECHO:
            body = bytes([ECHO_REPLY, 0, 0, 0]) + data[38:end]
            body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
            self._ip(data[6:12], ICMP, ipaddress.IPv4Address(data[26:30]), body)

    # --- DHCP --------------------------------------------------------------------------------------------------------
    def _dhcp(self, data: bytes) -> None:
        if len(data) < OPTIONS_AT or data[0] != 1 or data[1:3] != b"\1\6" or data[236:240] != MAGIC:
            return
        options = parse_options(data[OPTIONS_AT:])
        kind = options.get(TYPE, b"\0")[:1]
        mac = data[28:34]
        server = options.get(SERVER, self.address.packed)
        if kind == bytes([DISCOVER]):
            lease = self._lease(mac, options.get(REQUESTED, b""))
            if lease is not None:
                self._answer(data, OFFER, lease)
        elif kind == bytes([REQUEST]):
            wanted = options.get(REQUESTED) or data[12:16]
            if server != self.address.packed:
                return                          # it has chosen another one
            lease = self._lease(mac, wanted)
            good = lease is not None and lease.packed == wanted
            self._answer(data, ACK if good else NAK, lease if good else None)
        elif kind == bytes([INFORM]):
            self._answer(data, ACK, None)
        elif kind in (bytes([RELEASE]), bytes([DECLINE])):
            self.leases.pop(mac, None)

    def _lease(self, mac: bytes, wanted: bytes) -> ipaddress.IPv4Address | None:
        """The address for a hardware address: the one it has, the one it wants, or the next; None if there is none."""
        if mac in self.leases:
            return self.leases[mac]
        taken = set(self.leases.values())
        first, last = int(self.net[2]), int(self.net[-2])
        if len(wanted) == 4 and first <= int.from_bytes(wanted, "big") <= last and ipaddress.IPv4Address(wanted) not in taken:
            found = ipaddress.IPv4Address(wanted)
        else:
            count = min(last - first + 1, len(taken) + 1)
            free = (ipaddress.IPv4Address(first + i) for i in range(count))
            address = next((each for each in free if each not in taken), None)
            if address is None:
                address = self.leases.pop(next(iter(self.leases)))      # whoever has filled the table: the oldest goes
            found = address
        self.leases[mac] = found
        return found

    def _answer(self, request: bytes, kind: int, lease: ipaddress.IPv4Address | None) -> None:
        yours = lease.packed if lease is not None else bytes(4)
        options = bytes([TYPE, 1, kind, SERVER, 4]) + self.address.packed
        if kind != NAK:
            options += bytes([MASK, 4]) + self.net.netmask.packed
            if lease is not None:
                options += bytes([LEASE, 4]) + LEASE_SECONDS.to_bytes(4, "big")
        _, _, _, _, xid, _, flags, theirs, _, _, relay, chaddr = BOOTP.unpack_from(request)
        body = BOOTP.pack(2, 1, 6, 0, xid, 0, flags, theirs, yours, self.address.packed, relay, chaddr)
        body += bytes(OPTIONS_AT - 4 - len(body)) + MAGIC + options + bytes([END])
        body = body.ljust(300, b"\0")
        broadcast = kind == NAK or flags & 0x8000 or not any(theirs)
        target = ipaddress.IPv4Address("255.255.255.255") if broadcast else ipaddress.IPv4Address(theirs)
        udp = struct.pack(">HHHH", 67, 68, 8 + len(body), 0) + body
        self._ip(BROADCAST if broadcast else request[28:34], IP_UDP, target, udp)

    # --- frames ------------------------------------------------------------------------------------------------------
    def _ip(self, mac: bytes, protocol: int, target: ipaddress.IPv4Address, body: bytes) -> None:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + self.address.packed + target.packed
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        self._send(mac, ETH_IPV4, head + body)

    def _send(self, mac: bytes, kind: int, body: bytes) -> None:
        frame = (mac + SERVER_MAC + kind.to_bytes(2, "big") + body).ljust(60, b"\0")
        self.port.send(fill_checksum(frame) or frame)


def parse_options(data: bytes) -> dict[int, bytes]:
    """Options by number; the first of each counts, and nothing behind one that is cut short."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != END:
        if data[at] == PAD:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            break
        found.setdefault(data[at], data[at + 2 : at + 2 + data[at + 1]])
        at += 2 + data[at + 1]
    return found
