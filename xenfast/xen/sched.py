"""What runs when: vcpus, domain 0's event loop, and time.

Two schedulers with one interface.  In **real time** every vcpu has a thread of the host; the thread that called run()
is domain 0's, but a vcpu's thread also handles the events it has raised itself (eventloop.py). In **virtual time**
there is that one thread only: vcpus take turns by number, a quantum of instructions each, as on a machine with one
processor; domain 0 handles its events at the very exit that caused them; when every vcpu waits, the clock skips to what
is due next. Nothing there depends on the host's time, threads or hash order, so a run repeats to the bit.

No vcpu runs while nobody is in run(): a caller may look at the machine, and change it, between two calls.
"""

import enum
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xenfast.xen.credit import Credit
from xenfast.xen.time import NEVER
from xenfast.xen.vcpu import EXIT_BUDGET

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.hypervisor import Hypervisor
    from xenfast.xen.vcpu import Vcpu

log = logging.getLogger("xenfast")

REAL_SLICE = 20_000_000         # instructions a vcpu's thread runs before it looks around; the core watches the timer
TICK_SLICE = 500_000            # the same while the guest uses the periodic timer
VIRTUAL_QUANTUM = 100_000       # instructions (ns) a vcpu runs before the next one's turn
VIRTUAL_ALONE = 5_000_000       # the same while no other vcpu could run
VIRTUAL_STEPS = 10_000          # exits of a guest after which the host's clock is looked at whatever the time

Until = Callable[[], Any] | None


class StopReason(enum.StrEnum):
    """Why Hypervisor.run() returned."""

    UNTIL = "until"         # what was waited for has happened
    TIMEOUT = "timeout"
    ENDED = "ended"         # there were domains with vcpus, and none of them will ever run again
    IDLE = "idle"           # nothing can happen any more: everybody waits for somebody else (virtual time)


class Scheduler:
    """What both have in common."""

    def __init__(self, hypervisor: "Hypervisor") -> None:
        self.hypervisor = hypervisor
        self.lock = hypervisor.lock
        self.loop = hypervisor.loop
        self.clock = hypervisor.clock
        self.credit = Credit(os.cpu_count() or 1)

    def add(self, vcpu: "Vcpu") -> None:
        """A vcpu has come up."""

    def wake(self, vcpu: "Vcpu") -> None:
        """A vcpu may be runnable, or must stop."""

    def quiesce(self, domain: "Domain") -> None:
        """Return when no vcpu of a domain that has ended, or is paused, runs any more."""

    def pin(self, vcpu: "Vcpu", cpus: set[int] | None) -> None:
        """The vcpu runs on these processors of the host only; None: on all."""

    def set_share(self, domain: "Domain", weight: int | None, cap: int | None) -> None:
        """What the domain gets of the processors (credit.py)."""
        with self.lock:
            self.credit.set(domain, weight, cap)

    def forget(self, domain: "Domain") -> None:
        """The domain is gone."""
        with self.lock:
            self.credit.forget(domain)

    def close(self) -> None:
        """No more vcpus."""

    def run(self, until: Until, timeout: float | None, forever: bool = False) -> StopReason:
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """There are domains with vcpus, and all of them have shut down."""
        guests = [domain for domain in list(self.hypervisor.domains.values()) if domain.vcpus]
        return bool(guests) and not any(domain.is_running for domain in guests)

    @property
    def has_guests(self) -> bool:
        return any(domain.vcpus for domain in list(self.hypervisor.domains.values()))


class RealTimeScheduler(Scheduler):
    """A host thread per vcpu; it runs while somebody is in run() and the vcpu is runnable, and otherwise waits."""

    def __init__(self, hypervisor: "Hypervisor") -> None:
        super().__init__(hypervisor)
        self.going = False              # somebody is in run()
        self.closing = False
        self.stopped = threading.Condition(self.lock)       # a vcpu has left the guest
        self.conditions: dict[Vcpu, threading.Condition] = {}
        self.threads: dict[Vcpu, threading.Thread] = {}
        self.affinity: dict[Vcpu, set[int]] = {}
        self._until: Until = None
        self._met = False               # until() was true, or has failed
        self._failure: BaseException | None = None

    # --- the threads of the vcpus ------------------------------------------------------------------------------------
    def add(self, vcpu: "Vcpu") -> None:
        if vcpu in self.threads or self.closing:
            return
        self.conditions[vcpu] = threading.Condition(self.lock)
        name = f"d{vcpu.domain.domid}v{vcpu.vcpu_id}"
        thread = threading.Thread(target=self._vcpu_thread, args=(vcpu,), name=name, daemon=True)
        self.threads[vcpu] = thread
        thread.start()

    def wake(self, vcpu: "Vcpu") -> None:
        condition = self.conditions.get(vcpu)
        if condition is not None:
            with self.lock:
                condition.notify()

    def _vcpu_thread(self, vcpu: "Vcpu") -> None:
        loop, credit = self.loop, self.credit
        loop.deliverers.add(threading.get_ident())
        if vcpu in self.affinity:
            self._set_affinity(0, self.affinity[vcpu])
        try:
            while self._wait_runnable(vcpu):
                shared = credit.active
                began = time.thread_time_ns() if shared else 0
                try:
                    vcpu.run_slice(REAL_SLICE if vcpu.next_tick == NEVER and not shared else TICK_SLICE)
                    loop.deliver_events()
                finally:
                    with self.lock:
                        vcpu.in_guest = False
                        if shared:
                            credit.charge(vcpu, time.thread_time_ns() - began)
                            self._call_next(vcpu)
                        if not self.going or not vcpu.domain.may_run:
                            self.stopped.notify_all()
        except Exception:
            log.exception("%r: its thread failed: a bug of the hypervisor", vcpu)
            vcpu.domain.crash("the hypervisor failed", vcpu)
        finally:
            loop.deliverers.discard(threading.get_ident())
            with self.lock:
                if not self.closing:            # a host may see many domains come and go
                    self.threads.pop(vcpu, None)
                    self.conditions.pop(vcpu, None)

    def _wait_runnable(self, vcpu: "Vcpu") -> bool:
        """Wait until the vcpu may run; False when its domain is no more."""
        condition = self.conditions[vcpu]
        with self.lock:
            while True:
                if self.closing or not vcpu.domain.is_alive:
                    return False
                if not self.going:
                    condition.wait()
                elif vcpu.runnable:
                    wait = self.credit.admit(vcpu, self.clock.now()) if self.credit.active else None
                    if wait is None:
                        vcpu.in_guest = True
                        return True
                    vcpu.preempted()
                    condition.wait(wait)
                elif vcpu.blocked and vcpu.domain.may_run:
                    deadline, now = vcpu.deadline(), self.clock.now()
                    if deadline <= now:
                        vcpu.fire_timers(now)
                    else:
                        condition.wait(None if deadline == NEVER else min((deadline - now) / 1e9, 3600.0))
                else:
                    vcpu.preempted()            # paused
                    condition.wait()

    def _call_next(self, vcpu: "Vcpu") -> None:
        """A processor is free: whoever comes next may have it."""
        following = self.credit.next()
        if following is not None and following is not vcpu and following in self.conditions:
            self.conditions[following].notify()

    def set_share(self, domain: "Domain", weight: int | None, cap: int | None) -> None:
        super().set_share(domain, weight, cap)
        with self.lock:
            for vcpu in self.threads:
                vcpu.stop()                     # whoever runs or waits asks anew

    def pin(self, vcpu: "Vcpu", cpus: set[int] | None) -> None:
        with self.lock:
            self.affinity[vcpu] = cpus if cpus is not None else set(range(os.cpu_count() or 1))
            thread = self.threads.get(vcpu)
            if thread is not None and thread.native_id is not None:
                self._set_affinity(thread.native_id, self.affinity[vcpu])

    @staticmethod
    def _set_affinity(thread: int, cpus: set[int]) -> None:
        try:
            os.sched_setaffinity(thread, cpus)
        except (OSError, AttributeError) as error:      # not Linux, or the thread is just ending
            log.info("a vcpu stays where it is: %s", error)

    def forget(self, domain: "Domain") -> None:
        super().forget(domain)
        with self.lock:
            for vcpu in domain.vcpus:
                self.affinity.pop(vcpu, None)

    def quiesce(self, domain: "Domain") -> None:
        with self.lock:
            if threading.current_thread() not in self.threads.values():
                self.stopped.wait_for(lambda: not any(vcpu.in_guest for vcpu in domain.vcpus))
            for vcpu in domain.vcpus:
                self.wake(vcpu)

    def close(self) -> None:
        with self.lock:
            self.closing = True
            for vcpu in self.threads:
                vcpu.stop()
        for thread in self.threads.values():
            thread.join()
        self.threads.clear()
        self.conditions.clear()

    # --- the driver --------------------------------------------------------------------------------------------------
    def run(self, until: Until, timeout: float | None, forever: bool = False) -> StopReason:
        end = None if timeout is None else time.monotonic() + timeout
        self._until, self._met, self._failure = until, False, None
        self.loop.open()
        self.loop.after_batch = self._ask
        self._start()
        try:
            return self._drive(end, forever)
        finally:
            self._stop()
            self.loop.after_batch = None
            if self._failure is not None:
                raise self._failure

    def _start(self) -> None:
        with self.lock:
            self.going = True
            for condition in self.conditions.values():
                condition.notify()

    def _stop(self) -> None:
        """Every vcpu leaves the guest before run() returns."""
        with self.lock:
            self.going = False
            for vcpu in self.threads:
                if vcpu.in_guest and vcpu.core is not None:
                    vcpu.stop()
        self._wait_until_out()

    def _wait_until_out(self) -> None:
        with self.lock:
            self.stopped.wait_for(lambda: not any(vcpu.in_guest for vcpu in self.threads))

    def _ask(self) -> None:
        """Has what is waited for happened?  On whichever thread runs domain 0."""
        if self._until is None or self._met:
            return
        try:
            self._met = bool(self._until())
        except BaseException as e:
            self._failure, self._met = e, True
        if self._met:
            self.loop.wake()

    def _drive(self, end: float | None, forever: bool) -> StopReason:
        loop = self.loop
        while True:
            loop.run_ready()
            loop.exclusively(self._ask)
            if self._met:
                return StopReason.UNTIL
            if self.ended and not forever:
                self._wait_until_out()
                if loop.run_ready():            # what the last exits have queued
                    continue
                loop.exclusively(self._ask)
                return StopReason.UNTIL if self._met else StopReason.ENDED
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return StopReason.TIMEOUT
            if left is None and not forever and not self.has_guests and loop.next_deadline() is None and not loop.has_readers:
                return StopReason.IDLE
            loop.poll(left)


class VirtualTimeScheduler(Scheduler):
    """One thread; vcpus take turns by domain and number."""

    def __init__(self, hypervisor: "Hypervisor") -> None:
        super().__init__(hypervisor)
        self._last: tuple[int, int] = (-1, -1)      # (domid, vcpu) that ran last
        self._current: Vcpu | None = None
        self._woken = False             # another vcpu may have become runnable in this quantum
        self._steps = 0                 # exits and skips since the host's clock was looked at

    def add(self, vcpu: "Vcpu") -> None:
        self._woken = True

    def wake(self, vcpu: "Vcpu") -> None:
        self._woken = True

    def _vcpus(self) -> list["Vcpu"]:
        domains = self.hypervisor.domains
        return [vcpu for domid in sorted(domains) for vcpu in domains[domid].vcpus]

    def _next(self, vcpus: list["Vcpu"]) -> tuple["Vcpu | None", int]:
        """The runnable vcpu after the one that ran last, and its quantum."""
        runnable = [vcpu for vcpu in vcpus if vcpu.runnable]
        if not runnable:
            return None, 0
        after = (vcpu for vcpu in runnable if (vcpu.domain.domid, vcpu.vcpu_id) > self._last)
        return next(after, runnable[0]), VIRTUAL_QUANTUM if len(runnable) > 1 else VIRTUAL_ALONE

    def run(self, until: Until, timeout: float | None, forever: bool = False) -> StopReason:
        if forever:
            raise ValueError("virtual time passes only while somebody waits for something")
        end = None if timeout is None else time.monotonic() + timeout
        next_check = 0              # when to look at the host's clock and files again, in virtual time
        self.loop.run_ready()
        while True:
            if until is not None and until():
                return StopReason.UNTIL
            if self.ended:
                if not self.loop.run_ready():
                    return StopReason.ENDED
                continue
            if self.clock.now() >= next_check or self._steps >= VIRTUAL_STEPS:
                self._steps = 0
                next_check = self.clock.now() + VIRTUAL_ALONE
                if end is not None and time.monotonic() >= end:
                    return StopReason.TIMEOUT
                self.loop.poll(0)
            vcpus = self._vcpus()
            self._fire(vcpus)
            vcpu, quantum = self._next(vcpus)
            if vcpu is not None:
                self._quantum(vcpu, quantum, vcpus, until)
            elif not self._skip_idle(vcpus, end):
                return StopReason.TIMEOUT if end is not None and time.monotonic() >= end else StopReason.IDLE

    def _fire(self, vcpus: list["Vcpu"]) -> None:
        """Timers of waiting vcpus, and domain 0's, that are due now."""
        now = self.clock.now()
        for vcpu in vcpus:
            if vcpu.blocked and vcpu.domain.may_run and vcpu.deadline() <= now:
                vcpu.fire_timers(now)
        self.loop.run_ready()

    def _due(self, vcpus: list["Vcpu"]) -> int:
        """When the next timer of a waiting vcpu or of domain 0 is due."""
        due = min((vcpu.deadline() for vcpu in vcpus if vcpu.blocked and vcpu.domain.may_run), default=NEVER)
        timer = self.loop.next_deadline()
        return due if timer is None else min(due, timer)

    def _quantum(self, vcpu: "Vcpu", quantum: int, vcpus: list["Vcpu"], until: Until) -> None:
        """Let a vcpu run for its quantum, or until it waits, somebody's timer is due, or what is waited for has
        happened.
        """
        clock, loop = self.clock, self.loop
        if self._current is not vcpu:
            if self._current is not None:
                self._current.preempted()
            self._current = vcpu
            self._last = vcpu.domain.domid, vcpu.vcpu_id
        stop = clock.now() + quantum
        self._woken = False
        vcpu.tick(clock.now())
        due = min(self._due(vcpus), vcpu.next_tick)
        while True:
            left = min(stop, due) - clock.now()
            if left <= 0 or not vcpu.runnable:
                break
            reason = vcpu.run_slice(left)
            self._steps += 1
            if reason == EXIT_BUDGET or self._steps >= VIRTUAL_STEPS:       # used up, or SCHEDOP_yield
                break
            if self._woken:                     # no longer alone, perhaps
                self._woken = False
                stop = min(stop, clock.now() + VIRTUAL_QUANTUM)
            if loop.run_ready() and until is not None and until():
                break
            timer = loop.next_deadline()        # a device may have set one
            if timer is not None:
                due = min(due, timer)

    def _skip_idle(self, vcpus: list["Vcpu"], end: float | None) -> bool:
        """Nobody can run: let time pass until something is due.  False: nothing ever is."""
        self._steps += 1
        due = self._due(vcpus)
        if due != NEVER:
            self.clock.advance_to(due)          # type: ignore[attr-defined]
            return True
        if self.loop.has_readers:
            self.loop.poll(None if end is None else max(0.0, end - time.monotonic()))
            self.loop.run_ready()
            return end is None or time.monotonic() < end
        return False


def make_scheduler(hypervisor: "Hypervisor") -> Scheduler:
    return (VirtualTimeScheduler if hypervisor.clock.is_virtual else RealTimeScheduler)(hypervisor)
