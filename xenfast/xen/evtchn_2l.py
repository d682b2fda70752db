"""The two-level event channel ABI: a pending and a mask bit per port in shared_info, a selector in vcpu_info.

Specified in xen/include/public/xen.h ("event channels"); follows xen/common/event_2l.c.  A 64-bit guest has 64 words of 64
ports, a 32-bit one 32 words of 32: ``domain.shared_places``, which an HVM guest may change.
"""

from typing import TYPE_CHECKING

from xenfast._core import SharedWords
from xenfast.xen.evtchn import Channel

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain

class TwoLevelPorts:
    """The ports of a guest that uses the two-level ABI, which every guest does at first."""

    def __init__(self, domain: "Domain") -> None:
        self.domain = domain
        self.bits = SharedWords(domain.shared_info)
        self.set_places()

    def set_places(self) -> None:
        """The guest's words have another width from now on."""
        places = self.domain.shared_places
        self.max_ports = places.ports
        self.pending, self.mask = places.pending * 8, places.mask * 8       # bit numbers in struct shared_info
        self.selector, self.shift = places.selector * 8, places.shift       # in struct vcpu_info

    def set_pending(self, channel: Channel) -> None:
        port = channel.port
        if self.bits.test_and_set_bit(self.pending + port):
            return
        if not self.bits.test_bit(self.mask + port):
            self._select(channel)
        self.domain.check_pollers(port)

    def _select(self, channel: Channel) -> None:
        vcpu = self.domain.vcpus[channel.vcpu]
        if not vcpu.info.test_and_set_bit(self.selector + (channel.port >> self.shift)):
            vcpu.mark_events_pending()

    def clear_pending(self, channel: Channel) -> None:
        self.bits.test_and_clear_bit(self.pending + channel.port)

    def is_pending(self, channel: Channel) -> bool:
        return self.bits.test_bit(self.pending + channel.port)

    def is_masked(self, channel: Channel) -> bool:
        return self.bits.test_bit(self.mask + channel.port)

    def unmask(self, channel: Channel) -> None:
        """Clear the mask bit; a port that was pending all the while is raised now."""
        if self.bits.test_and_clear_bit(self.mask + channel.port) and self.bits.test_bit(self.pending + channel.port):
            self._select(channel)

    def port_init(self, channel: Channel) -> None:
        pass
