"""Time for chips and devices: the machine's clock, and calls at a moment of it with the hypervisor's lock held.

Everything of a device model runs under that one lock: accesses of vcpus, timers, input that arrives.  So a device needs no lock
of its own.
"""

from collections.abc import Callable
from typing import Any

from xenfast.xen.eventloop import EventLoop, Timer


class Timers:
    """``now()`` and ``call_at`` are in ns of the machine's clock, which may be virtual."""

    def __init__(self, loop: EventLoop, lock: Any) -> None:
        self.loop, self.lock = loop, lock
        self.now: Callable[[], int] = loop.clock.now
        self.closed = False

    def close(self) -> None:
        """The machine is gone: nothing is called any more."""
        self.closed = True

    def call_at(self, deadline: int, callback: Callable[..., Any], *args: Any) -> Timer:
        return self.loop.call_at(deadline, self._locked, callback, *args)

    def call_later(self, delay: int, callback: Callable[..., Any], *args: Any) -> Timer:
        return self.call_at(self.now() + delay, callback, *args)

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        """Soon, but not inside this call; from any thread."""
        self.loop.call_soon(self._locked, callback, *args)

    def _locked(self, callback: Callable[..., Any], *args: Any) -> None:
        with self.lock:
            if not self.closed:
                callback(*args)
