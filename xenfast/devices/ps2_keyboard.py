"""The PS/2 keyboard: 102 keys, scan code sets 1 to 3, commands.

Specified by IBM's PS/2 Hardware Interface Technical Reference (keyboards, 101- and 102-key).  A key is known here by its number: its code
in set 1, with bit 7 for those that set 1 prefixes with E0h (RFB's extended key events use the same numbers).

Left out: repetition of its own: whoever presses the key says so again while it is held (VNC clients do), so a late release on the
network repeats nothing; the made-up shifts around grey keys.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

QUEUE = 16                      # bytes of scan codes that a keyboard keeps
ACK, RESEND, BAT_OK, OVERRUN = 0xFA, 0xFE, 0xAA, {1: 0xFF, 2: 0x00, 3: 0x00}
ID = (0xAB, 0x83)
E0, E1, RELEASE = 0xE0, 0xE1, 0xF0
DEFAULT_RATE = 0x2B             # 500 ms, 10.9 a second

# Numbers of keys that are not plain codes
PRINT_SCREEN, SYSRQ, PAUSE = 0xB7, 0x54, 0xC6
LEFT_CTRL, RIGHT_CTRL, LEFT_SHIFT, RIGHT_SHIFT, LEFT_ALT, RIGHT_ALT = 0x1D, 0x9D, 0x2A, 0x36, 0x38, 0xB8

# What the controller makes of set 2, for codes 00h to 7Fh; then 83h and 84h; others stay as they are
SET2_TO_SET1 = bytearray(range(256))
SET2_TO_SET1[:128] = bytes.fromhex(
    "FF 43 41 3F 3D 3B 3C 58 64 44 42 40 3E 0F 29 59 65 38 2A 70 1D 10 02 5A 66 71 2C 1F 1E 11 03 5B"
    "67 2E 2D 20 12 05 04 5C 68 39 2F 21 14 13 06 5D 69 31 30 23 22 15 07 5E 6A 72 32 24 16 08 09 5F"
    "6B 33 25 17 18 0B 0A 60 6C 34 35 26 27 19 0C 61 6D 73 28 74 1A 0D 62 6E 3A 36 1C 1B 75 2B 63 76"
    "55 56 77 78 79 7A 0E 7B 7C 4F 7D 4B 47 7E 7F 6F 52 53 50 4C 4D 48 01 45 57 4E 51 4A 37 49 46 54"
)
SET2_TO_SET1[0x83], SET2_TO_SET1[0x84] = 0x41, 0x54
SET2 = {code1: code2 for code2, code1 in enumerate(SET2_TO_SET1[:0x85]) if code1 < 0x80}

# Set 3: key -> code (keys that set 1 gives plain codes 01h to 58h, then the others)
SET3 = dict(enumerate(bytes.fromhex(
    "00 08 16 1E 26 25 2E 36 3D 3E 46 45 4E 55 66 0D 15 1D 24 2D 2C 35 3C 43 44 4D 54 5B 5A 11 1C 1B"
    "23 2B 34 33 3B 42 4B 4C 52 0E 12 5C 1A 22 21 2A 32 31 3A 41 49 4A 59 7E 19 29 14 07 0F 17 1F 27"
    "2F 37 3F 47 4F 76 5F 6C 75 7D 84 6B 73 74 7C 69 72 7A 70 71 57 00 13 56 5E"
)))
SET3 |= {
    0x9C: 0x79, 0x9D: 0x58, 0xB5: 0x77, PRINT_SCREEN: 0x57, 0xB8: 0x39, PAUSE: 0x62, 0xC7: 0x6E, 0xC8: 0x63, 0xC9: 0x6F, 0xCB: 0x61,
    0xCD: 0x6A, 0xCF: 0x65, 0xD0: 0x60, 0xD1: 0x6D, 0xD2: 0x67, 0xD3: 0x64, 0xDB: 0x8B, 0xDC: 0x8C, 0xDD: 0x8D,
}   # fmt: skip
MAKE, BREAK = 1, 2              # what a key of set 3 sends; repetition is the user's
SET3_MODES = {0xF7: MAKE, 0xF8: MAKE | BREAK, 0xF9: MAKE, 0xFA: MAKE | BREAK, 0xFB: MAKE, 0xFC: MAKE | BREAK, 0xFD: MAKE}


class Keyboard:
    """``key(number, down)`` is what fingers do; ``changed`` is called when there is something to take."""

    def __init__(self, changed: Callable[[], Any]) -> None:
        self.changed = changed
        self.on_leds: Callable[[int], Any] | None = None
        self.queue: deque[int] = deque()
        self.reset()

    def reset(self) -> None:
        self.queue.clear()
        self.leds = 0                   # scroll, num, caps
        self.command = 0                # that waits for its parameter
        self.last = 0                   # byte sent, for RESEND
        self.down: set[int] = set()
        self._defaults()
        self.enabled = True

    def _defaults(self) -> None:
        self.set, self.rate = 2, DEFAULT_RATE
        self.modes: dict[int, int] = {}         # of set 3
        self.all_modes = MAKE | BREAK

    # --- fingers -----------------------------------------------------------------------------------------------------
    def key(self, number: int, down: bool) -> bool:
        """Press (again: it repeats) or release a key; False: the keyboard's buffer was full and the key is lost."""
        if down:
            self.down.add(number)
        else:
            self.down.discard(number)
        if not self.enabled:
            return True
        codes = self.codes(number, down)
        if len(self.queue) + len(codes) > QUEUE:
            if not self.queue or self.queue[-1] != OVERRUN[self.set]:
                self.queue.append(OVERRUN[self.set])
            return False
        self.queue.extend(codes)
        self.changed()
        return True

    @property
    def room(self) -> bool:
        """May a key be typed without being lost?"""
        return len(self.queue) <= QUEUE - 8

    def codes(self, number: int, down: bool) -> list[int]:
        """What a key sends in the present set."""
        if self.set == 3:
            return self._set3(number, down)
        prefix = number & 0x80
        if number == PAUSE:
            if self.down & {LEFT_CTRL, RIGHT_CTRL}:             # Break
                return [*self._code(0x46, True, E0), *self._code(0x46, False, E0)] if down else []
            return [E1, *self._code(0x1D, True), *self._code(0x45, True),
                    E1, *self._code(0x1D, False), *self._code(0x45, False)] if down else []
        if number == PRINT_SCREEN:
            if self.down & {LEFT_ALT, RIGHT_ALT}:
                return [*self._code(SYSRQ, down)]
            if not self.down & {LEFT_CTRL, RIGHT_CTRL, LEFT_SHIFT, RIGHT_SHIFT}:
                shift = self._code(0x2A, down, E0)
                own = self._code(0x37, down, E0)
                return [*shift, *own] if down else [*own, *shift]
        return self._code(number & 0x7F, down, E0 if prefix else 0)

    def _code(self, code: int, down: bool, prefix: int = 0) -> list[int]:
        """One code of set 1 or 2."""
        out = [prefix] if prefix else []
        if self.set == 1:
            return [*out, code if down else code | 0x80]
        if code not in SET2:
            return []
        value = 0x84 if code == SYSRQ else 0x83 if code == 0x41 else SET2[code]
        return [*out, value] if down else [*out, RELEASE, value]

    def _set3(self, number: int, down: bool) -> list[int]:
        code = SET3.get(number, 0)
        mode = self.modes.get(code, self.all_modes)
        if not code or not (down or mode & BREAK):
            return []
        return [code] if down else [RELEASE, code]

    # --- the wire ----------------------------------------------------------------------------------------------------
    def take(self) -> int:
        """The next byte for the controller."""
        self.last = self.queue.popleft()
        return self.last

    def _send(self, *data: int) -> None:
        if len(self.queue) < 64:
            self.queue.extend(data)
        self.changed()

    def write(self, value: int) -> None:
        """A byte from the controller: a command or a parameter."""
        command, self.command = self.command, 0
        if command and not (command != 0xF0 and value >= 0xED and command not in (0xFB, 0xFC, 0xFD)):
            self._parameter(command, value)
            return
        if value in (0xED, 0xF0, 0xF3):
            self.command = value
            self._send(ACK)
        elif value in SET3_MODES:
            if value <= 0xFA:
                self.all_modes, self.modes = SET3_MODES[value], {}
            else:
                self.command = value            # codes of keys follow, until the next command
            self._send(ACK)
        elif value in COMMANDS:
            COMMANDS[value](self)
        else:
            self._send(RESEND)

    def _parameter(self, command: int, value: int) -> None:
        if command == 0xED:
            self.leds = value & 7
            if self.on_leds is not None:
                self.on_leds(self.leds)
            self._send(ACK)
        elif command == 0xF3:
            self.rate = value & 0x7F
            self._send(ACK)
        elif command == 0xF0:
            if value == 0:
                self._send(ACK, self.set)
            elif value <= 3:
                self.set = value
                self._send(ACK)
            else:
                self._send(RESEND)
        elif value >= 0xED:                     # a command ends the list of FBh, FCh, FDh
            self.write(value)
        else:
            self.modes[value] = SET3_MODES[command]
            self.command = command
            self._send(ACK)

    def _echo(self) -> None:
        self._send(0xEE)

    def _identify(self) -> None:
        self._send(ACK, *ID)

    def _enable(self) -> None:
        self.queue.clear()
        self.enabled = True
        self._send(ACK)

    def _disable(self) -> None:
        self.queue.clear()
        self._defaults()
        self.enabled = False
        self._send(ACK)

    def _set_defaults(self) -> None:
        self.queue.clear()
        self._defaults()
        self._send(ACK)

    def _resend(self) -> None:
        self._send(self.last)

    def _reset(self) -> None:
        down = self.down
        self.reset()
        self.down = down
        self._send(ACK, BAT_OK)

    # --- save, load --------------------------------------------------------------------------------------------------
    VALUES = ("leds", "command", "last", "set", "rate", "all_modes", "enabled")

    def save(self) -> dict[str, Any]:
        state: dict[str, Any] = {name: getattr(self, name) for name in self.VALUES}
        return state | {"queue": list(self.queue), "modes": dict(self.modes), "down": sorted(self.down)}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.VALUES:
            setattr(self, name, state[name])
        self.queue.clear()
        self.queue.extend(state["queue"])
        self.modes = {int(code): mode for code, mode in state["modes"].items()}
        self.down = set(state["down"])


COMMANDS: dict[int, Callable[[Keyboard], None]] = {
    0xEE: Keyboard._echo, 0xF2: Keyboard._identify, 0xF4: Keyboard._enable, 0xF5: Keyboard._disable, 0xF6: Keyboard._set_defaults,
    0xFE: Keyboard._resend, 0xFF: Keyboard._reset,
}   # fmt: skip


