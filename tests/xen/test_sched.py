"""Scheduling: blocking, timers, polling, and how a machine comes to its end, in real and in virtual time."""

import struct
import threading
import time

import pytest

from tests.fakes import FakeCore, FakeHypervisor, start
from xenfast.abi import event_channel, sched, xen
from xenfast.xen.sched import StopReason
from xenfast.xen.time import Clock, VirtualClock
from xenfast.xen.vcpu import EXIT_CRASH

SCHED_OP = xen.__HYPERVISOR_sched_op
EVTCHN_OP = xen.__HYPERVISOR_event_channel_op
A = FakeCore.BASE


@pytest.fixture(params=[VirtualClock, Clock], ids=["virtual", "real"])
def hv(request):
    with FakeHypervisor(request.param()) as hv:
        yield hv


@pytest.fixture
def virtual():
    with FakeHypervisor(VirtualClock()) as hv:
        yield hv


def shutdown(core, reason):
    core.copy_to_guest(A, struct.pack("<I", reason))
    return SCHED_OP, sched.SCHEDOP_shutdown, A


def acknowledge(domain, vcpu_id):
    """What a guest's upcall does, roughly: nothing is pending for the vcpu any more."""
    domain.shared_info[xen.SHARED_PENDING] = 0
    domain.shared_info[64 * vcpu_id : 64 * vcpu_id + 16] = bytes(16)


def test_a_guest_that_ends(hv):
    """SCHEDOP_shutdown ends run(), and the reason is the domain's shutdown code."""
    domain = hv.create_domain("ends")
    codes = []
    domain.on_shutdown.append(lambda domain, code: codes.append(code))

    def program(core):
        yield "work", 1000
        yield shutdown(core, sched.SHUTDOWN_reboot)

    start(domain, program)
    assert hv.run(timeout=10) == StopReason.ENDED
    assert domain.shutdown_code == sched.SHUTDOWN_reboot
    assert codes == [sched.SHUTDOWN_reboot]
    assert domain.hypercalls == {"sched_op": 1}


def test_a_timer_wakes_a_blocked_vcpu(hv):
    """A blocked vcpu runs again when its timer is due, with VIRQ_TIMER pending."""
    domain = hv.create_domain("sleeps")
    seen = []

    def program(core):
        core.copy_to_guest(A, event_channel.bind_virq.pack(virq=xen.VIRQ_TIMER, vcpu=0))
        assert (yield EVTCHN_OP, event_channel.EVTCHNOP_bind_virq, A) == 0
        port = event_channel.bind_virq.unpack(core.ram).port
        core.timer_deadline = hv.clock.now() + 2_000_000
        begin = hv.clock.now()
        yield SCHED_OP, sched.SCHEDOP_block
        seen.append(hv.clock.now() - begin)
        seen.append(domain.shared_info[xen.SHARED_PENDING] >> port & 1)
        yield shutdown(core, 0)

    start(domain, program)
    assert hv.run(timeout=10) == StopReason.ENDED
    assert seen[0] >= 2_000_000
    assert seen[1] == 1


def test_the_periodic_timer(hv):
    """A vcpu that runs gets VIRQ_TIMER every period."""
    domain = hv.create_domain("ticks")
    port = domain.evtchn.bind_virq(xen.VIRQ_TIMER)
    ticks = []

    def program(core):
        domain.vcpus[0].set_period(1_000_000)
        while len(ticks) < 3:
            yield "work", 1000
            if domain.shared_info[xen.SHARED_PENDING] >> port & 1:
                acknowledge(domain, 0)
                ticks.append(hv.clock.now())
        yield shutdown(core, 0)

    start(domain, program)
    assert hv.run(timeout=10) == StopReason.ENDED
    assert ticks[2] - ticks[0] >= 1_900_000


def test_domain_0_answers_a_blocked_guest(hv):
    """A guest that sends an event and blocks is woken by domain 0's answer."""
    domain = hv.create_domain("asks")
    port = domain.evtchn.alloc_unbound(0)
    local = hv.dom0.evtchn.bind_interdomain(domain.domid, port)
    hv.dom0.evtchn.on_event(local, hv.dom0.evtchn.send)
    hv.loop.run_ready()
    acknowledge(domain, 0)
    answers = []

    def program(core):
        core.copy_to_guest(A, struct.pack("<I", port))
        for _ in range(3):
            domain.shared_info[1] = 1
            yield EVTCHN_OP, event_channel.EVTCHNOP_send, A
            yield SCHED_OP, sched.SCHEDOP_block
            answers.append(domain.shared_info[xen.SHARED_PENDING] >> port & 1)
            acknowledge(domain, 0)
        yield shutdown(core, 0)

    start(domain, program)
    assert hv.run(timeout=10) == StopReason.ENDED
    assert answers == [1, 1, 1]


def test_poll_ends_with_its_port_or_its_time(hv):
    """SCHEDOP_poll returns at once for a pending port, at its timeout otherwise, and EINVAL for a port that is not
    open.
    """
    domain = hv.create_domain("polls", vcpus=2)
    port = domain.evtchn.bind_ipi(1)
    results = []

    def poll(core, port, timeout):
        core.copy_to_guest(A + 64, struct.pack("<I", port))
        core.copy_to_guest(A, sched.poll.pack(ports=A + 64, nr_ports=1, timeout=timeout))
        return SCHED_OP, sched.SCHEDOP_poll, A

    def program(core):
        results.append((yield poll(core, 77, 0)))
        begin = hv.clock.now()
        results.append((yield poll(core, port, begin + 1_000_000)))
        results.append(hv.clock.now() - begin >= 1_000_000)
        domain.evtchn.send(port)
        results.append((yield poll(core, port, 0)))
        yield shutdown(core, 0)

    start(domain, program)
    assert hv.run(timeout=10) == StopReason.ENDED
    assert results == [-22, 0, True, 0]
    assert domain.pollers == 0


def test_a_crash_is_told_and_the_host_goes_on(hv):
    """A domain that crashes leaves a register dump in the log; another one runs on."""
    bad, good = hv.create_domain("bad"), hv.create_domain("good")

    def crash(core):
        yield "work", 10
        yield "exit", EXIT_CRASH

    def end(core):
        yield "work", 500_000
        yield shutdown(core, 0)

    start(bad, crash)
    start(good, end)
    assert hv.run(timeout=10) == StopReason.ENDED
    assert (bad.shutdown_code, good.shutdown_code) == (sched.SHUTDOWN_crash, sched.SHUTDOWN_poweroff)
    assert "rip: 0000000000001234" in bad.crash_dump
    assert any(f"Domain {bad.domid} (bad) crashed" in line for line in hv.console.lines)


def test_a_spinning_guest_can_be_stopped(hv):
    """A guest that never leaves its loop neither outlives a timeout nor its domain's end."""
    domain = hv.create_domain("spins")

    def spin(core):
        while True:
            yield "work", 1000

    start(domain, spin)
    assert hv.run(timeout=0.02) == StopReason.TIMEOUT
    assert not domain.vcpus[0].in_guest
    domain.destroy()
    assert domain.domid not in hv.domains
    assert hv.memory.free_pages == 256 - len(hv.dom0.xen_pages)


def test_nothing_runs_outside_run():
    """In real time, no vcpu is in the guest once run() has returned."""
    with FakeHypervisor(Clock()) as hv:
        domain = hv.create_domain("counts")
        count = [0]

        def spin(core):
            while True:
                count[0] += 1
                yield "work", 100

        start(domain, spin)
        hv.run(timeout=0.01)
        before = count[0]
        time.sleep(0.005)
        assert before > 0 and count[0] == before
        hv.run(timeout=0.01)
        assert count[0] > before


def test_until_is_asked_after_domain_0s_events(virtual):
    """run(until=...) ends at the event that makes it true."""
    hv, domain = virtual, virtual.create_domain("sends")
    port = domain.evtchn.alloc_unbound(0)
    local = hv.dom0.evtchn.bind_interdomain(domain.domid, port)
    got = []
    hv.dom0.evtchn.on_event(local, got.append)
    hv.loop.run_ready()
    got.clear()

    def program(core):
        core.copy_to_guest(A, struct.pack("<I", port))
        while True:
            yield "work", 5000
            yield EVTCHN_OP, event_channel.EVTCHNOP_send, A

    start(domain, program)
    assert hv.run(until=lambda: len(got) == 3) == StopReason.UNTIL
    assert hv.clock.now() == 15_000


def test_everybody_waits(virtual):
    """In virtual time a machine in which nothing can happen any more is told as idle."""
    domain = virtual.create_domain("waits")

    def program(core):
        yield SCHED_OP, sched.SCHEDOP_block

    start(domain, program)
    assert virtual.run(timeout=10) == StopReason.IDLE


def test_virtual_time_repeats():
    """Two runs of the same guests in virtual time take every step at the same time."""

    def trace():
        steps = []
        with FakeHypervisor(VirtualClock()) as hv:
            domain = hv.create_domain("repeats", vcpus=3)
            ports = [domain.evtchn.bind_ipi(i) for i in range(3)]
            for i in range(3):
                domain.evtchn.bind_virq(xen.VIRQ_TIMER, i)

            def program(number):
                def run(core):
                    for i in range(40):
                        yield "work", 30_000 + 7919 * (i * (number + 3) % 13)
                        steps.append((number, i, hv.clock.now()))
                        core.copy_to_guest(A, struct.pack("<I", ports[(number + 1) % 3]))
                        yield EVTCHN_OP, event_channel.EVTCHNOP_send, A
                        core.timer_deadline = hv.clock.now() + 50_000
                        yield SCHED_OP, sched.SCHEDOP_block
                        acknowledge(domain, number)
                    yield SCHED_OP, sched.SCHEDOP_yield

                return run

            for i in range(3):
                start(domain, program(i), i)
            hv.run(timeout=20)
            steps.append(hv.clock.now())
        return steps

    first = trace()
    assert len(first) == 121
    assert trace() == first


def test_other_threads_reach_the_loop():
    """call_soon() from another thread wakes run() in real time."""
    with FakeHypervisor(Clock()) as hv:
        domain = hv.create_domain("idle")
        start(domain, lambda core: (step for step in [("hlt",)]))
        called = []
        thread = threading.Timer(0.005, hv.loop.call_soon, (called.append, 1))
        thread.start()
        assert hv.run(until=lambda: called, timeout=10) == StopReason.UNTIL
        thread.join()


def test_until_may_fail(hv):
    """An exception of until() comes out of run(), whichever thread asked, and the machine can run on."""
    domain = hv.create_domain("sends")
    port = domain.evtchn.alloc_unbound(0)
    local = hv.dom0.evtchn.bind_interdomain(domain.domid, port)
    got = []
    hv.dom0.evtchn.on_event(local, got.append)
    hv.loop.run_ready()
    got.clear()

    def program(core):
        core.copy_to_guest(A, struct.pack("<I", port))
        for _ in range(20):
            yield "work", 1000
            yield EVTCHN_OP, event_channel.EVTCHNOP_send, A
        yield shutdown(core, 0)

    def until():
        if len(got) == 3:
            raise RuntimeError("three")

    start(domain, program)
    with pytest.raises(RuntimeError, match="three"):
        hv.run(until=until, timeout=10)
    got.append(None)
    assert hv.run(timeout=10) == StopReason.ENDED


def test_domain_0_does_one_thing_at_a_time():
    """In real time, handlers of ports raised by several vcpus, calls and until() never overlap."""
    with FakeHypervisor(Clock()) as hv:
        domain = hv.create_domain("many", vcpus=4)
        inside, overlaps, ended = [0], [0], []

        def enter(*_):
            inside[0] += 1
            overlaps[0] += inside[0] > 1
            time.sleep(0)
            inside[0] -= 1

        def program(port):
            def run(core):
                core.copy_to_guest(A, struct.pack("<I", port))
                for _ in range(100):
                    yield EVTCHN_OP, event_channel.EVTCHNOP_send, A
                    hv.loop.call_soon(enter)
                hv.loop.call_soon(ended.append, port)

            return run

        for i in range(4):
            port = domain.evtchn.alloc_unbound(0)
            hv.dom0.evtchn.on_event(hv.dom0.evtchn.bind_interdomain(domain.domid, port), enter)
            start(domain, program(port), i)
        assert hv.run(until=lambda: enter() or len(ended) == 4, timeout=10) == StopReason.UNTIL
        assert overlaps == [0]
        assert not hv.loop._events
