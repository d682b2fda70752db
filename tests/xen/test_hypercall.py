"""Hypercalls that are answered in Python, made by a PV guest with real page tables."""

import logging
import struct

import pytest

from tests.xen.pvguest import DATA, PvGuest
from xenfast.abi import event_channel, features, memory, physdev, sched, vcpu, version, xen
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import VirtualClock

EPERM, ENOENT, ESRCH, ENOMEM, EACCES, EFAULT, EEXIST, EINVAL, ENOSYS, ETIME = (
    -1,
    -2,
    -3,
    -12,
    -13,
    -14,
    -17,
    -22,
    -38,
    -62,
)


@pytest.fixture
def hv():
    with Hypervisor(1, clock=VirtualClock()) as hv:
        yield hv


@pytest.fixture
def guest(hv):
    return PvGuest(hv, vcpus=2)


def test_unknown_hypercalls(guest, caplog):
    """A hypercall nobody knows is ENOSYS, and logged the first time with its arguments."""
    with caplog.at_level(logging.WARNING):
        assert guest.call(45, 0x123) == ENOSYS
        assert guest.call(45, 0x456) == ENOSYS
        assert guest.call("xen_version", 99) == ENOSYS
    assert [record.getMessage() for record in caplog.records] == [
        "domain 1: unknown hypercall 45(0x123, 0x0, 0x0, 0x0, 0x0, 0x0)",
        "domain 1: xen_version(0x63, 0x0): not known here",
    ]


@pytest.mark.parametrize("name", ["domctl", "sysctl", "platform_op", "kexec_op"])
def test_privileged_hypercalls(guest, name):
    """What controls the machine is for domain 0."""
    assert guest.call(name, guest.va(DATA)) == EPERM


def test_counters(guest):
    """Every hypercall is counted by name."""
    guest.call("xen_version", 0)
    guest.call("xen_version", version.XENVER_pagesize)
    guest.call("sched_op", sched.SCHEDOP_yield)
    assert guest.domain.hypercalls == {"xen_version": 2, "sched_op": 1}


# --- xen_version -----------------------------------------------------------------------------------------------------
def test_version(guest):
    """4.17 for x86-64 PV, pages of 4 KiB, and the features of a PV guest that is not domain 0."""
    assert guest.call("xen_version", version.XENVER_version) == 4 << 16 | 17
    assert guest.call("xen_version", version.XENVER_pagesize) == 4096
    assert guest.call("xen_version", version.XENVER_capabilities, guest.va(DATA)) == 0
    assert guest.read(guest.va(DATA), "1024s")[0].rstrip(b"\0").split()[0] == b"xen-3.0-x86_64"
    result, info = guest.op("xen_version", version.XENVER_get_features, version.feature_info)
    assert result == 0
    assert info.submap >> features.XENFEAT_mmu_pt_update_preserve_ad & 1
    assert not info.submap >> features.XENFEAT_dom0 & 1
    assert not info.submap >> features.XENFEAT_auto_translated_physmap & 1
    assert guest.op("xen_version", version.XENVER_get_features, version.feature_info, submap_idx=1)[0] == EINVAL


def test_bad_addresses(guest):
    """A buffer that is not mapped, or is Xen's, is EFAULT."""
    for address in (0, 0x1000, xen.HYPERVISOR_VIRT_START, guest.va(guest.n), 1 << 63, (1 << 64) - 1):
        assert guest.call("xen_version", version.XENVER_capabilities, address) == EFAULT
        assert guest.call("console_io", xen.CONSOLEIO_write, 10, address) == EFAULT


# --- console_io ------------------------------------------------------------------------------------------------------
def test_console_io(hv, guest):
    """Lines of a guest appear in the hypervisor's log when they are complete, and cannot steer a terminal."""
    guest.write(guest.va(DATA), b"hel")
    assert guest.call("console_io", xen.CONSOLEIO_write, 3, guest.va(DATA)) == 0
    guest.write(guest.va(DATA), b"lo \x1b[2Jworld\nrest")
    assert guest.call("console_io", xen.CONSOLEIO_write, 17, guest.va(DATA)) == 0
    assert list(hv.console.lines) == ["(XEN) (d1) hello ?[2Jworld"]
    guest.domain.shutdown(0)
    assert list(hv.console.lines)[1] == "(XEN) (d1) rest"


def test_long_calls_are_continued(hv, guest):
    """A call with a long list is made again by the guest, a batch at a time, and comes to the same result."""
    guest.write(guest.va(20), b"x" * 4095 + b"\n" + b"y" * 4095 + b"\n")
    assert guest.call("console_io", xen.CONSOLEIO_write, 8192, guest.va(20)) == 0
    assert guest.continued == 1
    assert "".join(hv.console.lines).count("y") == 4095
    at = guest.va(20)
    for i in range(20, 40):
        guest.write(guest.va(i), bytes(4096))
    assert (
        guest.op(
            "memory_op",
            memory.XENMEM_decrease_reservation,
            memory.reservation,
            extent_start=at,
            nr_extents=1 << 57,
            domid=xen.DOMID_SELF,
        )[0]
        == 0
    )  # frame 0 is Xen's
    guest.domain.max_pages = 0
    hv.memory.free(hv.memory.alloc(7, 10))
    result = guest.op(
        "memory_op", memory.XENMEM_increase_reservation, memory.reservation, nr_extents=5000, domid=xen.DOMID_SELF
    )[0]
    assert 0 < result < 5000 and hv.memory.free_pages == 0


# --- memory_op -------------------------------------------------------------------------------------------------------
def extents(guest, cmd, values, order=0, domid=xen.DOMID_SELF):
    at = guest.va(DATA, 2048)
    guest.write(at, struct.pack(f"<{len(values)}Q", *values))
    result, _ = guest.op(
        "memory_op", cmd, memory.reservation, extent_start=at, nr_extents=len(values), extent_order=order, domid=domid
    )
    return result, guest.read(at, f"<{len(values)}Q")


def test_populate_and_decrease(hv, guest):
    """populate_physmap gives frames and enters them in the M2P; decrease_reservation takes them back."""
    before = hv.memory.free_pages
    done, mfns = extents(guest, memory.XENMEM_populate_physmap, [1000, 1001])
    assert done == 2
    assert [int(hv.memory.m2p[mfn]) for mfn in mfns] == [1000, 1001]
    assert guest.domain.tot_pages == guest.n + 2
    assert extents(guest, memory.XENMEM_decrease_reservation, [mfns[0], 0xFFFFFF, mfns[1]])[0] == 1
    assert extents(guest, memory.XENMEM_decrease_reservation, [mfns[1], mfns[1]])[0] == 1
    assert hv.memory.free_pages == before
    assert guest.domain.tot_pages == guest.n


def test_a_domain_gets_no_more_than_its_maximum(guest):
    """populate_physmap stops at max_pages and says how far it came."""
    assert extents(guest, memory.XENMEM_populate_physmap, range(100, 120))[0] == 16


def test_xens_pages_cannot_be_given_back(hv, guest):
    """Shared info and grant table frames stay Xen's; a frame that is mapped is freed when its last use ends."""
    assert extents(guest, memory.XENMEM_decrease_reservation, [guest.domain.shared_info_mfn])[0] == 0
    assert extents(guest, memory.XENMEM_decrease_reservation, [guest.domain.gnttab.frames[0]])[0] == 0
    mfn = guest.mfn[10]
    assert extents(guest, memory.XENMEM_decrease_reservation, [mfn])[0] == 1
    assert hv.memory.owner(mfn) == guest.domain.domid  # its own page tables still map it
    assert guest.call("update_va_mapping", guest.va(10), 0, 0) == 0
    assert hv.memory.owner(mfn) is None


def test_other_domains_memory(hv, guest):
    """Reservations of other domains are EPERM, of none ESRCH; too large an order does nothing."""
    other = hv.create_domain("other")
    assert extents(guest, memory.XENMEM_populate_physmap, [1], domid=other.domid)[0] == EPERM
    assert extents(guest, memory.XENMEM_populate_physmap, [1], domid=77)[0] == ESRCH
    assert extents(guest, memory.XENMEM_populate_physmap, [1], order=10)[0] == 0


def test_exchange(hv, guest):
    """Single frames are exchanged for adjacent ones; frames in use are EINVAL."""
    give = [guest.mfn[-1], guest.mfn[-2]]
    at_in, at_out = guest.va(DATA, 2048), guest.va(DATA, 3072)
    guest.write(at_in, struct.pack("<2Q", *give))
    guest.write(at_out, struct.pack("<Q", 500))

    def reservation(address, n, order):
        return memory.reservation.pack(extent_start=address, nr_extents=n, extent_order=order, domid=xen.DOMID_SELF)

    result, after = guest.op(
        "memory_op",
        memory.XENMEM_exchange,
        memory.exchange,
        in_=reservation(at_in, 2, 0),
        out=reservation(at_out, 1, 1),
    )
    assert (result, after.nr_exchanged) == (0, 2)
    (first,) = guest.read(at_out)
    assert [hv.memory.owner(first + i) for i in range(2)] == [1, 1]
    assert [int(hv.memory.m2p[first + i]) for i in range(2)] == [500, 501]
    guest.write(at_in, struct.pack("<2Q", guest.mfn[10], guest.mfn[11]))
    result, after = guest.op(
        "memory_op",
        memory.XENMEM_exchange,
        memory.exchange,
        in_=reservation(at_in, 2, 0),
        out=reservation(at_out, 1, 1),
    )
    assert (result, after.nr_exchanged) == (EINVAL, 0)


def test_memory_questions(hv, guest):
    """Reservation, maximum, the size of the machine, where the M2P is; the E820 only when there is one."""
    at = guest.va(DATA)
    guest.write(at, struct.pack("<H", xen.DOMID_SELF))
    assert guest.call("memory_op", memory.XENMEM_current_reservation, at) == guest.n
    assert guest.call("memory_op", memory.XENMEM_maximum_reservation, at) == guest.n + 16
    assert guest.call("memory_op", memory.XENMEM_maximum_ram_page, 0) == hv.memory.frames - 1
    result, mapping = guest.op("memory_op", memory.XENMEM_machphys_mapping, memory.machphys_mapping)
    assert (result, mapping.v_start, mapping.max_mfn) == (0, hv.memory.m2p_start, hv.memory.frames - 1)
    assert guest.op("memory_op", memory.XENMEM_memory_map, memory.memory_map, nr_entries=4, buffer=at + 64)[0] == ENOSYS
    guest.domain.e820 = [(0, 0x30000, memory.E820_RAM)]
    result, answer = guest.op("memory_op", memory.XENMEM_memory_map, memory.memory_map, nr_entries=4, buffer=at + 64)
    assert (result, answer.nr_entries) == (0, 1)
    assert guest.read(at + 64, memory.E820_ENTRY) == (0, 0x30000, 1)
    assert guest.op("memory_op", memory.XENMEM_add_to_physmap, memory.add_to_physmap, domid=xen.DOMID_SELF)[0] == EACCES


# --- vcpu_op ---------------------------------------------------------------------------------------------------------
def test_starting_a_vcpu(guest):
    """VCPUOP_initialise and up start a second vcpu; a bad context or a second time is refused."""
    at = guest.va(guest.FREE)
    assert guest.call("vcpu_op", vcpu.VCPUOP_up, 1, 0) == EINVAL
    assert guest.call("vcpu_op", vcpu.VCPUOP_initialise, 1, 0) == EFAULT
    guest.write(at, guest.context(5)[:-8] + struct.pack("<Q", 1 << 62))  # gs_base_user is not canonical
    assert guest.call("vcpu_op", vcpu.VCPUOP_initialise, 1, at) == EINVAL
    guest.write(at, guest.context(5))
    assert guest.call("vcpu_op", vcpu.VCPUOP_is_up, 1, 0) == 0
    assert guest.call("vcpu_op", vcpu.VCPUOP_initialise, 1, at) == 0
    assert guest.call("vcpu_op", vcpu.VCPUOP_initialise, 1, at) == EEXIST
    assert guest.call("vcpu_op", vcpu.VCPUOP_up, 1, 0) == 0
    assert guest.call("vcpu_op", vcpu.VCPUOP_is_up, 1, 0) == 1
    assert guest.domain.vcpus[1].core.rip == guest.va(5)
    assert guest.call("vcpu_op", vcpu.VCPUOP_down, 1, 0) == 0
    assert guest.call("vcpu_op", vcpu.VCPUOP_is_up, 1, 0) == 0
    assert guest.call("vcpu_op", vcpu.VCPUOP_up, 2, 0) == ENOENT


def test_the_last_vcpu_down_ends_the_domain(guest):
    """VCPUOP_down of the only vcpu is a power-off."""
    assert guest.call("vcpu_op", vcpu.VCPUOP_down, 0, 0) == 0
    assert guest.domain.shutdown_code == sched.SHUTDOWN_poweroff


def test_register_vcpu_info(hv, guest):
    """The registered page holds the state from then on, with everything marked pending; once only, own plain memory
    only.
    """
    frame = guest.FREE
    at = guest.va(DATA)

    def register(mfn, offset, vcpu_id=0):
        guest.write(at, vcpu.register_vcpu_info.pack(mfn=mfn, offset=offset))
        return guest.call("vcpu_op", vcpu.VCPUOP_register_vcpu_info, vcpu_id, at)

    assert register(guest.mfn[3], 0) == EINVAL  # a page table
    assert register(1 << 40, 0) == EINVAL
    assert register(guest.mfn[frame], 4096 - 56) == EINVAL
    assert register(guest.mfn[frame], 128) == 0
    assert register(guest.mfn[frame], 192) == EINVAL
    assert guest.read(guest.va(frame, 128), "<BB")[0] == 1
    assert guest.read(guest.va(frame, 128 + 8)) == ((1 << 64) - 1,)
    time = xen.vcpu_time_info.unpack(guest.core.copy_from_guest(guest.va(frame, 128 + 32), 32))
    assert (time.version & 1, time.tsc_to_system_mul, time.tsc_shift) == (0, 0x80000000, 1)
    port = guest.domain.evtchn.bind_ipi(0)
    guest.domain.vcpus[0].info_view[0:16] = bytes(16)
    guest.domain.evtchn.send(port)
    assert guest.read(guest.va(frame, 128), "<B") == (1,)
    mfn_entry = guest.mfn[frame] << 12 | 0x21
    assert guest.call("update_va_mapping", guest.va(frame), mfn_entry, 0) == 0
    result = guest.op("mmuext_op", 0, xen.mmuext_op)  # the page cannot become a page table any more
    guest.write(at, xen.mmuext_op.pack(cmd=xen.MMUEXT_PIN_L1_TABLE, arg1=guest.mfn[frame]))
    assert guest.call("mmuext_op", at, 1, 0, xen.DOMID_SELF) < 0 and result


def test_timers(hv, guest):
    """One-shot timers set the deadline, a past one with the flag is ETIME, of another vcpu EINVAL; periods below 1 ms
    EINVAL.
    """
    at = guest.va(DATA)
    guest.write(at, vcpu.set_singleshot_timer.pack(timeout_abs_ns=5_000_000))
    assert guest.call("vcpu_op", vcpu.VCPUOP_set_singleshot_timer, 0, at) == 0
    assert guest.core.timer_deadline == 5_000_000
    assert guest.call("vcpu_op", vcpu.VCPUOP_set_singleshot_timer, 1, at) == EINVAL
    assert guest.call("vcpu_op", vcpu.VCPUOP_stop_singleshot_timer, 0, 0) == 0
    assert guest.core.timer_deadline is None
    hv.clock.advance_to(6_000_000)
    guest.write(at, vcpu.set_singleshot_timer.pack(timeout_abs_ns=5_000_000, flags=vcpu.VCPU_SSHOTTMR_future))
    assert guest.call("vcpu_op", vcpu.VCPUOP_set_singleshot_timer, 0, at) == ETIME
    guest.write(at, vcpu.set_periodic_timer.pack(period_ns=999_999))
    assert guest.call("vcpu_op", vcpu.VCPUOP_set_periodic_timer, 0, at) == EINVAL


def test_runstate(hv, guest):
    """The runstate says where the time went, by call and in the registered area."""
    at = guest.va(DATA)
    hv.clock.advance_to(hv.clock.now() + 1000)
    assert guest.call("vcpu_op", vcpu.VCPUOP_get_runstate_info, 0, at) == 0
    info = vcpu.runstate_info.unpack(guest.core.copy_from_guest(at, 48))
    assert info.state == vcpu.RUNSTATE_runnable
    assert sum(info.time) == hv.clock.now()
    area = guest.va(guest.FREE, 64)
    guest.write(at, struct.pack("<Q", area))
    assert guest.call("vcpu_op", vcpu.VCPUOP_register_runstate_memory_area, 0, at) == 0
    guest.vcpu.set_runstate(vcpu.RUNSTATE_running)
    guest.vcpu.update_runstate_area()
    assert vcpu.runstate_info.unpack(guest.core.copy_from_guest(area, 48)).state == vcpu.RUNSTATE_running
    guest.write(at, struct.pack("<Q", 0x1000))
    assert guest.call("vcpu_op", vcpu.VCPUOP_register_runstate_memory_area, 0, at) == EFAULT


# --- sched_op, physdev_op, others ------------------------------------------------------------------------------------
def test_nmi(hv, guest):
    """VCPUOP_send_nmi runs the handler registered by nmi_op or callback_op, and nothing when there is none."""
    guest.code(b"\xeb\xfe")  # jmp .
    assert guest.call("vcpu_op", vcpu.VCPUOP_send_nmi, 0, 1) == EINVAL
    assert guest.call("vcpu_op", vcpu.VCPUOP_send_nmi, 0, 0) == 0
    guest.vcpu.run_slice(10)
    assert guest.core.rip == guest.va(5)
    handler = guest.va(guest.FREE)
    hv.memory.view(guest.mfn[guest.FREE])[:2] = b"\xeb\xfe"
    guest.write(guest.va(DATA), struct.pack("<QQ", handler, 0))
    assert guest.call("nmi_op", 0, guest.va(DATA)) == 0
    assert guest.call("vcpu_op", vcpu.VCPUOP_send_nmi, 0, 0) == 0
    guest.vcpu.run_slice(10)
    assert guest.core.rip == handler
    assert guest.read(guest.core.rsp + 16)[0] == guest.va(5)  # RCX and R11 come first in a bounce frame


def test_shutdown(guest):
    """A reason that does not exist is EINVAL; a known one ends the domain; of other domains EPERM."""
    assert guest.op("sched_op", sched.SCHEDOP_shutdown, sched.shutdown, reason=9)[0] == EINVAL
    assert guest.op("sched_op", sched.SCHEDOP_remote_shutdown, sched.remote_shutdown, domain_id=0, reason=0)[0] == EPERM
    assert guest.op("sched_op", sched.SCHEDOP_remote_shutdown, sched.remote_shutdown, domain_id=9, reason=0)[0] == ESRCH
    assert guest.domain.shutdown_code is None
    assert guest.op("sched_op", sched.SCHEDOP_shutdown, sched.shutdown, reason=sched.SHUTDOWN_reboot)[0] == 0
    assert guest.domain.shutdown_code == sched.SHUTDOWN_reboot


def test_watchdog(hv, guest):
    """Two watchdogs at most; one that is not poked ends the domain."""

    def watchdog(id, timeout):
        return guest.op("sched_op", sched.SCHEDOP_watchdog, sched.watchdog, id=id, timeout=timeout)[0]

    assert [watchdog(0, 5), watchdog(0, 10), watchdog(0, 5)] == [1, 2, -28]
    assert [watchdog(1, 0), watchdog(1, 0), watchdog(3, 1)] == [0, EINVAL, EINVAL]
    hv.clock.advance_to(11 * 10**9)
    hv.loop.run_ready()
    assert guest.domain.shutdown_code == sched.SHUTDOWN_watchdog


def test_physdev_and_hvm(guest):
    """A domU has no devices: IOPL may be set, the rest is EPERM, EINVAL or ENOSYS; HVM parameters are not a PV
    guest's.
    """
    assert guest.op("physdev_op", physdev.PHYSDEVOP_set_iopl, physdev.set_iopl, iopl=1)[0] == 0
    assert guest.core.iopl == 1
    assert guest.op("physdev_op", physdev.PHYSDEVOP_set_iopl, physdev.set_iopl, iopl=4)[0] == EINVAL
    assert guest.op("physdev_op", physdev.PHYSDEVOP_eoi, physdev.eoi, irq=1)[0] == EINVAL
    assert guest.call("physdev_op", physdev.PHYSDEVOP_map_pirq, guest.va(DATA)) == EPERM
    assert guest.call("physdev_op", 99, guest.va(DATA)) == ENOSYS
    guest.write(guest.va(DATA), struct.pack("<H", xen.DOMID_SELF))
    assert guest.call("hvm_op", 1, guest.va(DATA)) == EINVAL
    assert guest.call("hvm_op", 9, guest.va(DATA)) == ENOSYS


# --- event_channel_op ------------------------------------------------------------------------------------------------
def test_event_channel_ports(hv, guest):
    """Ports are given by the lowest free number; limits, other domains and closed ports are refused."""
    op = event_channel
    result, args = guest.op(
        "event_channel_op", op.EVTCHNOP_alloc_unbound, op.alloc_unbound, dom=xen.DOMID_SELF, remote_dom=0
    )
    assert (result, args.port) == (0, 1)
    assert guest.op("event_channel_op", op.EVTCHNOP_alloc_unbound, op.alloc_unbound, dom=0)[0] == EPERM
    assert guest.op("event_channel_op", op.EVTCHNOP_alloc_unbound, op.alloc_unbound, dom=55)[0] == ESRCH
    assert guest.op("event_channel_op", op.EVTCHNOP_bind_virq, op.bind_virq, virq=xen.VIRQ_TIMER, vcpu=7)[0] == ENOENT
    assert guest.op("event_channel_op", op.EVTCHNOP_bind_virq, op.bind_virq, virq=24)[0] == EINVAL
    result, args = guest.op("event_channel_op", op.EVTCHNOP_bind_virq, op.bind_virq, virq=xen.VIRQ_TIMER, vcpu=1)
    assert (result, args.port) == (0, 2)
    assert guest.op("event_channel_op", op.EVTCHNOP_bind_virq, op.bind_virq, virq=xen.VIRQ_TIMER, vcpu=1)[0] == EEXIST
    result, status = guest.op("event_channel_op", op.EVTCHNOP_status, op.status, dom=xen.DOMID_SELF, port=2)
    assert (result, status.status, status.vcpu, status.u0) == (0, op.EVTCHNSTAT_virq, 1, xen.VIRQ_TIMER)
    assert guest.op("event_channel_op", op.EVTCHNOP_close, op.close, port=1)[0] == 0
    assert guest.op("event_channel_op", op.EVTCHNOP_close, op.close, port=1)[0] == EINVAL
    assert guest.op("event_channel_op", op.EVTCHNOP_bind_ipi, op.bind_ipi, vcpu=1)[1].port == 1
    assert guest.op("event_channel_op", op.EVTCHNOP_send, op.send, port=2)[0] == EINVAL  # a virq
    assert (
        guest.op("event_channel_op", op.EVTCHNOP_bind_interdomain, op.bind_interdomain, remote_dom=0, remote_port=9)[0]
        == EINVAL
    )
    assert guest.op("event_channel_op", op.EVTCHNOP_bind_pirq, op.bind_pirq, pirq=1)[0] == EPERM


def test_a_port_whose_number_cannot_be_told_is_closed_again(guest):
    """When the answer cannot be written, no port stays open."""
    at = guest.va(DATA)
    guest.write(at, event_channel.bind_ipi.pack(vcpu=0))
    assert guest.call("update_va_mapping", at, guest.mfn[DATA] << 12 | 0x21, 2) == 0  # read-only from now on
    assert guest.call("event_channel_op", event_channel.EVTCHNOP_bind_ipi, at) == EFAULT
    assert guest.domain.evtchn.channels[1:] == [None]
