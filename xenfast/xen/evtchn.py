"""Event channels of a domain: the operations on ports, whatever the guest's ABI for pending bits is.

Specified in xen/include/public/event_channel.h; the operations follow xen/common/event_channel.c.  How a pending port
is shown to the guest is the business of the port's ABI: ``evtchn_2l.py``, ``evtchn_fifo.py``, or ``PythonPorts`` below
for a domain whose kernel is Python, which is told by a call.  Physical interrupts (bind_pirq) are refused: no domain
has any.

Every operation holds the hypervisor's lock, which is what makes a send race-free against a close on another thread;
what the guest changes meanwhile is changed with atomic operations only.
"""

import errno
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenfast.abi import event_channel as abi
from xenfast.abi import xen
from xenfast.errors import XenError

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain

log = logging.getLogger("xenfast")

# Channel.state (enum in xen/include/xen/sched.h)
ECS_RESERVED, ECS_UNBOUND, ECS_INTERDOMAIN, ECS_VIRQ, ECS_IPI = range(5)

STATUS = {
    ECS_RESERVED: abi.EVTCHNSTAT_closed,
    ECS_UNBOUND: abi.EVTCHNSTAT_unbound,
    ECS_INTERDOMAIN: abi.EVTCHNSTAT_interdomain,
    ECS_VIRQ: abi.EVTCHNSTAT_virq,
    ECS_IPI: abi.EVTCHNSTAT_ipi,
}


class Channel:
    """struct evtchn: one local port."""

    __slots__ = ("handler", "last_priority", "last_vcpu", "pending", "port", "priority", "remote_domain", "remote_port",
                 "state", "vcpu", "virq")

    def __init__(self, port: int, state: int) -> None:
        self.port = port
        self.state = state
        self.vcpu = 0                   # notify_vcpu_id
        self.virq = 0
        self.remote_domain: Domain | None = None    # interdomain
        self.remote_port = 0            # interdomain: port; unbound: domid that may bind
        self.priority = abi.EVTCHN_FIFO_PRIORITY_DEFAULT
        self.pending = False            # Python domain: queued.  FIFO: raised before the guest gave us its word
        self.last_vcpu = 0              # FIFO: queue the event was last linked on
        self.last_priority = abi.EVTCHN_FIFO_PRIORITY_DEFAULT
        self.handler: Callable[[int], Any] | None = None


class PythonPorts:
    """The port ABI of a domain whose kernel is Python: a raised port queues a call of its handler in domain 0's event
    loop.
    """

    max_ports = 1 << 20

    def __init__(self, domain: "Domain") -> None:
        self.loop = domain.hypervisor.loop

    def set_pending(self, channel: Channel) -> None:
        if channel.pending:
            return
        channel.pending = True
        if channel.handler is not None:
            self.loop.post_event(channel)

    def clear_pending(self, channel: Channel) -> None:
        channel.pending = False

    def is_pending(self, channel: Channel) -> bool:
        return channel.pending

    def is_masked(self, channel: Channel) -> bool:
        return channel.handler is None

    def unmask(self, channel: Channel) -> None:
        if channel.pending and channel.handler is not None:
            self.loop.post_event(channel)

    def port_init(self, channel: Channel) -> None:
        pass


class EventChannels:
    """``domain.evtchn``."""

    def __init__(self, domain: "Domain", max_ports: int) -> None:
        self.domain = domain
        self.hypervisor = domain.hypervisor
        self.lock = domain.hypervisor.lock
        self.max_ports = max_ports
        self.channels: list[Channel | None] = [Channel(0, ECS_RESERVED)]
        self.virqs: dict[tuple[int, int], int] = {}     # (vcpu, virq) -> port
        self.sent = 0
        self.abi: Any = None            # set by Domain: PythonPorts, TwoLevelPorts or FifoPorts

    # --- ports -------------------------------------------------------------------------------------------------------
    def channel(self, port: int) -> Channel:
        """The open channel of a port; EINVAL when there is none."""
        if 0 < port < len(self.channels):
            channel = self.channels[port]
            if channel is not None:
                return channel
        raise XenError(errno.EINVAL, f"port {port} is not open")

    def _new(self, state: int) -> Channel:
        limit = min(self.max_ports, self.abi.max_ports - 1)
        for port in range(1, len(self.channels)):
            if self.channels[port] is None:
                break
        else:
            port = len(self.channels)
            if port > limit:
                raise XenError(errno.ENOSPC, f"domain {self.domain.domid} has {limit} ports already")
            self.channels.append(None)
        channel = self.channels[port] = Channel(port, state)
        self.abi.port_init(channel)
        return channel

    def _check_vcpu(self, vcpu: int) -> None:
        vcpus = self.domain.vcpus
        if vcpu != 0 and not 0 <= vcpu < len(vcpus):
            raise XenError(errno.ENOENT, f"no vcpu {vcpu}")

    # --- operations --------------------------------------------------------------------------------------------------
    def alloc_unbound(self, remote_domid: int) -> int:
        """A new port that the remote domain may bind to."""
        with self.lock:
            channel = self._new(ECS_UNBOUND)
            channel.remote_port = self.domain.domid if remote_domid == xen.DOMID_SELF else remote_domid
            return channel.port

    def bind_interdomain(self, remote_domid: int, remote_port: int) -> int:
        """A new port connected to a port that the remote domain has left unbound for us."""
        with self.lock:
            me = self.domain
            remote = me if remote_domid == xen.DOMID_SELF else self.hypervisor.domain(remote_domid)
            theirs = remote.evtchn.channel(remote_port)
            if theirs.state != ECS_UNBOUND or theirs.remote_port != me.domid:
                raise XenError(errno.EINVAL, f"port {remote_port} of domain {remote.domid} is not unbound for us")
            ours = self._new(ECS_INTERDOMAIN)
            ours.remote_domain, ours.remote_port = remote, remote_port
            theirs.remote_domain, theirs.remote_port = me, ours.port
            theirs.state = ECS_INTERDOMAIN
            self.abi.set_pending(ours)      # notifications to the unbound port may have been lost
            return ours.port

    def bind_virq(self, virq: int, vcpu: int = 0) -> int:
        with self.lock:
            if not 0 <= virq < xen.NR_VIRQS or (vcpu and virq not in xen.VCPU_VIRQS):
                raise XenError(errno.EINVAL, f"virq {virq} on vcpu {vcpu}")
            self._check_vcpu(vcpu)
            if (vcpu, virq) in self.virqs:
                raise XenError(errno.EEXIST, f"virq {virq} of vcpu {vcpu} is bound")
            channel = self._new(ECS_VIRQ)
            channel.virq, channel.vcpu = virq, vcpu
            self.virqs[vcpu, virq] = channel.port
            return channel.port

    def bind_ipi(self, vcpu: int) -> int:
        with self.lock:
            self._check_vcpu(vcpu)
            channel = self._new(ECS_IPI)
            channel.vcpu = vcpu
            return channel.port

    def close(self, port: int) -> None:
        """Free the port; the other end of an interdomain channel is unbound again, for us."""
        with self.lock:
            channel = self.channel(port)
            if channel.state == ECS_INTERDOMAIN:
                remote = channel.remote_domain
                assert remote is not None
                theirs = remote.evtchn.channel(channel.remote_port)
                theirs.state, theirs.remote_domain, theirs.remote_port = ECS_UNBOUND, None, self.domain.domid
            elif channel.state == ECS_VIRQ:
                del self.virqs[channel.vcpu if channel.virq in xen.VCPU_VIRQS else 0, channel.virq]
            self.abi.clear_pending(channel)
            channel.handler = None
            self.channels[port] = None

    def send(self, port: int) -> None:
        """Raise the other end of an interdomain channel, or our own IPI."""
        with self.lock:
            channel = self.channel(port)
            self.sent += 1
            state = channel.state
            if state == ECS_INTERDOMAIN:
                theirs = channel.remote_domain.evtchn       # type: ignore[union-attr]
                theirs.abi.set_pending(theirs.channels[channel.remote_port])
            elif state == ECS_IPI:
                self.abi.set_pending(channel)
            elif state != ECS_UNBOUND:      # a send to an unbound port is silently dropped
                raise XenError(errno.EINVAL, f"port {port} cannot be sent to")

    def send_virq(self, virq: int, vcpu: int = 0) -> None:
        """Raise a virtual interrupt; nothing happens when the guest has not bound it."""
        with self.lock:
            port = self.virqs.get((vcpu, virq))
            if port is not None:
                self.abi.set_pending(self.channels[port])

    def status(self, port: int) -> dict[str, int]:
        """EVTCHNOP_status as a dict: status, vcpu, and remote_domid, remote_port or virq."""
        with self.lock:
            if not 0 <= port < self.abi.max_ports:
                raise XenError(errno.EINVAL, f"port {port}")
            channel = self.channels[port] if port < len(self.channels) else None
            if channel is None:
                return {"status": abi.EVTCHNSTAT_closed, "vcpu": 0}
            result = {"status": STATUS[channel.state], "vcpu": channel.vcpu}
            if channel.state == ECS_UNBOUND:
                result["remote_domid"] = channel.remote_port
            elif channel.state == ECS_INTERDOMAIN:
                result["remote_domid"] = channel.remote_domain.domid    # type: ignore[union-attr]
                result["remote_port"] = channel.remote_port
            elif channel.state == ECS_VIRQ:
                result["virq"] = channel.virq
            return result

    def bind_vcpu(self, port: int, vcpu: int) -> None:
        """Have the port raise this vcpu from now on."""
        with self.lock:
            self._check_vcpu(vcpu)
            channel = self.channel(port)
            if channel.state == ECS_IPI or (channel.state == ECS_VIRQ and channel.virq in xen.VCPU_VIRQS):
                raise XenError(errno.EINVAL, f"port {port} belongs to its vcpu")
            channel.vcpu = vcpu         # a global virq stays under vcpu 0 in self.virqs

    def unmask(self, port: int) -> None:
        with self.lock:
            self.abi.unmask(self.channel(port))

    def set_priority(self, port: int, priority: int) -> None:
        with self.lock:
            channel = self.channel(port)
            if not hasattr(self.abi, "expand_array"):
                raise XenError(errno.ENOSYS, "priorities need the FIFO ABI")
            if not 0 <= priority <= abi.EVTCHN_FIFO_PRIORITY_MIN:
                raise XenError(errno.EINVAL, f"priority {priority}")
            channel.priority = priority

    def reset(self) -> None:
        """EVTCHNOP_reset: nothing is open any more, and the ABI is that of a new domain."""
        with self.lock:
            self.close_all()
            self.abi = self.domain.first_port_abi()

    def close_all(self) -> None:
        with self.lock:
            for port in range(1, len(self.channels)):
                if self.channels[port] is not None:
                    self.close(port)

    # --- domains whose kernel is Python ------------------------------------------------------------------------------
    def on_event(self, port: int, handler: Callable[[int], Any] | None) -> None:
        """Have ``handler(port)`` called from domain 0's event loop whenever the port is raised; None masks the port."""
        with self.lock:
            channel = self.channel(port)
            channel.handler = handler
            self.abi.unmask(channel)
