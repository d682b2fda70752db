"""Event channels: the operations, and what a guest or a Python domain sees of them."""

import pytest

from xenfast._core import Memory
from xenfast.abi import event_channel as abi
from xenfast.abi import xen
from xenfast.errors import XenError
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import VirtualClock


@pytest.fixture
def hv():
    return Hypervisor(1, clock=VirtualClock(), memory=Memory(64))


@pytest.fixture
def guest(hv):
    return hv.create_domain("guest", vcpus=2)


def pending(domain, port):
    return bool(domain.shared_info[xen.SHARED_PENDING + port // 8] >> port % 8 & 1)


def test_send_reaches_the_python_domain_from_its_loop(hv, guest):
    """An event sent to a Python domain calls its handler from run(), once for several sends."""
    port = guest.evtchn.alloc_unbound(0)
    local = hv.dom0.evtchn.bind_interdomain(guest.domid, port)
    calls = []
    hv.dom0.evtchn.on_event(local, calls.append)
    hv.run()
    calls.clear()
    guest.evtchn.send(port)
    guest.evtchn.send(port)
    assert calls == []
    hv.run()
    assert calls == [local]


def test_send_sets_the_guest_bits(hv, guest):
    """An event sent to a guest sets the pending bit, the selector of its vcpu and evtchn_upcall_pending."""
    port = guest.evtchn.alloc_unbound(0)
    local = hv.dom0.evtchn.bind_interdomain(guest.domid, port)
    guest.evtchn.bind_vcpu(port, 1)
    hv.dom0.evtchn.send(local)
    assert pending(guest, port)
    info = xen.vcpu_info.unpack(guest.shared_info, xen.VCPU_INFO_SIZE)
    assert (info.evtchn_upcall_pending, info.evtchn_pending_sel) == (1, 1 << port // 64)
    assert guest.shared_info[0] == 0


def test_close_leaves_the_other_end_unbound(hv, guest):
    """Closing one end makes the other end unbound for the closer's domain."""
    port = guest.evtchn.alloc_unbound(0)
    local = hv.dom0.evtchn.bind_interdomain(guest.domid, port)
    guest.evtchn.close(port)
    assert hv.dom0.evtchn.status(local) == {"status": abi.EVTCHNSTAT_unbound, "vcpu": 0, "remote_domid": guest.domid}
    assert guest.evtchn.status(port)["status"] == abi.EVTCHNSTAT_closed
    with pytest.raises(XenError):
        guest.evtchn.send(port)
