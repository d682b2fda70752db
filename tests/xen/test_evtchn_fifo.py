"""The FIFO event channel ABI: what set_pending leaves in the event words and control blocks, while the guest consumes
them.
"""

import random
import struct

import pytest

from tests.fakes import FakeCore, FakeHypervisor
from xenfast.abi import event_channel as abi
from xenfast.abi import xen
from xenfast.xen import hypercall
from xenfast.xen.time import VirtualClock

A = FakeCore.BASE
EVTCHN_OP = xen.__HYPERVISOR_event_channel_op
PENDING, MASKED, LINKED = (
    1 << bit for bit in (abi.EVTCHN_FIFO_PENDING, abi.EVTCHN_FIFO_MASKED, abi.EVTCHN_FIFO_LINKED)
)
PRIORITIES = abi.EVTCHN_FIFO_MAX_QUEUES


class Fifo:
    """A guest with two vcpus that uses the FIFO ABI, and consumes its queues as the ABI describes."""

    def __init__(self, hv):
        self.domain = hv.create_domain("fifo", vcpus=2)
        self.memory = hv.memory
        self.vcpu = self.domain.vcpus[0]
        self.blocks = [int(mfn) for mfn in self.domain.alloc_pages(2)]
        self.array = int(self.domain.alloc_pages(1)[0])
        self.words = self.memory.array(self.array, dtype="u4")
        self.control = [self.memory.array(mfn, dtype="u4") for mfn in self.blocks]

    def call(self, cmd, data):
        self.vcpu.core.copy_to_guest(A, data)
        return hypercall.call(self.domain, self.vcpu, EVTCHN_OP, (cmd, A, 0, 0, 0, 0))

    def init(self):
        for vcpu, mfn in enumerate(self.blocks):
            assert (
                self.call(abi.EVTCHNOP_init_control, abi.init_control.pack(control_gfn=mfn, offset=0, vcpu=vcpu)) == 0
            )
        assert abi.init_control.unpack(self.vcpu.core.ram).link_bits == abi.EVTCHN_FIFO_LINK_BITS
        assert self.call(abi.EVTCHNOP_expand_array, abi.expand_array.pack(array_gfn=self.array)) == 0

    def take(self, vcpu=0):
        """Everything in the queues of a vcpu, by priority, in order; the words become free of PENDING and LINKED."""
        block, found = self.control[vcpu], []
        for priority in range(PRIORITIES):
            if not int(block[0]) >> priority & 1:
                continue
            block[0] = int(block[0]) & ~(1 << priority)
            port = int(block[2 + priority])
            while port:
                word = int(self.words[port])
                self.words[port] = word & ~(LINKED | abi.EVTCHN_FIFO_LINK_MASK | PENDING)
                if word & PENDING and not word & MASKED:
                    found.append(port)
                port = word & abi.EVTCHN_FIFO_LINK_MASK
            block[2 + priority] = 0
        self.domain.vcpus[vcpu].info_view[0] = 0
        return found


@pytest.fixture
def fifo():
    with FakeHypervisor(VirtualClock()) as hv:
        yield Fifo(hv)


def test_events_come_in_order_and_by_priority(fifo):
    """Ports raised one after the other are linked in that order; a more urgent port comes first."""
    fifo.init()
    ports = [fifo.domain.evtchn.bind_ipi(0) for _ in range(4)]
    assert fifo.call(abi.EVTCHNOP_set_priority, abi.set_priority.pack(port=ports[3], priority=0)) == 0
    for port in ports:
        fifo.domain.evtchn.send(port)
    assert fifo.domain.vcpus[0].info_view[0] == 1
    assert fifo.take() == [ports[3], *ports[:3]]
    fifo.domain.evtchn.send(ports[1])
    assert fifo.take() == [ports[1]]


def test_a_raised_port_is_linked_once(fifo):
    """Raising a pending port again changes nothing."""
    fifo.init()
    port = fifo.domain.evtchn.bind_ipi(0)
    for _ in range(3):
        fifo.domain.evtchn.send(port)
    assert fifo.take() == [port]
    assert fifo.take() == []


def test_a_masked_port_waits_for_unmask(fifo):
    """A masked port becomes pending but is not linked until EVTCHNOP_unmask."""
    fifo.init()
    port = fifo.domain.evtchn.bind_ipi(0)
    fifo.words[port] = MASKED
    fifo.domain.evtchn.send(port)
    assert int(fifo.words[port]) == MASKED | PENDING
    assert fifo.take() == []
    assert fifo.call(abi.EVTCHNOP_unmask, abi.unmask.pack(port=port)) == 0
    assert fifo.take() == [port]


def test_what_was_pending_before_is_not_lost(fifo):
    """Ports raised with the two-level ABI, or before their word exists, are raised when it does."""
    early = fifo.domain.evtchn.bind_ipi(0)
    fifo.domain.evtchn.send(early)
    for vcpu, mfn in enumerate(fifo.blocks):
        fifo.call(abi.EVTCHNOP_init_control, abi.init_control.pack(control_gfn=mfn, offset=0, vcpu=vcpu))
    late = fifo.domain.evtchn.bind_ipi(1)
    fifo.domain.evtchn.send(late)
    fifo.call(abi.EVTCHNOP_expand_array, abi.expand_array.pack(array_gfn=fifo.array))
    assert (fifo.take(0), fifo.take(1)) == ([early], [late])


def test_a_port_moves_to_another_vcpu(fifo):
    """After EVTCHNOP_bind_vcpu a port is linked on the other vcpu's queue."""
    fifo.init()
    port = fifo.domain.evtchn.alloc_unbound(0)
    local = fifo.domain.hypervisor.dom0.evtchn.bind_interdomain(fifo.domain.domid, port)
    assert fifo.call(abi.EVTCHNOP_bind_vcpu, abi.bind_vcpu.pack(port=port, vcpu=1)) == 0
    fifo.domain.hypervisor.dom0.evtchn.send(local)
    assert (fifo.take(0), fifo.take(1)) == ([], [port])


@pytest.mark.parametrize(
    "cmd, data, result",
    [
        (abi.EVTCHNOP_init_control, abi.init_control.pack(control_gfn=0xFFFFFF, vcpu=0), -22),  # no such frame
        (abi.EVTCHNOP_init_control, abi.init_control.pack(control_gfn=0, vcpu=2), -2),  # no such vcpu
        (abi.EVTCHNOP_init_control, abi.init_control.pack(control_gfn=0, offset=4032), -22),  # leaves the page
        (abi.EVTCHNOP_init_control, abi.init_control.pack(control_gfn=0, offset=4), -22),  # not aligned
        (abi.EVTCHNOP_expand_array, abi.expand_array.pack(array_gfn=0), -95),  # before init_control
        (abi.EVTCHNOP_set_priority, abi.set_priority.pack(port=1, priority=0), -22),  # no such port
    ],
    ids=["frame", "vcpu", "offset", "alignment", "too early", "port"],
)
def test_refusals(fifo, cmd, data, result):
    """Bad frames, offsets, vcpus and ports are refused with Xen's error."""
    assert fifo.call(cmd, data) == result


def test_reset_goes_back_to_two_levels(fifo):
    """After EVTCHNOP_reset the ports are closed and the two-level ABI is in force."""
    fifo.init()
    fifo.domain.evtchn.bind_ipi(0)
    assert fifo.call(abi.EVTCHNOP_reset, abi.reset.pack(dom=xen.DOMID_SELF)) == 0
    port = fifo.domain.evtchn.bind_ipi(0)
    fifo.domain.evtchn.send(port)
    assert fifo.domain.shared_info[xen.SHARED_PENDING] >> port & 1


def test_no_event_is_lost_and_no_loop_made(fifo):
    """In any order of raising, masking, moving, reprioritising and consuming, each raised port is delivered exactly
    once.
    """
    fifo.init()
    rng = random.Random(3)
    evtchn, ports = fifo.domain.evtchn, [fifo.domain.evtchn.alloc_unbound(0) for _ in range(20)]
    raised = set()
    for _ in range(3000):
        port, what = rng.choice(ports), rng.random()
        if what < 0.6:
            evtchn.abi.set_pending(evtchn.channel(port))
            raised.add(port)
        elif what < 0.7:
            evtchn.set_priority(port, rng.randrange(PRIORITIES))
        elif what < 0.8:
            evtchn.bind_vcpu(port, rng.randrange(2))
        else:
            found = fifo.take(0) + fifo.take(1)
            assert sorted(found) == sorted(raised)
            raised.clear()


def test_a_guest_that_scribbles_over_its_words(fifo):
    """Random words and control blocks never make set_pending loop or fail."""
    fifo.init()
    rng = random.Random(5)
    evtchn, ports = fifo.domain.evtchn, [fifo.domain.evtchn.alloc_unbound(0) for _ in range(8)]
    for _ in range(500):
        fifo.words[rng.randrange(1024)] = rng.getrandbits(32)
        fifo.control[0][rng.randrange(18)] = rng.getrandbits(32)
        evtchn.abi.set_pending(evtchn.channel(rng.choice(ports)))
        struct.pack_into("<I", fifo.domain.shared_info, 0, 0)
