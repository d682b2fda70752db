"""The PS/2 mouse: three buttons, and after their knocks on the door the wheel (IntelliMouse) and two more buttons (Explorer).

Specified by IBM's PS/2 Hardware Interface Technical Reference (mouse) and Microsoft's description of the IntelliMouse ("knock" of sample
rates 200, 100, 80 and 200, 200, 80).  Movement is added up until the processor has taken the packet before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

ACK, RESEND, BAT_OK = 0xFA, 0xFE, 0xAA
STANDARD, INTELLIMOUSE, EXPLORER = 0, 3, 4      # device IDs
KNOCKS: dict[tuple[int, ...], int] = {(200, 100, 80): INTELLIMOUSE, (200, 200, 80): EXPLORER}
LEFT, RIGHT, MIDDLE, SIDE, EXTRA = range(5)     # buttons
SCALED = (0, 1, 1, 3, 6, 9)                     # 2:1 scaling of small movements


class Mouse:
    """``move(dx, dy, wheel)`` with y downward, ``button(number, down)``."""

    def __init__(self, changed: Callable[[], Any]) -> None:
        self.changed = changed
        self.queue: deque[int] = deque()
        self.reset()

    def reset(self) -> None:
        self.queue.clear()
        self.id = STANDARD
        self.rates: tuple[int, ...] = ()        # the last three that were set
        self.command = 0
        self.last = 0
        self.wrap = False
        self.buttons = self.sent_buttons = 0
        self.dx = self.dy = self.wheel = 0
        self._set_defaults()

    def _set_defaults(self) -> None:
        self.rate, self.resolution, self.double, self.remote, self.enabled = 100, 2, False, False, False

    # --- the hand ----------------------------------------------------------------------------------------------------
    def move(self, dx: int, dy: int, wheel: int = 0) -> None:
        """By so many dots; the wheel's clicks are positive downward."""
        limit = 1 << 16
        self.dx = max(-limit, min(self.dx + dx, limit))
        self.dy = max(-limit, min(self.dy - dy, limit))
        self.wheel = max(-128, min(self.wheel + wheel, 127))
        self._report()

    def button(self, number: int, down: bool) -> None:
        if self.buttons != self.sent_buttons and self.enabled and not self.remote and len(self.queue) < 64:
            self.queue.extend(self.packet())        # a click that is over soon is not to be lost
        self.buttons = self.buttons & ~(1 << number) | (1 << number if down else 0)
        self._report()

    def _report(self) -> None:
        if self.fill():
            self.changed()

    def fill(self) -> bool:
        """Put a packet into the queue, if the mouse may send one and the one before was taken; False: there is nothing."""
        news = self.dx or self.dy or (self.wheel and self.id) or self.buttons != self.sent_buttons
        if news and not self.queue and self.enabled and not self.remote:
            self.queue.extend(self.packet())
        return bool(self.queue)

    def packet(self) -> list[int]:
        """What has moved since the last one."""
        dx, dy = max(-255, min(self.dx, 255)), max(-255, min(self.dy, 255))
        self.dx -= dx
        self.dy -= dy
        if self.double and not self.remote:
            dx, dy = (_scale(dx), _scale(dy))
        self.sent_buttons = self.buttons
        out = [self.buttons & 7 | 8 | (0x10 if dx < 0 else 0) | (0x20 if dy < 0 else 0), dx & 0xFF, dy & 0xFF]
        if self.id == STANDARD:
            self.wheel = 0
            return out
        wheel = max(-8, min(self.wheel, 7))
        self.wheel -= wheel
        if self.id == INTELLIMOUSE:
            return [*out, wheel & 0xFF]
        return [*out, wheel & 15 | (self.buttons >> 3 & 3) << 4]

    # --- the wire ----------------------------------------------------------------------------------------------------
    def take(self) -> int:
        self.last = self.queue.popleft()
        return self.last

    def _send(self, *data: int) -> None:
        if len(self.queue) < 64:
            self.queue.extend(data)
        self.changed()

    def write(self, value: int) -> None:
        """A byte from the controller."""
        if self.wrap and value not in (0xFF, 0xEC):
            self._send(value)
            return
        command, self.command = self.command, 0
        if command == 0xF3:
            self.rate = value
            self.rates = (*self.rates[-2:], value)
            self.id = KNOCKS.get(self.rates, self.id) if self.id != EXPLORER else EXPLORER
            self._send(ACK)
        elif command == 0xE8:
            self.resolution = value & 3
            self._send(ACK)
        elif value in (0xF3, 0xE8):
            self.command = value
            self._send(ACK)
        elif value in COMMANDS:
            self.queue.clear()
            COMMANDS[value](self)
        else:
            self._send(RESEND)

    def _flag(self, name: str, value: bool) -> None:
        setattr(self, name, value)
        self._send(ACK)

    def _reset(self) -> None:
        self.reset()
        self._send(ACK, BAT_OK, self.id)

    def _defaults(self) -> None:
        self._set_defaults()
        self._send(ACK)

    def _enable(self) -> None:
        self.enabled = True
        self.dx = self.dy = self.wheel = 0
        self._send(ACK)

    def _status(self) -> None:
        buttons = (self.buttons & 1) << 2 | (self.buttons >> 2 & 1) << 1 | self.buttons >> 1 & 1
        self._send(ACK, self.remote << 6 | self.enabled << 5 | self.double << 4 | buttons, self.resolution, self.rate)

    # --- save, load --------------------------------------------------------------------------------------------------
    VALUES = ("id", "command", "last", "wrap", "buttons", "sent_buttons", "dx", "dy", "wheel", "rate", "resolution", "double", "remote",
              "enabled")

    def save(self) -> dict[str, Any]:
        state: dict[str, Any] = {name: getattr(self, name) for name in self.VALUES}
        return state | {"queue": list(self.queue), "rates": list(self.rates)}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.VALUES:
            setattr(self, name, state[name])
        self.rates = tuple(state["rates"])
        self.queue.clear()
        self.queue.extend(state["queue"])


def _scale(value: int) -> int:
    size = abs(value)
    scaled = SCALED[size] if size < len(SCALED) else min(2 * size, 255)
    return -scaled if value < 0 else scaled


COMMANDS: dict[int, Callable[[Mouse], None]] = {
    0xE6: lambda m: m._flag("double", False), 0xE7: lambda m: m._flag("double", True), 0xE9: Mouse._status,
    0xEA: lambda m: m._flag("remote", False), 0xEB: lambda m: m._send(ACK, *m.packet()), 0xEC: lambda m: m._flag("wrap", False),
    0xEE: lambda m: m._flag("wrap", True), 0xF0: lambda m: m._flag("remote", True), 0xF2: lambda m: m._send(ACK, m.id),
    0xF4: Mouse._enable, 0xF5: lambda m: m._flag("enabled", False), 0xF6: Mouse._defaults,
    0xFE: lambda m: m._send(m.last), 0xFF: Mouse._reset,
}   # fmt: skip
