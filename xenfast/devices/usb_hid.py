"""USB input devices: a tablet, which says where the pointer is, a mouse and a keyboard.

Specified by Device Class Definition for HID 1.11 and HID Usage Tables 1.12.  The tablet is what makes the pointer of a VNC client and the
guest's the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from xenfast.devices.usb_device import ENDPOINT, INTERFACE, NAK, Answer, UsbDevice

HID, REPORT = 0x21, 0x22        # descriptors
GET_REPORT, GET_IDLE, GET_PROTOCOL, SET_REPORT, SET_IDLE, SET_PROTOCOL = 1, 2, 3, 9, 10, 11
QUEUE = 32                      # reports that wait

# Report descriptors (HID 1.11, 6.2.2)
BUTTONS = "05 09 19 01 29 05 15 00 25 01 95 05 75 01 81 02 95 01 75 03 81 01"       # five bits and three of padding
WHEEL = "05 01 09 38 15 81 25 7F 35 00 45 00 75 08 95 01 81 06"
TABLET = bytes.fromhex(
    "05 01 09 02 A1 01 09 01 A1 00" + BUTTONS
    + "05 01 09 30 09 31 15 00 26 FF 7F 35 00 46 FF 7F 75 10 95 02 81 02" + WHEEL + "C0 C0")
MOUSE = bytes.fromhex(
    "05 01 09 02 A1 01 09 01 A1 00" + BUTTONS + "05 01 09 30 09 31 15 81 25 7F 75 08 95 02 81 06" + WHEEL + "C0 C0")
KEYBOARD = bytes.fromhex(
    "05 01 09 06 A1 01 05 07 19 E0 29 E7 15 00 25 01 75 01 95 08 81 02 95 01 75 08 81 01"        # modifiers, a byte of padding
    "05 08 19 01 29 05 95 05 75 01 91 02 95 01 75 03 91 01"                                      # LEDs
    "05 07 19 00 2A FF 00 15 00 26 FF 00 95 06 75 08 81 00 C0")                                  # six keys

# HID usages of keys, by their number (devices/ps2_keyboard.py): 01h to 58h, then the others
USAGES = dict(enumerate(bytes.fromhex(
    "00 29 1E 1F 20 21 22 23 24 25 26 27 2D 2E 2A 2B 14 1A 08 15 17 1C 18 0C 12 13 2F 30 28 E0 04 16"
    "07 09 0A 0B 0D 0E 0F 33 34 35 E1 31 1D 1B 06 19 05 11 10 36 37 38 E5 55 E2 2C 39 3A 3B 3C 3D 3E"
    "3F 40 41 42 43 53 47 5F 60 61 56 5C 5D 5E 57 59 5A 5B 62 63 46 00 64 44 45")))
USAGES |= {
    0x9C: 0x58, 0x9D: 0xE4, 0xB5: 0x54, 0xB7: 0x46, 0xB8: 0xE6, 0xC6: 0x48, 0xC7: 0x4A, 0xC8: 0x52, 0xC9: 0x4B, 0xCB: 0x50, 0xCD: 0x4F,
    0xCF: 0x4D, 0xD0: 0x51, 0xD1: 0x4E, 0xD2: 0x49, 0xD3: 0x4C, 0xDB: 0xE3, 0xDC: 0xE7, 0xDD: 0x65, 0xDE: 0x66, 0x70: 0x88, 0x73: 0x87,
    0x79: 0x8A, 0x7B: 0x8B, 0x7D: 0x89,
}   # fmt: skip


class Hid(UsbDevice):
    """One interface with one interrupt endpoint; ``changed`` is called when there is a report to fetch."""

    report_descriptor = b""
    subclass, protocol_code, interval, size = 0, 0, 10, 8

    def __init__(self) -> None:
        self.changed: Callable[[], Any] | None = None
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.queue: deque[bytes] = deque()
        self.idle, self.protocol = 0, 1

    @property
    def in_use(self) -> bool:
        """Has the guest set it up?"""
        return bool(self.configuration)

    def interfaces(self) -> bytes:
        return (
            bytes((9, INTERFACE, 0, 0, 1, 3, self.subclass, self.protocol_code, 0)) + self.hid_descriptor()
            + bytes((7, ENDPOINT, 0x81, 3, self.size, 0, self.interval)))

    def hid_descriptor(self) -> bytes:
        return bytes((9, HID, 0x11, 0x01, 0, 1, REPORT)) + len(self.report_descriptor).to_bytes(2, "little")

    def class_request(self, kind: int, request: int, value: int, index: int, length: int, data: bytes) -> bytes | None:
        if kind == 0x81 and request == 6:       # a descriptor of the interface
            return {HID: self.hid_descriptor(), REPORT: self.report_descriptor}.get(value >> 8)
        if kind == 0xA1:
            return {GET_REPORT: self.state(), GET_IDLE: bytes((self.idle,)), GET_PROTOCOL: bytes((self.protocol,))}.get(request)
        if kind != 0x21:
            return None
        if request == SET_IDLE:
            self.idle = value >> 8
        elif request == SET_PROTOCOL:
            self.protocol = value & 1
        elif request == SET_REPORT:
            self.output(data)
        else:
            return None
        return b""

    def state(self) -> bytes:
        """The report of this moment."""
        raise NotImplementedError

    def output(self, data: bytes) -> None:
        """A report to the device."""

    def report(self, *, replace: bool = False) -> None:
        """Something has changed.  ``replace``: a movement; the last report goes if it was one too."""
        if not self.configuration:
            return
        if self.queue and (len(self.queue) >= QUEUE or (replace and self._moved)):
            self.queue.pop()
        self.queue.append(self.state())
        self._moved = replace
        if self.changed is not None:
            self.changed()

    _moved = False

    def endpoint_in(self, endpoint: int, size: int) -> Answer:
        if endpoint != 1:
            return NAK
        return self.queue.popleft()[:size] if self.queue else NAK

    VALUES = (*UsbDevice.VALUES, "idle", "protocol")

    def save(self) -> dict[str, Any]:
        return super().save() | {"queue": list(self.queue)}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.queue = deque(state["queue"])


class Tablet(Hid):
    """``position(x, y)`` in 0 to 7FFFh."""

    strings = ("xenfast", "USB tablet", "1")
    report_descriptor, size = TABLET, 8
    VALUES = (*Hid.VALUES, "x", "y", "buttons")

    def reset(self) -> None:
        super().reset()
        self.x = self.y = self.buttons = self.wheel = 0

    def state(self) -> bytes:
        return bytes((self.buttons,)) + self.x.to_bytes(2, "little") + self.y.to_bytes(2, "little") + bytes((self.wheel & 0xFF,))

    def position(self, x: int, y: int) -> None:
        x, y = max(0, min(x, 0x7FFF)), max(0, min(y, 0x7FFF))
        if (x, y) != (self.x, self.y):
            self.x, self.y = x, y
            self.report(replace=True)

    def button(self, number: int, down: bool) -> None:
        before = self.buttons
        self.buttons = before & ~(1 << number) | (1 << number if down else 0)
        if before != self.buttons:
            self.report()

    def wheel_turn(self, clicks: int) -> None:
        """Positive is downward, as for the PS/2 mouse; HID counts away from the user."""
        self.wheel = max(-127, min(-clicks, 127))
        self.report()
        self.wheel = 0


class UsbMouse(Hid):
    """The same interface as the PS/2 mouse, in the boot protocol's layout."""

    product, strings = 0x0002, ("xenfast", "USB mouse", "1")
    report_descriptor, subclass, protocol_code, size = MOUSE, 1, 2, 4
    VALUES = (*Hid.VALUES, "buttons")

    def reset(self) -> None:
        super().reset()
        self.dx = self.dy = self.wheel = self.buttons = 0

    def state(self) -> bytes:
        def part(value: int) -> int:
            return max(-127, min(value, 127))

        dx, dy, wheel = part(self.dx), part(self.dy), part(self.wheel)
        self.dx, self.dy, self.wheel = self.dx - dx, self.dy - dy, self.wheel - wheel
        return bytes((self.buttons, dx & 0xFF, dy & 0xFF, wheel & 0xFF))

    def move(self, dx: int, dy: int, wheel: int = 0) -> None:
        if not self.configuration:
            return
        limit = 1 << 12
        self.dx, self.dy = max(-limit, min(self.dx + dx, limit)), max(-limit, min(self.dy + dy, limit))
        self.wheel = max(-limit, min(self.wheel - wheel, limit))
        while (self.dx or self.dy or self.wheel) and len(self.queue) < QUEUE:
            self.report()

    def button(self, number: int, down: bool) -> None:
        self.buttons = self.buttons & ~(1 << number) | (1 << number if down else 0)
        self.report()


class UsbKeyboard(Hid):
    """``key(number, down)`` as the PS/2 keyboard."""

    product, strings = 0x0003, ("xenfast", "USB keyboard", "1")
    report_descriptor, subclass, protocol_code, size = KEYBOARD, 1, 1, 8
    VALUES = (*Hid.VALUES, "leds", "modifiers")

    def reset(self) -> None:
        super().reset()
        self.leds = self.modifiers = 0
        self.down: list[int] = []

    def state(self) -> bytes:
        keys = self.down if len(self.down) <= 6 else [1] * 6        # too many: "error roll over"
        return bytes((self.modifiers, 0, *keys)).ljust(8, b"\0")

    @property
    def room(self) -> bool:
        """May a key be typed without being lost?"""
        return len(self.queue) <= QUEUE - 8

    def output(self, data: bytes) -> None:
        self.leds = data[0] & 0x1F if data else 0

    def key(self, number: int, down: bool) -> bool:
        usage = USAGES.get(number, 0)
        if not usage:
            return True
        if usage >= 0xE0:
            bit = 1 << usage - 0xE0
            self.modifiers = self.modifiers & ~bit | (bit if down else 0)
        elif down:
            if usage in self.down or len(self.down) >= 32:
                return True                     # the guest repeats keys itself
            self.down.append(usage)
        elif usage in self.down:
            self.down.remove(usage)
        self.report()
        return True

    def save(self) -> dict[str, Any]:
        return super().save() | {"down": list(self.down)}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.down = list(state["down"])


KINDS: dict[str, type[Hid]] = {"tablet": Tablet, "mouse": UsbMouse, "keyboard": UsbKeyboard}
