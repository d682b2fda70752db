"""The keyboard controller (8042) with its two PS/2 ports: ports 60h and 64h, IRQ 1 and IRQ 12.

Specified by IBM's PS/2 Hardware Interface Technical Reference ("Keyboard and Auxiliary Device Controller").  The keyboard is
ps2_keyboard.py, the mouse ps2_mouse.py; both answer at once, a byte at a time as the processor takes them.

Left out: passwords, parity errors and time-outs, typing while the controller's clock lines are held (nothing is lost), A20 as a mask:
the gate's bit is kept, and addresses keep their bit 20, as on processors since Haswell.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from xenfast.devices.ps2_keyboard import SET2_TO_SET1, Keyboard
from xenfast.devices.ps2_mouse import Mouse
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.irq import Line

log = logging.getLogger("xenfast")

# Status register (64h)
OUTPUT_FULL, INPUT_FULL, SYSTEM, COMMAND, UNLOCKED, AUX_FULL = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
# Command byte (RAM 0)
INT_KEYBOARD, INT_MOUSE, SYSTEM_FLAG, KEYBOARD_OFF, MOUSE_OFF, TRANSLATE = 0x01, 0x02, 0x04, 0x10, 0x20, 0x40
# Output port
RESET_INACTIVE, A20, OUT_IRQ1, OUT_IRQ12 = 0x01, 0x02, 0x10, 0x20
OUTPUT_IDLE = 0xCC | RESET_INACTIVE | A20

CONTROLLER, KEYBOARD, MOUSE = "controller", "keyboard", "mouse"
RELEASE = 0xF0                          # set 2: the next code is of a key that was released


class Ps2Controller:
    """``data`` is the Region of port 60h, ``control`` that of 64h; ``reset_cpu()`` is what the reset line does."""

    def __init__(self, irq1: Line, irq12: Line, reset_cpu: Callable[[], Any] | None = None,
                 a20: Callable[[bool], Any] | None = None) -> None:
        self.irq1, self.irq12, self._reset_cpu, self._a20 = irq1, irq12, reset_cpu, a20
        self.keyboard = Keyboard(self.update)
        self.mouse = Mouse(self.update)
        self.data = Region(1, self.read_data, self.write_data, width=1, name="port 60h")
        self.control = Region(1, self.read_status, self.write_command, width=1, name="port 64h")
        self._unknown: set[int] = set()
        self.reset()

    def reset(self) -> None:
        self.ram = bytearray(32)
        self.ram[0] = INT_KEYBOARD | INT_MOUSE | TRANSLATE
        self.output_port = OUTPUT_IDLE
        self.answers: deque[int] = deque()      # of the controller's own, which come first
        self.full: str | None = None            # whose byte is in the output buffer
        self.byte = 0
        self.released = False                   # translation: F0h has come
        self.pending = 0                        # a command that waits for its parameter
        self.was_command = False
        self.keyboard.reset()
        self.mouse.reset()
        self.irq1.set(False)
        self.irq12.set(False)

    # --- the output buffer -------------------------------------------------------------------------------------------
    def update(self) -> None:
        """The next byte into the output buffer, when it is free; the interrupt lines follow."""
        if self.full is None:
            if self.answers:
                self.full, self.byte = CONTROLLER, self.answers.popleft()
            elif not self.ram[0] & KEYBOARD_OFF and self._from_keyboard():
                self.full = KEYBOARD
            elif not self.ram[0] & MOUSE_OFF and self.mouse.fill():
                self.full, self.byte = MOUSE, self.mouse.take()
        command = self.ram[0]
        self.irq1.set(self.full in (CONTROLLER, KEYBOARD) and command & INT_KEYBOARD)
        self.irq12.set(self.full == MOUSE and command & INT_MOUSE)

    def _from_keyboard(self) -> bool:
        """Take the keyboard's next byte, translated to set 1 if that is on; False when there is none."""
        keyboard = self.keyboard
        while keyboard.queue:
            byte = keyboard.take()
            if not self.ram[0] & TRANSLATE:
                self.byte = byte
                return True
            if byte == RELEASE:
                self.released = True
                continue
            self.byte = SET2_TO_SET1[byte] | (0x80 if self.released else 0)
            self.released = False
            return True
        return False

    def read_data(self, _offset: int = 0, _size: int = 1) -> int:
        byte = self.byte
        if self.full is not None:
            self.full = None
            self.irq1.set(False)
            self.irq12.set(False)
            self.update()
        return byte

    def read_status(self, _offset: int = 0, _size: int = 1) -> int:
        value = UNLOCKED | (self.ram[0] & SYSTEM_FLAG)
        if self.full is not None:
            value |= OUTPUT_FULL | (AUX_FULL if self.full == MOUSE else 0)
        return value | (COMMAND if self.was_command else 0)

    def _answer(self, byte: int) -> None:
        if len(self.answers) < 64:
            self.answers.append(byte)
        self.update()

    # --- commands ----------------------------------------------------------------------------------------------------
    def write_command(self, _offset: int, _size: int, value: int) -> None:
        self.was_command = True
        self.pending = 0
        if 0x20 <= value <= 0x3F:
            self._answer(self.ram[value & 0x1F])
        elif 0x60 <= value <= 0x7F or value in (0xD1, 0xD2, 0xD3, 0xD4):
            self.pending = value
        elif value >= 0xF0:
            if not value & RESET_INACTIVE and self._reset_cpu is not None:
                self._reset_cpu()
        elif value in SIMPLE:
            SIMPLE[value](self)
        elif value not in self._unknown:
            self._unknown.add(value)
            log.debug("ps2: unknown command %#x", value)

    def write_data(self, _offset: int, _size: int, value: int) -> None:
        self.was_command = False
        command, self.pending = self.pending, 0
        if 0x60 <= command <= 0x7F:
            self.ram[command & 0x1F] = value
            self.update()
        elif command == 0xD1:
            self._write_output_port(value)
        elif command in (0xD2, 0xD3):           # as if a device had sent it
            if self.full is None:
                self.full, self.byte = (KEYBOARD if command == 0xD2 else MOUSE), value
            self.update()
        elif command == 0xD4:
            self.ram[0] &= ~MOUSE_OFF           # a command turns the port on
            self.mouse.write(value)
        else:
            self.ram[0] &= ~KEYBOARD_OFF
            self.keyboard.write(value)

    def _write_output_port(self, value: int) -> None:
        self.output_port = value | RESET_INACTIVE
        self.set_a20(bool(value & A20))
        if not value & RESET_INACTIVE and self._reset_cpu is not None:
            self._reset_cpu()

    def set_a20(self, on: bool) -> None:
        self.output_port = self.output_port & ~A20 | (A20 if on else 0)
        if self._a20 is not None:
            self._a20(on)

    def _set(self, bit: int) -> None:
        self.ram[0] |= bit
        self.update()

    def _clear(self, bit: int) -> None:
        self.ram[0] &= ~bit
        self.update()

    def _self_test(self) -> None:
        self.full = None
        self.answers.clear()
        self.ram[0] = self.ram[0] | SYSTEM_FLAG | KEYBOARD_OFF | MOUSE_OFF
        self._answer(0x55)

    def _dump(self) -> None:
        for byte in self.ram[:16]:
            self._answer(byte)

    def _read_output_port(self) -> None:
        full = {KEYBOARD: OUT_IRQ1, CONTROLLER: OUT_IRQ1, MOUSE: OUT_IRQ12}.get(self.full or "", 0)
        self._answer(self.output_port & ~(OUT_IRQ1 | OUT_IRQ12) | full)

    # --- save, load --------------------------------------------------------------------------------------------------
    VALUES = ("output_port", "full", "byte", "released", "pending", "was_command")

    def save(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in self.VALUES}
        state |= {"ram": bytes(self.ram), "answers": list(self.answers), "keyboard": self.keyboard.save(), "mouse": self.mouse.save()}
        return state

    def load(self, state: dict[str, Any]) -> None:
        for name in self.VALUES:
            setattr(self, name, state[name])
        self.ram[:] = state["ram"]
        self.answers = deque(state["answers"])
        self.keyboard.load(state["keyboard"])
        self.mouse.load(state["mouse"])
        self.update()


# Commands without a parameter
SIMPLE: dict[int, Callable[[Ps2Controller], None]] = {
    0xA7: lambda c: c._set(MOUSE_OFF),
    0xA8: lambda c: c._clear(MOUSE_OFF),
    0xA9: lambda c: c._answer(0x00),            # the mouse's lines are well
    0xAA: Ps2Controller._self_test,
    0xAB: lambda c: c._answer(0x00),            # the keyboard's lines are well
    0xAC: Ps2Controller._dump,
    0xAD: lambda c: c._set(KEYBOARD_OFF),
    0xAE: lambda c: c._clear(KEYBOARD_OFF),
    0xC0: lambda c: c._answer(0xA0),            # input port: not locked, colour monitor
    0xD0: Ps2Controller._read_output_port,
    0xDD: lambda c: c.set_a20(False),
    0xDF: lambda c: c.set_a20(True),
    0xE0: lambda c: c._answer(0x00),            # test inputs
}
