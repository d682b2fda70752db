"""Firmware in Python that calls the guest: power-on, boot menu, print screen.

A routine is a generator: what it yields is done by the processor (an interrupt, a far call into an option ROM, a wait), and what
comes back is the ``Call`` with the registers as they were left.  So power-on reads as a list of steps, and video BIOS, option
ROMs and resident programs that have hooked an interrupt see nothing but a BIOS calling them.

The generator lives in this process; a machine that is saved inside one (the boot menu) starts again at power-on.
"""

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from xenfast.firmware.bda import vector
from xenfast.firmware.bios_rom import SEGMENT
from xenfast.firmware.traps import IF, TF, Call

log = logging.getLogger("xenfast")

DEPTH = 16          # routines at a time; a guest that leaves more than that for good loses the oldest


@dataclass
class Interrupt:
    """INT n with these registers: ``Interrupt(0x10, ax=0x0E41)``."""

    number: int
    registers: dict[str, int] = field(default_factory=dict)

    def __init__(self, number: int, **registers: int) -> None:
        self.number, self.registers = number, registers


@dataclass
class FarCall:
    """A far call to segment:offset with these registers."""

    segment: int
    offset: int
    registers: dict[str, int] = field(default_factory=dict)

    def __init__(self, segment: int, offset: int, **registers: int) -> None:
        self.segment, self.offset, self.registers = segment, offset, registers


@dataclass
class Idle:
    """Wait for an interrupt; ``halt=False``: only let interrupts in."""

    halt: bool = True


@dataclass
class Jump:
    """The end of a routine that does not return: go on there, with these registers and interrupts on."""

    segment: int
    offset: int
    registers: dict[str, int] = field(default_factory=dict)

    def __init__(self, segment: int, offset: int, **registers: int) -> None:
        self.segment, self.offset, self.registers = segment, offset, registers


Step = Interrupt | FarCall | Idle | Jump
Routine = Generator[Step, Call, None]
Asking = Generator[Step, Call, int | None]      # a part of a routine that finds something out


class Routines:
    """The routines that have begun.  ``start()`` and ``resume()`` are called by stubs."""

    def __init__(self, labels: dict[str, int]) -> None:
        self.labels = labels
        self.running: list[tuple[Routine, str]] = []

    def start(self, call: Call, routine: Callable[[Call], Routine], finish: str, *, alone: bool = False) -> None:
        """Begin one; when it ends the stub goes on at the label ``finish``.  ``alone``: whatever else was running is over."""
        if alone:
            for generator, _ in self.running:
                generator.close()
            self.running.clear()
        elif len(self.running) >= DEPTH:
            self.running.pop(0)[0].close()
        self.running.append((routine(call), finish))
        self._step(call, first=True)

    def resume(self, call: Call) -> None:
        if self.running:
            self._step(call, first=False)
        else:
            call.flags_at = None
            log.info("firmware: a jump to where routines go on, of which none is running")

    def _step(self, call: Call, first: bool) -> None:
        call.flags_at = None            # what comes back are live flags
        generator, finish = self.running[-1]
        try:
            step = next(generator) if first else generator.send(call)
        except StopIteration:
            if self.running and self.running[-1][0] is generator:
                self.running.pop()
            call.jump(SEGMENT, self.labels[finish])
            return
        self._perform(call, step)

    def _perform(self, call: Call, step: Step) -> None:
        if isinstance(step, Idle):
            call.jump(SEGMENT, self.labels["routine_idle" if step.halt else "routine_poll"])
            return
        for name, value in step.registers.items():
            setattr(call, name, value)
        if isinstance(step, Jump):
            self.running.pop()
            call.cpu.rflags = 2 | IF
            call.jump(step.segment, step.offset)
            return
        back = self.labels["routine_back"]
        if isinstance(step, Interrupt):
            target = vector(call.mem, step.number)
            call.push(call.cpu.rflags)
            call.cpu.rflags &= ~(IF | TF)
        else:
            target = step.segment << 16 | step.offset
        call.push(SEGMENT)
        call.push(back)
        call.jump(target >> 16, target & 0xFFFF)
