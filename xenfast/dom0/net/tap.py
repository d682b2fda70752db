"""TAP interfaces of the host: a switch with one is joined to the host's own network stack, or to a bridge of the host.

Making one takes root (CAP_NET_ADMIN); one that was made for the user beforehand (``ip tuntap add tap0 mode tap user
NAME``) takes nothing.  Frames carry struct virtio_net_hdr, so that large packets and blank checksums go through as they
are, both ways.
"""

import errno
import fcntl
import logging
import os
import struct
from typing import Any

from xenfast.dom0.net.frame import (
    CAN_CHECKSUM_V4,
    CAN_CHECKSUM_V6,
    CAN_TCPV4,
    CAN_TCPV6,
    CHECKSUM_AT,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    MIN_GSO_SIZE,
    PLAIN,
    VALIDATED,
    Offload,
    find_transport,
)
from xenfast.dom0.net.switch import Port
from xenfast.errors import XenfastError

log = logging.getLogger("xenfast")

TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4

# struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
VNET = struct.Struct("<BBHHHH")
NEEDS_CSUM, DATA_VALID = 1, 2
TO_VIRTIO = {GSO_NONE: 0, GSO_TCPV4: 1, GSO_TCPV6: 4}
FROM_VIRTIO = {1: GSO_TCPV4, 4: GSO_TCPV6}
FRAMES_PER_TURN = 64
MAX_READ = 65536 + 64


class Tap:
    def __init__(self, loop: Any, port: Port, name: str = "") -> None:
        self.loop, self.port = loop, port
        self.fd = -1
        try:
            self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            request = struct.pack("16sH22x", name.encode()[:15], IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
            self.name = fcntl.ioctl(self.fd, TUNSETIFF, request)[:16].split(b"\0")[0].decode()
            fcntl.ioctl(self.fd, TUNSETVNETHDRSZ, struct.pack("i", VNET.size))
            fcntl.ioctl(self.fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
        except OSError as error:
            if self.fd >= 0:
                os.close(self.fd)
            raise XenfastError(_why(name, error)) from None
        port.accepts = CAN_CHECKSUM_V4 | CAN_CHECKSUM_V6 | CAN_TCPV4 | CAN_TCPV6
        port.receiver = self.send
        loop.add_reader(self.fd, self._readable)

    def send(self, frame: Any, offload: Offload = PLAIN) -> bool:
        """To the host."""
        if self.fd < 0:
            return False
        head = vnet_header(frame, offload)
        if head is None:
            return True
        try:
            os.writev(self.fd, [head, frame])
        except BlockingIOError:
            return False
        except OSError as error:                # the interface is down
            return error.errno not in (errno.EIO, errno.ENOBUFS)
        return True

    def _readable(self) -> None:
        for _ in range(FRAMES_PER_TURN):
            try:
                data = os.read(self.fd, MAX_READ)
            except OSError:
                return
            if len(data) > VNET.size:
                self.port.send(data[VNET.size :], from_vnet_header(data))

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self.port.close()
            self.loop.remove_reader(fd)
            os.close(fd)


def _why(name: str, error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        what = name or "tap0"
        return (f"the TAP interface {what} cannot be had without root; as root: ip tuntap add {what} mode tap user NAME "
                "(or use a user network, which needs no rights)")  # fmt: skip
    if error.errno in (errno.ENOENT, errno.ENODEV):
        return "this host has no TAP interfaces (/dev/net/tun is not there)"
    return f"the TAP interface {name} cannot be had: {error.strerror}"


def vnet_header(frame: Any, offload: Offload) -> bytes | None:
    """struct virtio_net_hdr of a frame; None if it is not what ``offload`` calls it."""
    if not offload.blank:
        return VNET.pack(DATA_VALID if offload.validated else 0, 0, 0, 0, 0, 0)
    found = find_transport(frame)
    if found is None:
        return None
    header = 0
    if offload.gso_type:
        header = found.start + (frame[found.start + 12] >> 4) * 4 if found.start + 12 < len(frame) else 0
    return VNET.pack(NEEDS_CSUM, TO_VIRTIO[offload.gso_type], header, offload.gso_size, found.start, CHECKSUM_AT[found.protocol])


def from_vnet_header(data: bytes) -> Offload:
    """What a frame's header says; it is where we expect it in all frames that the host or a guest's driver makes."""
    flags, kind, _, size, _, _ = VNET.unpack_from(data)
    if flags & NEEDS_CSUM:
        gso = FROM_VIRTIO.get(kind & 0x7F, GSO_NONE)
        return Offload(True, size, gso) if gso and size >= MIN_GSO_SIZE else Offload(True)
    return VALIDATED if flags & DATA_VALID else PLAIN
