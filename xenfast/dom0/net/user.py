"""The way to the world without root: a router with NAT, DHCP, DNS and TFTP, made of the host's sockets by libslirp.

    UserNet(hypervisor.loop, switch.port("nat"), UserOptions(hostfwd=["tcp:127.0.0.1:2222-:22"]))

The guests' network is 10.0.2.0/24 and fec0::/64 unless said otherwise: the router, by which a guest reaches the host's
127.0.0.1, is .2, the name server .3, leases begin at .15 and there are 16 of them.  ICMP echo to the world takes a host
that lets users send it (net.ipv4.ping_group_range).

libslirp speaks to guests in segments as large as both sides allow, and an interface's MTU would make that 1460 bytes.
So we tell it that the MTU is 64 KiB and raise the MSS in the guests' SYN packets: what it sends is passed on as
packets to be cut (Offload), what guests send is not cut at all.  That is what large receive offload does.
"""

import ctypes
import ipaddress
import logging
import os
import select
import struct
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from xenfast.dom0.net import slirp
from xenfast.dom0.net.frame import (
    CAN_TCPV4,
    CAN_TCPV6,
    GSO_TCPV4,
    GSO_TCPV6,
    IP_TCP,
    MTU,
    PLAIN,
    VALIDATED,
    Offload,
    fill_checksum,
    find_transport,
    pseudo_header,
    sum16,
)
from xenfast.dom0.net.switch import Port
from xenfast.errors import XenfastError

log = logging.getLogger("xenfast")

LARGE_MTU = 65520               # what libslirp believes
LARGE_MSS = 65480 & ~3
SYN = 0x02
MAX_WAIT_MS = 1000
MAX_HOSTFWD = 256
EVENTS = (                      # libslirp's, poll's, epoll's
    (slirp.SLIRP_POLL_IN, select.POLLIN, select.EPOLLIN),
    (slirp.SLIRP_POLL_OUT, select.POLLOUT, select.EPOLLOUT),
    (slirp.SLIRP_POLL_PRI, select.POLLPRI, select.EPOLLPRI),
    (slirp.SLIRP_POLL_ERR, select.POLLERR, select.EPOLLERR),
    (slirp.SLIRP_POLL_HUP, select.POLLHUP, select.EPOLLHUP),
)
TO_POLL = [sum(poll for ours, poll, _ in EVENTS if mask & ours) for mask in range(32)]
TO_EPOLL = [sum(epoll for ours, _, epoll in EVENTS if mask & ours) for mask in range(32)]


@dataclass
class UserOptions:
    """What can be said about the network; names as in QEMU's ``-netdev user``."""

    net: str = "10.0.2.0/24"
    host: str = ""                  # the router; "" is .2
    dns: str = ""                   # the name server; .3
    dhcpstart: str = ""             # the first of 16 leases; .15
    ipv4: bool = True
    ipv6: bool = True
    ipv6_prefix: str = "fec0::/64"
    hostname: str = "xenfast"
    domainname: str = ""
    dnssearch: list[str] = field(default_factory=list)
    restrict: bool = False          # guests reach the router's own services only, and are reached by hostfwd
    tftp: str = ""                  # a directory
    bootfile: str = ""
    tftp_server_name: str = ""
    hostfwd: list[str] = field(default_factory=list)


class UserNet:
    def __init__(self, loop: Any, port: Port, options: UserOptions | None = None) -> None:
        options = options or UserOptions()
        self.loop, self.port, self.options = loop, port, options
        self.library = slirp.library()
        self.handle: Any = None
        self.epoll = select.epoll()
        self.watched: dict[int, int] = {}           # fd -> events asked of epoll
        self.polled: list[int] = []                 # libslirp's index -> fd
        self.asked: dict[int, int] = {}
        self.ready: dict[int, int] = {}
        self.timers: dict[int, Any] = {}            # libslirp's timers: number -> (function, argument, our timer)
        self.next_timer = 1
        self.task = SimpleNamespace(pending=False, handler=self.service, port=0)    # as a raised port, to the loop
        self.alarm: Any = None
        self.alarm_at = 0
        self.add_poll_c = slirp.ADD_POLL(self._add_poll)
        self.get_revents_c = slirp.GET_REVENTS(self._get_revents)
        self.forwards: list[str] = []
        self._keep: list[Any] = []
        try:
            config = self._config(options)
            self.callbacks = self._callbacks()
            self.handle = self.library.slirp_new(ctypes.byref(config), ctypes.byref(self.callbacks), None)
            if not self.handle:
                raise XenfastError("libslirp refuses the network's configuration")
            for forward in options.hostfwd:
                self.add_hostfwd(forward)
        except BaseException:
            self._free()
            raise
        port.accepts = CAN_TCPV4 | CAN_TCPV6
        port.receiver = self.receive
        loop.add_reader(self.epoll.fileno(), self.service)
        self.service()

    # --- configuration -----------------------------------------------------------------------------------------------
    def _config(self, options: UserOptions) -> Any:
        try:
            net = ipaddress.IPv4Network(options.net)
            net6 = ipaddress.IPv6Network(options.ipv6_prefix)
            inside = lambda text, default: _inside(net, text, default)
            config = slirp.SlirpConfig(
                version=1,
                restricted=int(options.restrict),
                in_enabled=options.ipv4,
                vnetwork=slirp.address4(net.network_address),
                vnetmask=slirp.address4(net.netmask),
                vhost=slirp.address4(inside(options.host, 2)),
                in6_enabled=options.ipv6,
                vprefix_addr6=slirp.address6(net6.network_address),
                vprefix_len=net6.prefixlen,
                vhost6=slirp.address6(net6[2]),
                vhostname=self._text(options.hostname),
                tftp_server_name=self._text(options.tftp_server_name),
                tftp_path=self._text(options.tftp),
                bootfile=self._text(options.bootfile),
                vdhcp_start=slirp.address4(inside(options.dhcpstart, 15)),
                vnameserver=slirp.address4(inside(options.dns, 3)),
                vnameserver6=slirp.address6(net6[3]),
                vdomainname=self._text(options.domainname),
                if_mtu=LARGE_MTU,
                if_mru=LARGE_MTU,
            )
        except (ValueError, IndexError) as error:
            raise XenfastError(f"the user network's addresses are no use: {error}") from None
        if options.tftp and not os.path.isdir(options.tftp):
            raise XenfastError(f"the TFTP directory {options.tftp!r} does not exist")
        self.first_lease = inside(options.dhcpstart, 15)
        if options.dnssearch:
            names = (ctypes.c_char_p * (len(options.dnssearch) + 1))(*[name.encode() for name in options.dnssearch], None)
            self._keep.append(names)
            config.vdnssearch = names
        return config

    @staticmethod
    def _text(text: str) -> bytes | None:
        return text.encode() if text else None

    def _callbacks(self) -> Any:
        return slirp.SlirpCb(
            send_packet=slirp.WRITE(self._send_packet),
            guest_error=slirp.GUEST_ERROR(lambda text, _: log.debug("NAT: %s", text.decode("utf-8", "replace"))),
            clock_get_ns=slirp.CLOCK(lambda _: self.loop.clock.now()),
            timer_new=slirp.TIMER_NEW(self._timer_new),
            timer_free=slirp.TIMER_FREE(self._timer_free),
            timer_mod=slirp.TIMER_MOD(self._timer_mod),
            register_poll_fd=slirp.POLL_FD(lambda fd, _: None),
            unregister_poll_fd=slirp.POLL_FD(self._unregister),
            notify=slirp.NOTIFY(lambda _: self._service_soon()),
        )

    # --- frames ------------------------------------------------------------------------------------------------------
    def receive(self, frame: Any, offload: Offload = PLAIN) -> None:
        """From a guest to the world."""
        data: bytes | None = bytes(frame)
        assert data is not None
        syn = _raise_mss(data)
        if syn is not None:
            data = syn
        elif offload.gso_type:
            data = fill_checksum(data)
            if data is None:
                return
        self.library.slirp_input(self.handle, data, len(data))
        self._service_soon()

    def _send_packet(self, buffer: int, size: int, _: Any) -> int:
        """From the world to the guests."""
        frame = ctypes.string_at(buffer, size)
        if size <= MTU + 14:
            self.port.send(frame, VALIDATED)
        else:
            self._send_large(frame)
        return size

    def _send_large(self, frame: bytes) -> None:
        found = find_transport(frame)
        if found is None or found.protocol != IP_TCP:
            return
        at = found.start + 16
        # what a packet to be cut holds there is the sum of the pseudo header
        total = sum16(pseudo_header(frame, found, found.end - found.start)).to_bytes(2, "big")
        size, kind = (MTU - 40, GSO_TCPV4) if found.version == 4 else (MTU - 60, GSO_TCPV6)
        self.port.send(frame[:at] + total + frame[at + 2 :], Offload(True, size, kind))

    # --- the host's sockets ------------------------------------------------------------------------------------------
    def _service_soon(self) -> None:
        """Look after the sockets when the handler that runs has ended, on its thread: a guest that has acknowledged what
        it got, gets more without waking another thread of the host."""
        if not self.task.pending:
            self.task.pending = True
            self.loop.post_event(self.task)

    def service(self, _: int = 0) -> None:
        """Have libslirp do what its sockets allow, and then watch for what it waits."""
        if not self.handle:
            return
        timeout = self._fill()
        if self.asked:
            poll = select.poll()
            for fd, events in self.asked.items():
                poll.register(fd, TO_POLL[events & 31])
            ready = poll.poll(0)
            if ready or timeout == 0:
                self.ready = {fd: sum(ours for ours, theirs, _ in EVENTS if events & theirs) for fd, events in ready}
                self.library.slirp_pollfds_poll(self.handle, 0, self.get_revents_c, None)
                timeout = self._fill()
        for fd in [fd for fd in self.watched if fd not in self.asked]:
            self._unregister(fd)
        for fd, events in self.asked.items():
            if self.watched.get(fd) != events:
                self._watch(fd, TO_EPOLL[events & 31])
                self.watched[fd] = events
        self._set_alarm(timeout)

    def _fill(self) -> int:
        """Ask libslirp what it waits for; returns for how many ms."""
        self.polled.clear()
        self.asked = {}
        timeout = ctypes.c_uint32(MAX_WAIT_MS)
        self.library.slirp_pollfds_fill(self.handle, ctypes.byref(timeout), self.add_poll_c, None)
        return timeout.value

    def _set_alarm(self, timeout: int) -> None:
        """Be called in so many ms, or a little earlier."""
        if not self.asked and timeout >= MAX_WAIT_MS:
            return
        deadline = self.loop.clock.now() + timeout * 1_000_000
        if self.alarm is not None:
            if self.alarm_at <= deadline:
                return
            self.alarm.cancel()
        self.alarm_at = deadline
        self.alarm = self.loop.call_at(deadline, self.on_alarm)

    def on_alarm(self) -> None:
        self.alarm = None
        self.service()

    def _watch(self, fd: int, events: int) -> None:
        try:
            if fd in self.watched:
                try:
                    self.epoll.modify(fd, events)
                    return
                except FileNotFoundError:           # closed, and opened again as another socket
                    pass
            self.epoll.register(fd, events)
        except OSError as error:
            log.debug("NAT: socket %d: %s", fd, error)

    def _unregister(self, fd: int, _: Any = None) -> None:
        if self.watched.pop(fd, None) is not None:
            try:
                self.epoll.unregister(fd)
            except OSError:
                pass

    def _add_poll(self, fd: int, events: int, _: Any) -> int:
        self.polled.append(fd)
        self.asked[fd] = self.asked.get(fd, 0) | events
        return len(self.polled) - 1

    def _get_revents(self, index: int, _: Any) -> int:
        return self.ready.get(self.polled[index], 0) if 0 <= index < len(self.polled) else 0

    # --- timers ------------------------------------------------------------------------------------------------------
    def _timer_new(self, function: int, argument: int, _: Any) -> int:
        number, self.next_timer = self.next_timer, self.next_timer + 1
        self.timers[number] = [slirp.TIMER(function), argument, None]
        return number

    def _timer_free(self, number: int, _: Any) -> None:
        _, _, timer = self.timers.pop(number, (None, None, None))
        if timer is not None:
            timer.cancel()

    def _timer_mod(self, number: int, deadline_ms: int, _: Any) -> None:
        entry = self.timers.get(number)
        if entry is not None:
            if entry[2] is not None:
                entry[2].cancel()
            entry[2] = self.loop.call_at(deadline_ms * 1_000_000, self._timer_due, number)

    def _timer_due(self, number: int) -> None:
        entry = self.timers.get(number)
        if entry is not None and self.handle:
            entry[2] = None
            entry[0](entry[1])
            self._service_soon()

    # --- port forwards -----------------------------------------------------------------------------------------------
    def add_hostfwd(self, text: str) -> None:
        """``tcp:127.0.0.1:2222-10.0.2.15:22``: a port of the host leads to one of a guest.  Without a host's address
        it is 127.0.0.1 (unlike QEMU's, which is all of them), without a guest's the first lease."""
        udp, address, port, guest, guest_port = parse_hostfwd(text)
        if len(self.forwards) >= MAX_HOSTFWD:
            raise XenfastError(f"there are {MAX_HOSTFWD} port forwards already")
        target = slirp.address4(guest or str(self.first_lease))
        if self.library.slirp_add_hostfwd(self.handle, udp, slirp.address4(address), port, target, guest_port) < 0:
            kind = "UDP" if udp else "TCP"
            raise XenfastError(f"the {kind} port {port} of {address} cannot be forwarded: it is in use, or not to be had")
        self.forwards.append(text)
        self._service_soon()

    def remove_hostfwd(self, text: str) -> None:
        udp, address, port, *_ = parse_hostfwd(text)
        if text not in self.forwards:
            raise XenfastError(f"there is no port forward {text!r}")
        self.forwards.remove(text)
        self.library.slirp_remove_hostfwd(self.handle, udp, slirp.address4(address), port)
        self._service_soon()

    def close(self) -> None:
        """End all connections; harmless a second time."""
        if self.handle:
            self.port.close()
            self.loop.remove_reader(self.epoll.fileno())
            self._free()

    def _free(self) -> None:
        if self.handle:
            self.library.slirp_cleanup(self.handle)
            self.handle = None
        if self.alarm is not None:
            self.alarm.cancel()
        for number in list(self.timers):
            self._timer_free(number, None)
        self.epoll.close()


def _inside(net: ipaddress.IPv4Network, text: str, default: int) -> ipaddress.IPv4Address:
    address = ipaddress.IPv4Address(text) if text else net[default]
    if address not in net:
        raise ValueError(f"{address} is not in {net}")
    return address


def parse_hostfwd(text: str) -> tuple[bool, str, int, str, int]:
    """``[tcp|udp]:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT`` as (is UDP, host address, port, guest address, port)."""
    try:
        left, right = text.split("-")
        kind, address, port = left.split(":")
        guest, guest_port = right.split(":")
        if kind not in ("", "tcp", "udp"):
            raise ValueError
        address = str(ipaddress.IPv4Address(address or "127.0.0.1"))
        guest = str(ipaddress.IPv4Address(guest)) if guest else ""
        numbers = [int(number) for number in (port, guest_port)]
        if not all(0 < number < 65536 for number in numbers):
            raise ValueError
    except ValueError:
        raise XenfastError(f"{text!r} is not a port forward such as tcp:127.0.0.1:2222-10.0.2.15:22") from None
    return kind == "udp", address, numbers[0], guest, numbers[1]


def _raise_mss(frame: bytes) -> bytes | None:
    """A guest's SYN with the largest MSS there is; None for what is not one, or comes from a guest with a small MTU."""
    if frame[14:15] == b"\x45" and len(frame) > 47 and not frame[47] & SYN:
        return None                     # most of all: IPv4 without options, and not a SYN, whatever else it is
    found = find_transport(frame)
    if found is None or found.protocol != IP_TCP or not frame[found.start + 13] & SYN:
        return None
    end = min(found.end, found.start + (frame[found.start + 12] >> 4) * 4)
    at = found.start + 20
    while at + 1 < end and frame[at]:
        if frame[at] == 1:
            at += 1
            continue
        if frame[at] == 2 and frame[at + 1] == 4 and at + 4 <= end:
            (mss,) = struct.unpack_from(">H", frame, at + 2)
            if mss < MTU - (40 if found.version == 4 else 60):
                return None
            return fill_checksum(frame[: at + 2] + struct.pack(">H", LARGE_MSS) + frame[at + 4 :])
        at += max(2, frame[at + 1])
    return None
