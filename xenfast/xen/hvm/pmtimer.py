"""The ACPI power management timer: 3.579545 MHz, 32 bits wide; and TMR_STS, which its highest bit sets when it changes.

ACPI specification 6.4, 4.8.2.1 (registers) and 4.8.1.4 (timer).  TMR_STS is computed when it is read; there is a timer of the machine only
while TMR_EN is set.
"""

from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.timers import Timers

FREQUENCY, SECOND = 3_579_545, 10**9
HALF = 1 << 31


class PmTimer:
    """``changed()`` is called when the highest bit has changed while ``enabled``."""

    def __init__(self, timers: Timers, changed: Callable[[], Any]) -> None:
        self.timers, self.changed = timers, changed
        self._event: Any = None
        self.origin = timers.now()
        self.reset()

    def reset(self) -> None:
        self.enabled = False
        self._seen = self._passed()
        self._arm()

    def _passed(self) -> int:
        return (self.timers.now() - self.origin) * FREQUENCY // SECOND

    def read(self) -> int:
        """TMR_VAL."""
        return self._passed() & 0xFFFFFFFF

    def carried(self) -> bool:
        """Has the highest bit changed since this was asked last?"""
        now = self._passed()
        crossed, self._seen = now // HALF != self._seen // HALF, now
        return crossed

    def enable(self, on: bool) -> None:
        if on != self.enabled:
            self.enabled = on
            self._arm()

    def _arm(self) -> None:
        if self._event is not None:
            self._event.cancel()
            self._event = None
        if self.enabled:
            clocks = (self._passed() // HALF + 1) * HALF
            self._event = self.timers.call_at(self.origin + -(-clocks * SECOND // FREQUENCY), self._fire)

    def _fire(self) -> None:
        self._event = None
        self._arm()
        self.changed()

    def save(self) -> dict[str, Any]:
        return {"passed": self._passed(), "seen": self._seen}

    def load(self, state: dict[str, Any]) -> None:
        self.origin = self.timers.now() - -(-state["passed"] * SECOND // FREQUENCY)
        self._seen = state["seen"]
        self._arm()
