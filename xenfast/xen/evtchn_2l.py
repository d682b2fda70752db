"""The two-level event channel ABI: a pending and a mask bit per port in shared_info, a selector in vcpu_info.

Specified in xen/include/public/xen.h ("event channels"); follows xen/common/event_2l.c.  64-bit layout: 64 words of 64
ports.
"""

from typing import TYPE_CHECKING

from xenfast._core import SharedWords
from xenfast.abi import xen
from xenfast.xen.evtchn import Channel

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain

_PENDING = xen.SHARED_PENDING * 8           # bit numbers in struct shared_info
_MASK = xen.SHARED_MASK * 8
_SELECTOR = xen.vcpu_info.offset["evtchn_pending_sel"] * 8      # bit number in struct vcpu_info


class TwoLevelPorts:
    """The ports of a guest that uses the two-level ABI, which every guest does at first."""

    max_ports = xen.EVTCHN_2L_NR_CHANNELS

    def __init__(self, domain: "Domain") -> None:
        self.domain = domain
        self.bits = SharedWords(domain.shared_info)

    def set_pending(self, channel: Channel) -> None:
        port = channel.port
        if self.bits.test_and_set_bit(_PENDING + port):
            return
        if not self.bits.test_bit(_MASK + port):
            self._select(channel)
        self.domain.check_pollers(port)

    def _select(self, channel: Channel) -> None:
        vcpu = self.domain.vcpus[channel.vcpu]
        if not vcpu.info.test_and_set_bit(_SELECTOR + (channel.port >> 6)):
            vcpu.mark_events_pending()

    def clear_pending(self, channel: Channel) -> None:
        self.bits.test_and_clear_bit(_PENDING + channel.port)

    def is_pending(self, channel: Channel) -> bool:
        return self.bits.test_bit(_PENDING + channel.port)

    def is_masked(self, channel: Channel) -> bool:
        return self.bits.test_bit(_MASK + channel.port)

    def unmask(self, channel: Channel) -> None:
        """Clear the mask bit; a port that was pending all the while is raised now."""
        if self.bits.test_and_clear_bit(_MASK + channel.port) and self.bits.test_bit(_PENDING + channel.port):
            self._select(channel)

    def port_init(self, channel: Channel) -> None:
        pass
