"""Which vcpu runs when.  First version: drives domain 0's event loop only."""

import enum
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain
    from xenfast.xen.hypervisor import Hypervisor
    from xenfast.xen.vcpu import Vcpu


class StopReason(enum.StrEnum):
    """Why Hypervisor.run() returned."""

    UNTIL = "until"         # what was waited for has happened
    TIMEOUT = "timeout"
    ENDED = "ended"         # no domain with vcpus is left that could run
    IDLE = "idle"           # nothing can ever happen any more (virtual time)


class Scheduler:
    def __init__(self, hypervisor: "Hypervisor") -> None:
        self.hypervisor = hypervisor

    def wake(self, vcpu: "Vcpu") -> None:
        pass

    def quiesce(self, domain: "Domain") -> None:
        pass

    def close(self) -> None:
        pass

    def run(self, until: Callable[[], Any] | None, timeout: float | None) -> StopReason:
        loop = self.hypervisor.loop
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            loop.run_ready()
            if until is not None and until():
                return StopReason.UNTIL
            if end is not None and time.monotonic() >= end:
                return StopReason.TIMEOUT
            deadline = loop.next_deadline()
            if deadline is None and not loop.has_readers and end is None:
                return StopReason.IDLE
            if self.hypervisor.clock.is_virtual and deadline is not None:
                self.hypervisor.clock.advance_to(deadline)      # type: ignore[attr-defined]
            else:
                loop.poll(None if end is None else max(0, end - time.monotonic()))


def make_scheduler(hypervisor: "Hypervisor") -> Scheduler:
    return Scheduler(hypervisor)
