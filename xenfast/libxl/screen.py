"""The screen of an HVM guest for programs: its text and picture, waiting for either, keys and the mouse.

    domain.screen.wait_text(r"boot:")
    domain.screen.send_keys("linux console=ttyS0\\n")
    domain.screen.press("ctrl-alt-delete")
    domain.screen.png("after.png")

Text is that of text modes, as it stands in the adapter's memory; a picture is what the monitor shows, as an array (height, width, 3)
of uint8.  Keys are typed in the machine's time, one every ``KEY_NS``, while the host runs.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xenfast.devices import vga_picture
from xenfast.devices.ps2_keyboard import Keyboard
from xenfast.devices.ps2_mouse import Mouse
from xenfast.devices.vga import Vga
from xenfast.errors import XenfastError
from xenfast.libxl import keymaps, png

KEY_NS = 12_000_000             # between keys that are typed: what a BIOS keeps for a program that polls is 15 keys
LOOK_NS = 10_000_000            # between two looks while something is waited for
BUTTONS = {"left": 0, "right": 1, "middle": 2, "side": 3, "extra": 4}
RFB_BUTTONS = {0: 0, 1: 2, 2: 1, 7: 3, 8: 4}    # bit of RFB's button mask -> button; bits 3 and 4 are the wheel
TABLET_MAX = 0x7FFF
CAPS_LED = 4
MAX_TYPED = 100_000             # keys that wait to be typed


class NotSeen(XenfastError, TimeoutError):
    """What was waited for has not appeared in time."""


class Input:
    """Keys and pointer of one guest: where the API, and every client of the VNC server, put what the user does.

    Methods are called with the hypervisor's lock held.
    """

    def __init__(self, keyboard: Keyboard, mouse: Mouse, timers: Any, *, usb: Sequence[Any] = (), keymap: str = "",
                 size: Callable[[], tuple[int, int]] = lambda: (400, 720)) -> None:
        keymaps.layout(keymap)          # a name that does not exist is said at once
        self.timers, self.keymap, self.size = timers, keymap, size
        self._keyboards = [*(device for device in usb if hasattr(device, "key")), keyboard]
        self._mice = [*(device for device in usb if hasattr(device, "move")), mouse]
        self._tablets = [device for device in usb if hasattr(device, "position")]
        self.held: set[int] = set()                     # keys that are pressed
        self._typed: deque[tuple[int, bool]] = deque()
        self._pumping = False
        self._at: tuple[int, int] | None = None         # the pointer's last position
        self._mask = 0

    # A USB device is used once the guest has set it up.
    @property
    def keyboard(self) -> Any:
        return next((device for device in self._keyboards[:-1] if device.in_use), self._keyboards[-1])

    @property
    def mouse(self) -> Any:
        return next((device for device in self._mice[:-1] if device.in_use), self._mice[-1])

    @property
    def tablet(self) -> Any:
        """None: the pointer is relative."""
        return next((device for device in self._tablets if device.in_use), None)

    @property
    def leds(self) -> int:
        """Scroll, num and caps lock in bits 0 to 2, as the PS/2 keyboard and RFB have them."""
        keyboard = self.keyboard
        if keyboard is self._keyboards[-1]:
            return keyboard.leds
        return keyboard.leds >> 2 & 1 | (keyboard.leds & 3) << 1

    # --- keys --------------------------------------------------------------------------------------------------------
    def key(self, key: int, down: bool) -> None:
        """At once."""
        (self.held.add if down else self.held.discard)(key)
        self.keyboard.key(key, down)

    def type(self, events: list[tuple[int, bool]]) -> None:
        """One after the other, as the guest takes them."""
        if len(self._typed) + len(events) > MAX_TYPED:
            raise XenfastError(f"more than {MAX_TYPED} keys are waiting to be typed")
        self._typed.extend(events)
        if not self._pumping and self._typed:
            self._pumping = True
            self._pump()

    @property
    def typing(self) -> bool:
        """Are there keys that wait?"""
        return bool(self._typed)

    def _pump(self) -> None:
        """Up to and with the next key that is pressed."""
        while self._typed and self.keyboard.room:
            key, down = self._typed.popleft()
            self.key(key, down)
            if down and key not in MODIFIERS:
                break
        self._pumping = bool(self._typed)
        if self._pumping:
            self.timers.call_later(KEY_NS, self._pump)

    def keysym(self, keysym: int, down: bool) -> None:
        """A key of RFB.  Where the character needs Shift and the client has not pressed it (its layout differs), it is pressed for it."""
        stroke = keymaps.stroke_of(keysym, self.keymap)
        if stroke is None:
            return
        held = self.held
        character = keymaps.character_of(keysym)
        if not down or character is None or keysym == 0x20 or held & CONTROLS:
            self.key(stroke.key, down)
            return
        want = stroke.shift
        if character.lower() != character.upper() and self.leds & CAPS_LED:
            want = not want
        have = bool(held & SHIFTS)
        alt_gr = stroke.alt_gr and keymaps.ALT_GR not in held
        events: list[tuple[int, bool]] = []
        if want and not have:
            events.append((keymaps.LEFT_SHIFT, True))
        if have and not want:
            events += [(key, False) for key in sorted(held & SHIFTS)]
        if alt_gr:
            events.append((keymaps.ALT_GR, True))
        for key, pressed in (*events, (stroke.key, True), *((key, not pressed) for key, pressed in reversed(events))):
            self.key(key, pressed)

    def release_all(self) -> None:
        """Let go of everything: a client has gone."""
        for key in sorted(self.held):
            self.key(key, False)
        for button in set(RFB_BUTTONS.values()):
            self.button(button, False)
        self._mask = 0

    # --- pointer -----------------------------------------------------------------------------------------------------
    @property
    def absolute(self) -> bool:
        """Does the guest use the tablet?"""
        return self.tablet is not None

    def move(self, dx: int, dy: int, wheel: int = 0) -> None:
        if self.absolute and not (dx or dy):
            self.tablet.wheel_turn(wheel)
        else:
            self.mouse.move(dx, dy, wheel)

    def move_to(self, x: int, y: int) -> None:
        """To a dot of the picture; a guest without the tablet moves by as much as that is from the last position."""
        height, width = self.size()
        x, y = max(0, min(x, width - 1)), max(0, min(y, height - 1))
        if self.absolute:
            self.tablet.position(x * TABLET_MAX // max(width - 1, 1), y * TABLET_MAX // max(height - 1, 1))
        elif self._at is not None and (x, y) != self._at:
            self.mouse.move(x - self._at[0], y - self._at[1])
        self._at = x, y

    def button(self, number: int, down: bool) -> None:
        (self.tablet if self.absolute else self.mouse).button(number, down)

    def pointer(self, x: int, y: int, mask: int) -> None:
        """RFB's PointerEvent."""
        self.move_to(x, y)
        self._buttons(mask)

    def relative(self, dx: int, dy: int, mask: int) -> None:
        """The same of a client that sends movements."""
        self.mouse.move(dx, dy)
        self._buttons(mask)

    def _buttons(self, mask: int) -> None:
        changed, self._mask = self._mask ^ mask, mask
        for bit, button in RFB_BUTTONS.items():
            if changed >> bit & 1:
                self.button(button, bool(mask >> bit & 1))
        if changed & mask & 8:
            self.move(0, 0, -1)
        if changed & mask & 16:
            self.move(0, 0, 1)


SHIFTS = {keymaps.LEFT_SHIFT, keymaps.RIGHT_SHIFT}
CONTROLS = {keymaps.LEFT_CTRL, keymaps.RIGHT_CTRL, keymaps.LEFT_ALT, 0xDB, 0xDC}
MODIFIERS = SHIFTS | CONTROLS | {keymaps.ALT_GR}


class Screen:
    """``domain.screen``.  ``run(until, timeout) -> str`` lets the host run, as ``Domain.run`` does."""

    def __init__(self, vga: Vga, user: Input, lock: Any, run: Callable[..., str]) -> None:
        self.vga, self.input, self._lock, self._run = vga, user, lock, run

    # --- what is to be seen ------------------------------------------------------------------------------------------
    @property
    def text(self) -> list[str]:
        """The lines of a text mode, without the blanks at their ends; empty in graphics modes."""
        with self._lock:
            return vga_picture.text(self.vga)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in dots."""
        with self._lock:
            return vga_picture.size(self.vga)

    @property
    def cursor(self) -> tuple[int, int] | None:
        """Column and row of the cursor in text modes."""
        with self._lock:
            return vga_picture.cursor(self.vga)

    @property
    def is_text(self) -> bool:
        with self._lock:
            return vga_picture.is_text(self.vga) and not vga_picture.blank(self.vga)

    def picture(self) -> np.ndarray:
        """What the monitor shows, as (height, width, 3) of uint8; what blinks is visible."""
        with self._lock:
            frame = vga_picture.frame(self.vga).copy()
        return vga_picture.rgb(frame)

    def png(self, path: str | Path) -> None:
        """Write the picture into a file."""
        png.write(path, self.picture())

    # --- waiting -----------------------------------------------------------------------------------------------------
    def wait_text(self, pattern: str | re.Pattern[str], timeout: float | None = 60.0) -> re.Match[str]:
        """Let the host run until the text on the screen (its lines joined by newlines) holds the pattern."""
        regex = re.compile(pattern) if isinstance(pattern, str) else pattern
        found = self._wait(lambda: regex.search("\n".join(self.text)), timeout)
        if found is None:
            lines = [line for line in self.text if line]
            seen = f"its last line is {lines[-1]!r}" if lines else "there is no text on it"
            raise NotSeen(f"the screen has not shown {regex.pattern!r}; {seen}")
        return found

    def wait_picture(self, wanted: Callable[[np.ndarray], Any] | np.ndarray | str | Path, timeout: float | None = 60.0, *,
                     tolerance: float = 0.0) -> np.ndarray:
        """Let the host run until the picture is as wanted; returns it.

        ``wanted`` is a function of the picture, or a picture (an array or a PNG file) of which at most ``tolerance`` (0 to 1) of the
        dots may differ.
        """
        if isinstance(wanted, (str, Path)):
            wanted = png.read(wanted)
        if isinstance(wanted, np.ndarray):
            reference = wanted

            def test(picture: np.ndarray) -> bool:
                return picture.shape == reference.shape and bool((picture != reference).any(axis=2).mean() <= tolerance)
        else:
            function = wanted

            def test(picture: np.ndarray) -> bool:
                return bool(function(picture))

        def look() -> np.ndarray | None:
            picture = self.picture()
            return picture if test(picture) else None

        found = self._wait(look, timeout)
        if found is None:
            raise NotSeen("the screen has not shown the picture that was waited for")
        return found

    def wait_still(self, seconds: float = 1.0, timeout: float | None = 60.0, *, tolerance: float = 0.0) -> np.ndarray:
        """Let the host run until the picture has not changed for so long, in the machine's time; returns it.

        Of its dots ``tolerance`` (0 to 1) may differ: a cursor that a guest has drawn blinks.
        """
        state: dict[str, Any] = {"picture": None, "since": 0}

        def look() -> np.ndarray | None:
            picture, now = self.picture(), self.input.timers.now()
            before = state["picture"]
            if before is None or before.shape != picture.shape or (before != picture).any(axis=2).mean() > tolerance:
                state.update(picture=picture, since=now)
                return None
            return picture if now - state["since"] >= seconds * 1e9 else None

        found = self._wait(look, timeout)
        if found is None:
            raise NotSeen(f"the screen has not stood still for {seconds} s")
        return found

    def _wait(self, look: Callable[[], Any], timeout: float | None) -> Any:
        """Look now, and every LOOK_NS of the machine's time while the host runs."""
        result = look()
        if result is not None:
            return result
        state: dict[str, Any] = {"result": None, "over": False}

        def tick() -> None:
            if state["over"]:
                return
            state["result"] = look()
            if state["result"] is None:
                self.input.timers.call_later(LOOK_NS, tick)

        self.input.timers.call_later(LOOK_NS, tick)
        try:
            self._run(lambda: state["result"] is not None, timeout)
        finally:
            state["over"] = True
        return state["result"] if state["result"] is not None else look()

    # --- keys and mouse ----------------------------------------------------------------------------------------------
    def send_keys(self, text: str) -> None:
        """Type a text; "\\n" is Enter.  The keys reach the guest while the host runs."""
        events: list[tuple[int, bool]] = []
        for stroke in keymaps.strokes(text, self.input.keymap):
            modifiers = [keymaps.LEFT_SHIFT] * stroke.shift + [keymaps.ALT_GR] * stroke.alt_gr
            events += [(key, True) for key in (*modifiers, stroke.key)]
            events += [(key, False) for key in (stroke.key, *reversed(modifiers))]
        self._type(events)

    def press(self, *names: str) -> None:
        """Press and release keys one after the other: "f12", "down", "ctrl-alt-delete"."""
        events: list[tuple[int, bool]] = []
        for name in names:
            keys = keymaps.chord(name, self.input.keymap)
            events += [(key, True) for key in keys] + [(key, False) for key in reversed(keys)]
        self._type(events)

    def key_down(self, name: str) -> None:
        """Press and hold."""
        self._type([(key, True) for key in keymaps.chord(name, self.input.keymap)])

    def key_up(self, name: str) -> None:
        self._type([(key, False) for key in reversed(keymaps.chord(name, self.input.keymap))])

    @property
    def typing(self) -> bool:
        """Are keys waiting that the guest has not taken?"""
        return self.input.typing

    def _type(self, events: list[tuple[int, bool]]) -> None:
        with self._lock:
            self.input.type(events)

    def mouse_move(self, dx: int, dy: int) -> None:
        """By so many dots of the mouse; y goes downward."""
        with self._lock:
            self.input.mouse.move(dx, dy)

    def mouse_to(self, x: int, y: int) -> None:
        """To a dot of the picture: exact for a guest that uses the tablet, otherwise as far as from the last such position."""
        with self._lock:
            self.input.move_to(x, y)

    def mouse_button(self, button: str, down: bool) -> None:
        """Press or release "left", "right", "middle", "side" or "extra"."""
        if button not in BUTTONS:
            raise XenfastError(f"there is no mouse button {button!r}; there are {', '.join(BUTTONS)}")
        with self._lock:
            self.input.button(BUTTONS[button], down)

    def click(self, button: str = "left") -> None:
        self.mouse_button(button, True)
        self.mouse_button(button, False)

    def wheel(self, clicks: int) -> None:
        """Turn the wheel; positive is downward."""
        with self._lock:
            self.input.move(0, 0, clicks)
