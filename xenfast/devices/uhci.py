"""The USB host controller of the PIIX3: UHCI, two ports of full speed.

Specified by Intel's Universal Host Controller Interface Design Guide 1.1 and the 82371SB data sheet (function 2).  Every millisecond the
controller walks the list of one frame in the guest's memory: transfer descriptors, and queues of them.

While nothing gets done the list is walked less often (``PACES``), so that an idle guest costs little; a device with news, or progress,
brings the full pace back.  The frame number is always that of the clock.

Left out: isochronous transfers (no device has any), bandwidth limits, USB resume from a suspended bus, legacy keyboard traps.
"""

from __future__ import annotations

from typing import Any

from xenfast.devices.pci import PIN_D, PciDevice
from xenfast.devices.usb_device import NAK, UsbDevice
from xenfast.devices.usb_hid import KINDS, Hid
from xenfast.errors import XenfastError
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.physmem import PhysMem
from xenfast.xen.hvm.timers import Timers

VENDOR, DEVICE, CLASS = 0x8086, 0x7020, 0x0C0300
# Registers
USBCMD, USBSTS, USBINTR, FRNUM, FLBASEADD, SOFMOD, PORTSC = 0x00, 0x02, 0x04, 0x06, 0x08, 0x0C, 0x10
RUN, HCRESET, GRESET, EGSM, FORCE_RESUME = 0x01, 0x02, 0x04, 0x08, 0x10                        # USBCMD
USBINT, ERRINT, RESUME_DETECT, HOST_ERROR, PROCESS_ERROR, HALTED = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20      # USBSTS
INT_ERROR, INT_RESUME, INT_IOC, INT_SHORT = 0x01, 0x02, 0x04, 0x08                              # USBINTR
CONNECTED, CONNECT_CHANGE, ENABLED, ENABLE_CHANGE, PORT_RESET, SUSPEND = 0x01, 0x02, 0x04, 0x08, 0x200, 0x1000      # PORTSC
PORT_FIXED = 0x80
PORTS = 2
# Links and descriptors
TERMINATE, IS_QH, DEPTH_FIRST = 1, 2, 4
ACTIVE, STALLED, BUFFER_ERROR, BABBLE, IS_NAK, TIMEOUT = 1 << 23, 1 << 22, 1 << 21, 1 << 20, 1 << 19, 1 << 18      # status of a TD
IOC, SHORT_DETECT = 1 << 24, 1 << 29
PID_SETUP, PID_IN, PID_OUT = 0x2D, 0x69, 0xE1
MAX_DATA = 1280
FRAME_NS = 1_000_000
MAX_STEPS = 256                 # queues and descriptors of one frame
PACES = ((64, 1), (192, 7), (1 << 62, 31))      # walks without progress up to which so many frames are made one


class Uhci(PciDevice):
    """``attach(device)`` plugs one in."""

    def __init__(self, timers: Timers, mem: PhysMem) -> None:
        super().__init__("usb", VENDOR, DEVICE, CLASS, revision=1, pin=PIN_D)
        self.timers, self.mem = timers, mem
        self.devices: list[UsbDevice | None] = [None] * PORTS
        self.put(0x60, 1, 0x10)                         # release number of USB: 1.0
        self.put(0xC0, 2, 0x2000, 0x008F)               # legacy support: PIRQ enabled
        self.bar_io(4, Region(32, self.read, self.write, width=4, name="uhci"))
        self._timer: Any = None
        self._registers()

    def _registers(self) -> None:
        self.cmd, self.sts, self.intr, self.base, self.sofmod = 0, HALTED, 0, 0, 0x40
        self.short = self.complete = False              # why USBINT is set
        self.frame, self.frame_time = 0, 0              # the frame number and when it was that
        self.ports = [PORT_FIXED | (CONNECTED | CONNECT_CHANGE if device is not None else 0) for device in self.devices]
        self._idle = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def attach(self, device: Any) -> bool:
        """Plug a device into the first free port; False: there is none."""
        for port in range(PORTS):
            if self.devices[port] is None:
                self.devices[port] = device
                device.changed = self.news
                self.ports[port] |= CONNECTED | CONNECT_CHANGE
                return True
        return False

    def detach(self, device: UsbDevice) -> None:
        """Unplug it."""
        for port in range(PORTS):
            if self.devices[port] is device:
                self.devices[port] = None
                self.ports[port] = (self.ports[port] & ~(CONNECTED | ENABLED)) | CONNECT_CHANGE
                device.reset()

    # --- registers ---------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        if size > 2 or (size == 2 and offset & 1):
            if offset == FLBASEADD and size == 4:
                return self.base
            return sum(self.read(offset + i, 1) << 8 * i for i in range(size))
        value = self._word(offset & ~1)
        return value if size == 2 else value >> 8 * (offset & 1) & 0xFF

    def _word(self, offset: int) -> int:
        if PORTSC <= offset < PORTSC + 2 * PORTS:
            return self.ports[(offset - PORTSC) // 2]
        if offset == FRNUM:
            return self._number() & 0x7FF
        words = {USBCMD: self.cmd, USBSTS: self.sts, USBINTR: self.intr, FLBASEADD: self.base & 0xFFFF, FLBASEADD + 2: self.base >> 16,
                 SOFMOD: self.sofmod}
        return words.get(offset, 0xFF7F if offset < 0x20 and offset >= 0x14 else 0)

    def write(self, offset: int, size: int, value: int) -> None:
        if size == 4:
            if offset == FLBASEADD:
                self.base = value & 0xFFFFF000
            else:
                self.write(offset, 2, value & 0xFFFF)
                self.write(offset + 2, 2, value >> 16)
        elif size == 1:
            if offset == SOFMOD:
                self.sofmod = value & 0x7F
            elif FLBASEADD <= offset < FLBASEADD + 4:
                shift = 8 * (offset - FLBASEADD)
                self.base = (self.base & ~(0xFF << shift) | value << shift) & 0xFFFFF000
            elif offset in (USBSTS, USBSTS + 1):
                self._write_word(USBSTS, value << 8 * (offset & 1))
            else:
                other = self._word(offset & ~1)
                if PORTSC <= offset < PORTSC + 2 * PORTS:
                    other &= ~(CONNECT_CHANGE | ENABLE_CHANGE)
                shift = 8 * (offset & 1)
                self._write_word(offset & ~1, other & ~(0xFF << shift) | value << shift)
        else:
            self._write_word(offset, value)

    def _write_word(self, offset: int, value: int) -> None:
        if offset == USBCMD:
            self._command(value)
        elif offset == USBSTS:
            self.sts &= ~(value & 0x1F)
            if value & USBINT:
                self.short = self.complete = False
            self._interrupt()
        elif offset == USBINTR:
            self.intr = value & 0x0F
            self._interrupt()
        elif offset == FRNUM:
            if self.sts & HALTED:
                self.frame, self.frame_time = value & 0x7FF, self.timers.now()
        elif offset == FLBASEADD:
            self.base = self.base & 0xFFFF0000 | value & 0xF000
        elif offset == FLBASEADD + 2:
            self.base = self.base & 0xFFFF | value << 16
        elif offset == SOFMOD:
            self.sofmod = value & 0x7F
        elif PORTSC <= offset < PORTSC + 2 * PORTS:
            self._write_port((offset - PORTSC) // 2, value)

    def _command(self, value: int) -> None:
        if value & HCRESET:
            for device in self.devices:
                if device is not None:
                    device.reset()
            self._registers()
            self._interrupt()
            return
        if value & GRESET and not self.cmd & GRESET:
            for port, device in enumerate(self.devices):
                if device is not None:
                    device.reset()
                self.ports[port] &= ~ENABLED
        self.frame, self.frame_time = self._number() & 0x7FF, self.timers.now()
        self.cmd = value & 0xFF
        if self.cmd & RUN:
            self.sts &= ~HALTED
            self.news()
        else:
            self.sts |= HALTED

    def _write_port(self, port: int, value: int) -> None:
        now, device = self.ports[port], self.devices[port]
        if device is not None and now & PORT_RESET and not value & PORT_RESET:
            device.reset()
        now &= ~(value & (CONNECT_CHANGE | ENABLE_CHANGE))
        keep = CONNECTED | CONNECT_CHANGE | ENABLE_CHANGE | PORT_FIXED
        value &= PORT_RESET | SUSPEND | ENABLED | 0x40
        if device is None or value & PORT_RESET:
            value &= ~ENABLED
        self.ports[port] = now & keep | value

    def _interrupt(self) -> None:
        """INTx follows the status register."""
        intr, sts = self.intr, self.sts
        self.intx.set(
            (self.complete and intr & INT_IOC) or (self.short and intr & INT_SHORT) or (sts & ERRINT and intr & INT_ERROR)
            or (sts & RESUME_DETECT and intr & INT_RESUME) or sts & (HOST_ERROR | PROCESS_ERROR))

    # --- frames ------------------------------------------------------------------------------------------------------
    def _number(self) -> int:
        """The frame number of this moment."""
        if self.sts & HALTED:
            return self.frame
        return self.frame + (self.timers.now() - self.frame_time) // FRAME_NS

    def news(self) -> None:
        """A device has something, or the guest has started the controller: walk every frame again."""
        self._idle = 0
        if self.cmd & RUN:
            self._schedule(FRAME_NS)

    def _schedule(self, delay: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.timers.call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self.cmd & RUN:
            return
        if self.bus_master and not self.cmd & EGSM:
            progress = self._walk(self._number() & 0x3FF)
            self._idle = 0 if progress else self._idle + 1
        else:
            self._idle += 1
        self._interrupt()
        if self.cmd & RUN:
            self._schedule(FRAME_NS * next(frames for walks, frames in PACES if self._idle < walks))

    def _walk(self, index: int) -> bool:
        """One frame; True: something was transferred."""
        link = self.mem.read_int(self.base + 4 * index, 4)
        progress = False
        seen: dict[int, bool] = {}              # queues, and whether something had been done by then
        for _ in range(MAX_STEPS):
            if link & TERMINATE:
                break
            address = link & 0xFFFFFFF0
            if link & IS_QH:
                if address in seen and seen[address] == progress:
                    break                       # round once without anything done
                seen[address] = progress
                words = self.mem.read(address, 8)
                link = int.from_bytes(words[:4], "little")
                done = self._queue(address, int.from_bytes(words[4:], "little"))
                progress |= done
            else:
                link, done = self._descriptor_alone(address)
                progress |= done
            if self.sts & HALTED:
                break
        return progress

    def _queue(self, queue: int, element: int) -> bool:
        """Descriptors of a queue, as far as they get."""
        progress = False
        for _ in range(MAX_STEPS):
            if element & (TERMINATE | IS_QH):
                break
            address = element & 0xFFFFFFF0
            ok, link = self._transfer(address)
            if ok is None:
                break
            progress = True
            if not ok:
                break
            element = link
            self.mem.write_int(queue + 4, 4, element)
            if not link & DEPTH_FIRST:
                break
        return progress

    def _descriptor_alone(self, address: int) -> tuple[int, bool]:
        ok, link = self._transfer(address)
        return link, ok is not None

    def _transfer(self, address: int) -> tuple[bool | None, int]:
        """One descriptor: True it is done and the next may follow, False it is done and the queue waits, None nothing was done."""
        words = self.mem.read(address, 16)
        link, status, token, buffer = (int.from_bytes(words[i:i + 4], "little") for i in (0, 4, 8, 12))
        if not status & ACTIVE:
            return None, link
        size = (token >> 21) + 1 & 0x7FF
        pid = token & 0xFF
        if pid not in (PID_SETUP, PID_IN, PID_OUT) or size > MAX_DATA:
            self.sts |= PROCESS_ERROR | HALTED
            self.cmd &= ~RUN
            return None, link
        answer = self._token(pid, token >> 8 & 0x7F, token >> 15 & 15, size, buffer)
        if answer == NAK:
            if not status & IS_NAK:
                self.mem.write_int(address + 4, 4, status | IS_NAK)
            return None, link
        status &= ~(ACTIVE | IS_NAK | 0x7FF)
        if not isinstance(answer, bytes):
            status |= STALLED | 0x7FF | (TIMEOUT if answer is None else 0)
            self.sts |= ERRINT
            self._completed(status)
            self.mem.write_int(address + 4, 4, status)
            return False, link
        count = size
        if pid == PID_IN:
            count = len(answer)
            if count > size:
                status |= STALLED | BABBLE | 0x7FF
                self.sts |= ERRINT
                self._completed(status)
                self.mem.write_int(address + 4, 4, status)
                return False, link
            if answer:
                self.mem.write(buffer, answer)
        status |= count - 1 & 0x7FF
        short = count < size and bool(status & SHORT_DETECT)
        if short:
            self.short = True
            self.sts |= USBINT
        self._completed(status)
        self.mem.write_int(address + 4, 4, status)
        return not short, link

    def _completed(self, status: int) -> None:
        if status & IOC:
            self.complete = True
            self.sts |= USBINT

    def _token(self, pid: int, address: int, endpoint: int, size: int, buffer: int) -> bytes | str | None:
        """What the addressed device answers; None: there is none."""
        for port, device in enumerate(self.devices):
            if device is not None and device.address == address and self.ports[port] & ENABLED and not self.ports[port] & SUSPEND:
                if pid == PID_IN:
                    return device.data_in(endpoint, size)
                data = self.mem.read(buffer, size)
                return device.setup(endpoint, data) if pid == PID_SETUP else device.data_out(endpoint, data)
        return None

    # --- the life of a device ----------------------------------------------------------------------------------------
    def reset(self) -> None:
        super().reset()
        for device in self.devices:
            if device is not None:
                device.reset()
        self._registers()

    VALUES = ("cmd", "sts", "intr", "base", "sofmod", "short", "complete")

    def save(self) -> dict[str, Any]:
        state = super().save() | {name: getattr(self, name) for name in self.VALUES}
        return state | {"frame": self._number() & 0x7FF, "ports": list(self.ports),
                        "devices": [device.save() if device is not None else None for device in self.devices]}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self._registers()
        for name in self.VALUES:
            setattr(self, name, state[name])
        self.frame, self.frame_time, self.ports = state["frame"], self.timers.now(), list(state["ports"])
        for device, saved in zip(self.devices, state["devices"]):
            if device is not None and saved is not None:
                device.load(saved)
        self.news()


def make(timers: Timers, mem: PhysMem, usb: int, names: list[str]) -> Uhci | None:
    """The controller with the devices of ``usbdevice`` (xl.cfg(5)); None when neither that nor ``usb`` asks for it."""
    if not usb and not names:
        return None
    controller = Uhci(timers, mem)
    for name in names:
        if name not in KINDS:
            raise XenfastError(f"usbdevice {name!r} is not supported (tablet, mouse, keyboard)")
        if not controller.attach(KINDS[name]()):
            raise XenfastError(f"there are {PORTS} USB ports, not {len(names)}")
    return controller


def input_devices(controller: Uhci | None) -> list[Hid]:
    """What is plugged in that a user works with."""
    return [device for device in controller.devices if isinstance(device, Hid)] if controller is not None else []
