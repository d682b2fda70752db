"""The two 8237A DMA controllers of a PC with their page registers: channels 0 to 3 move bytes, 5 to 7 words, 4 is the cascade.

Intel 8237A data sheet (order 231466); page registers: 82371SB data sheet, 2.5.3.  A device takes its ``Channel`` and moves a whole
transfer at once with ``to_memory()`` or ``from_memory()``, as much as the channel's count allows; the guest sees addresses and
counts as they are afterwards.  Left out: memory-to-memory transfers, compressed timing, priorities, pages above 16 MiB.
"""

from collections.abc import Callable
from typing import Any

from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.physmem import PhysMem

# Registers behind the eight of addresses and counts
COMMAND, REQUEST, MASK_ONE, MODE, CLEAR_FLIP_FLOP, MASTER_CLEAR, CLEAR_MASK, MASK_ALL = range(8, 16)
STATUS, TEMPORARY = 8, 13               # when read
DISABLE = 0x04                          # command
VERIFY, WRITE, READ = 0, 1, 2           # mode 3:2; of memory
AUTO_INITIALISE, DECREMENT = 0x10, 0x20
SET_MASK = 0x04

# Page registers: port 80h + n -> channel; the others are memory.
PAGES = {0x7: 0, 0x3: 1, 0x1: 2, 0x2: 3, 0xB: 5, 0x9: 6, 0xA: 7}
LEGACY_PORTS = ((0x00, 1), (0xC0, 2))   # of each controller: first port, ports a register


class Channel:
    def __init__(self, controller: "Controller", number: int, physmem: PhysMem) -> None:
        self.controller, self.number, self.physmem = controller, number, physmem
        self.wide = controller.wide
        self.wanted: Callable[[], Any] | None = None       # told when the channel becomes ready
        self.reset()

    def reset(self) -> None:
        self.base = self.count = 0                          # as programmed
        self.address = self.left = 0                        # now; count and left are transfers less one
        self.page = 0
        self.mode = 0
        self.masked = True
        self.terminal_count = False

    # --- for devices --------------------------------------------------------------------------------------------------------
    @property
    def ready(self) -> bool:
        return not self.masked and not self.controller.command & DISABLE

    @property
    def kind(self) -> int:
        return self.mode >> 2 & 3

    @property
    def room(self) -> int:
        """Bytes until the terminal count."""
        return self.left + 1 << self.wide if self.ready else 0

    def to_memory(self, data: bytes | bytearray | memoryview) -> int:
        """The device's data into memory; how many bytes have been taken.  ``terminal_count`` says whether that was the last."""
        n = min(len(data), self.room)
        if n and self.kind == WRITE:
            if self.mode & DECREMENT:
                for i in range(n):
                    self.physmem.write(self._physical() - i, data[i:i + 1])
            else:
                for address, start, size in self._pieces(n):
                    self.physmem.write(address, data[start:start + size])
        self._moved(n)
        return n

    def from_memory(self, size: int) -> bytes:
        """Memory for the device, at most so many bytes."""
        n = min(size, self.room)
        if self.kind != READ:
            data = bytes(n)
        elif self.mode & DECREMENT:
            data = b"".join(self.physmem.read(self._physical() - i, 1) for i in range(n))
        else:
            data = b"".join(self.physmem.read(address, length) for address, _, length in self._pieces(n))
        self._moved(n)
        return data

    def _physical(self) -> int:
        if self.wide:
            return (self.page & 0xFE) << 16 | self.address << 1
        return self.page << 16 | self.address

    def _pieces(self, n: int) -> list[tuple[int, int, int]]:
        """(address, offset in the data, bytes): the address wraps within its 64 Ki transfers, the page does not count."""
        start = self._physical()
        first = min(n, (0x10000 - self.address) << self.wide)
        pieces = [(start, 0, first)]
        if n > first:
            pieces.append((start - (self.address << self.wide), first, n - first))
        return pieces

    def _moved(self, n: int) -> None:
        transfers = n >> self.wide
        if not transfers:
            return
        self.address = self.address + (-transfers if self.mode & DECREMENT else transfers) & 0xFFFF
        self.terminal_count = transfers > self.left
        self.left = self.left - transfers & 0xFFFF
        if self.terminal_count:
            self.controller.status |= 1 << self.number
            if self.mode & AUTO_INITIALISE:
                self.address, self.left = self.base, self.count
            else:
                self.masked = True

    def unmask(self) -> None:
        if self.ready and self.wanted is not None:
            self.wanted()

    FIELDS = ("base", "count", "address", "left", "page", "mode", "masked", "terminal_count")


class Controller:
    """One 8237A: its sixteen registers, every port or every second one."""

    def __init__(self, wide: bool, physmem: PhysMem) -> None:
        self.wide = wide
        self.command = self.status = 0
        self.high = False                       # the flip-flop: which byte of a register is next
        self.channels = [Channel(self, n, physmem) for n in range(4)]
        self.shift = 1 if wide else 0
        self.region = Region(16 << self.shift, self.read, self.write, width=1, name="8237A")

    def reset(self) -> None:
        self.command = self.status = 0
        self.high = False
        for channel in self.channels:
            channel.masked = True

    def power_on(self) -> None:
        self.reset()
        for channel in self.channels:
            channel.reset()

    def read(self, offset: int, size: int) -> int:
        number = offset >> self.shift
        if number < 8:
            channel = self.channels[number >> 1]
            value = channel.left if number & 1 else channel.address
            self.high = not self.high
            return value & 0xFF if self.high else value >> 8
        if number == STATUS:
            value, self.status = self.status & 0x0F, 0
            return value
        if number == MASK_ALL:
            return sum(channel.masked << n for n, channel in enumerate(self.channels)) | 0xF0
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        number, value = offset >> self.shift, value & 0xFF
        if number < 8:
            self._write_word(self.channels[number >> 1], number & 1, value)
        elif number == COMMAND:
            self.command = value
            self._unmask(range(4))
        elif number == MASK_ONE:
            self.channels[value & 3].masked = bool(value & SET_MASK)
            self._unmask([value & 3])
        elif number == MODE:
            self.channels[value & 3].mode = value & 0xFC
        elif number == CLEAR_FLIP_FLOP:
            self.high = False
        elif number == MASTER_CLEAR:
            self.reset()
        elif number in (CLEAR_MASK, MASK_ALL):
            for n, channel in enumerate(self.channels):
                channel.masked = number == MASK_ALL and bool(value >> n & 1)
            self._unmask(range(4))

    def _unmask(self, numbers: Any) -> None:
        for n in numbers:
            self.channels[n].unmask()

    def _write_word(self, channel: Channel, is_count: int, value: int) -> None:
        self.high = not self.high
        old = channel.count if is_count else channel.base
        new = old & 0xFF00 | value if self.high else old & 0xFF | value << 8
        if is_count:
            channel.count = channel.left = new
        else:
            channel.base = channel.address = new

    def save(self) -> dict[str, Any]:
        return {"command": self.command, "status": self.status, "high": self.high,
                "channels": [{name: getattr(channel, name) for name in Channel.FIELDS} for channel in self.channels]}

    def load(self, state: dict[str, Any]) -> None:
        self.command, self.status, self.high = state["command"], state["status"], state["high"]
        for channel, saved in zip(self.channels, state["channels"]):
            for name in Channel.FIELDS:
                setattr(channel, name, saved[name])


class Dma:
    """Both controllers.  ``pages`` are ports 81h to 8Fh; port 80h is the power-on test's (debugcon.py)."""

    def __init__(self, physmem: PhysMem) -> None:
        self.controllers = [Controller(wide, physmem) for wide in (False, True)]
        self.spare = bytearray(16)
        self.pages = Region(15, self._read_page, self._write_page, width=1, name="DMA pages")

    def channel(self, number: int) -> Channel:
        """0 to 3 and 5 to 7."""
        return self.controllers[number >> 2].channels[number & 3]

    def _read_page(self, offset: int, size: int) -> int:
        number = PAGES.get(offset + 1)
        return self.spare[offset + 1] if number is None else self.channel(number).page

    def _write_page(self, offset: int, size: int, value: int) -> None:
        number = PAGES.get(offset + 1)
        if number is None:
            self.spare[offset + 1] = value & 0xFF
        else:
            self.channel(number).page = value & 0xFF

    def reset(self) -> None:
        for controller in self.controllers:
            controller.power_on()
        self.spare[:] = bytes(16)

    def save(self) -> dict[str, Any]:
        return {"controllers": [controller.save() for controller in self.controllers], "spare": bytes(self.spare)}

    def load(self, state: dict[str, Any]) -> None:
        for controller, saved in zip(self.controllers, state["controllers"]):
            controller.load(saved)
        self.spare[:] = state["spare"]
