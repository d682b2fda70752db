"""Ticks: what the periodic timers of PIT, RTC and HPET have in common, named after Xen's vpt.c.

A tick is a call at a moment of the machine's clock.  Where the host is late, ticks are missed, and ``timer_mode`` of xl.cfg(5) says
what becomes of them: they come later, in quick succession (``delay_for_missed_ticks``, ``no_delay_for_missed_ticks``: the same
here, as guest time does not stop), none does, or one.  Ticks are never closer than ``CLOSEST``, whatever the guest asks for; so
no guest keeps the host busy with them.
"""

from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.timers import Timers

DELAY_FOR_MISSED_TICKS, NO_DELAY_FOR_MISSED_TICKS, NO_MISSED_TICKS_PENDING, ONE_MISSED_TICK_PENDING = range(4)

CLOSEST = 100_000               # ns
MOST_MISSED = 1000              # ticks that are made up for; a host that has slept longer is not caught up with


class Ticks:
    """Calls ``tick()`` once, or at each multiple of a period of ``numerator / denominator`` ns after an origin."""

    def __init__(self, timers: Timers, tick: Callable[[], Any], mode: int = NO_DELAY_FOR_MISSED_TICKS) -> None:
        self.timers, self.tick, self.mode = timers, tick, mode
        self._timer: Any = None
        self._periodic = False
        self._origin = self._n = 0
        self._numerator = self._denominator = 1

    @property
    def running(self) -> bool:
        return self._timer is not None

    def once(self, deadline: int) -> None:
        self.stop()
        self._periodic = False
        self._timer = self.timers.call_at(deadline, self._fire)

    def every(self, origin: int, numerator: int, denominator: int = 1) -> None:
        """From the first multiple after now on."""
        self.stop()
        self._periodic = True
        self._origin, self._numerator, self._denominator = origin, max(numerator, denominator), denominator
        self._n = self._due(self.timers.now()) + 1
        self._timer = self.timers.call_at(self._moment(self._n), self._fire)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self, now: int) -> int:
        """How many multiples have passed."""
        return max(0, (now - self._origin) * self._denominator // self._numerator)

    def _moment(self, n: int) -> int:
        return self._origin + -(-n * self._numerator // self._denominator)

    def _fire(self) -> None:
        self._timer = None
        if self._periodic:
            self._again()
        self.tick()             # which may stop or change it

    def _again(self) -> None:
        now = self.timers.now()
        due = self._due(now)
        missed = due - self._n
        keep = 0 if self.mode == NO_MISSED_TICKS_PENDING else 1 if self.mode == ONE_MISSED_TICK_PENDING else MOST_MISSED
        period = self._numerator // self._denominator
        if missed <= 0 or keep == 0 or period < CLOSEST:
            self._n = max(due, self._n) + 1
            at = self._moment(self._n)
            if at < now + CLOSEST:
                self._n = self._due(now + CLOSEST) + 1
                at = self._moment(self._n)
        else:
            self._n = max(self._n, due - keep) + 1
            at = max(self._moment(self._n), now + max(CLOSEST, period // 8))
        self._timer = self.timers.call_at(at, self._fire)
