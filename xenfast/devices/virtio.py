"""Virtio devices on the PCI bus, transitional: the legacy interface and that of VIRTIO 1.0 (OASIS VIRTIO 1.1, 4.1).

BAR 0 is the legacy registers (4.1.4.10), BAR 1 the MSI-X table, BAR 4 the four structures of 1.0, which vendor capabilities
name (4.1.4): common configuration, ISR, device configuration, notifications.  The kinds are virtio_blk.py and virtio_net.py.
A request is over before the notification's write returns.  Left out: packed rings, a queue reset, the PCI configuration access
capability (cfg type 5), shared memory.
"""

import logging
import struct
from typing import Any

from xenfast.devices.pci import CAP_VENDOR, PIN_A, PciDevice
from xenfast.devices.virtqueue import RingError, Virtqueue
from xenfast.xen.hvm.bus import Region
from xenfast.xen.hvm.physmem import PhysMem

log = logging.getLogger("xenfast")

VENDOR = 0x1AF4
# Device status (2.1)
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
# Features of every device (6)
F_ANY_LAYOUT, F_INDIRECT, F_EVENT_IDX, F_VERSION_1 = 1 << 27, 1 << 28, 1 << 29, 1 << 32
NO_VECTOR = 0xFFFF
ISR_QUEUE, ISR_CONFIG = 1, 2

# Legacy registers
L_DEVICE_FEATURES, L_DRIVER_FEATURES, L_ADDRESS, L_SIZE, L_SELECT, L_NOTIFY, L_STATUS, L_ISR = 0, 4, 8, 12, 14, 16, 18, 19
L_CONFIG_VECTOR, L_QUEUE_VECTOR, L_CONFIG = 20, 22, 20        # the device's configuration begins at 20, with MSI-X at 24
# Structures of BAR 4: type, offset, size
COMMON, NOTIFY, ISR, DEVICE = 1, 2, 3, 4
STRUCTURES = ((COMMON, 0x0000, 0x1000), (ISR, 0x1000, 0x1000), (DEVICE, 0x2000, 0x1000), (NOTIFY, 0x3000, 0x1000))
NOTIFY_MULTIPLIER = 4


class VirtioDevice(PciDevice):
    """A kind has ``features``, ``config`` bytes, queues, and ``notified(queue number)``."""

    features = F_INDIRECT | F_EVENT_IDX | F_ANY_LAYOUT | F_VERSION_1

    def __init__(self, physmem: PhysMem, name: str, device: int, kind: int, class_code: int, queues: list[int], config_size: int) -> None:
        super().__init__(name, VENDOR, device, class_code, pin=PIN_A, subsystem=(VENDOR, kind))
        self.physmem = physmem
        self.queues = [Virtqueue(physmem, size) for size in queues]
        self.config_size = config_size
        size = 1 << (24 + config_size - 1).bit_length()
        self.bar_io(0, Region(size, self._read_legacy, self._write_legacy, name=name))
        self.add_msix(1, len(queues) + 1)
        self.bar_memory(4, Region(0x4000, self._read_modern, self._write_modern, width=4, name=name), wide=True, prefetch=True)
        for kind_of, offset, length in STRUCTURES:
            body = struct.pack("<BBBxxxII", 20 if kind_of == NOTIFY else 16, kind_of, 4, offset, length)
            self.add_capability(CAP_VENDOR, body + (struct.pack("<I", NOTIFY_MULTIPLIER) if kind_of == NOTIFY else b""))
        self._clear()

    def _clear(self) -> None:
        self.status = self.isr = self.select = self.generation = 0
        self.device_select = self.driver_select = 0
        self.driver_features = 0
        self.config_vector = NO_VECTOR
        for queue in self.queues:
            queue.reset()
        self.broken = False
        self._interrupt()

    # --- for the kinds ---------------------------------------------------------------------------------------------------
    def device_config(self) -> bytes:
        """The device configuration as it is now."""
        raise NotImplementedError

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes its configuration; most of it is read-only."""

    def notified(self, number: int) -> None:
        """The driver has put something into a queue."""
        raise NotImplementedError

    def has(self, feature: int) -> bool:
        return bool(self.driver_features & feature)

    @property
    def running(self) -> bool:
        return bool(self.status & DRIVER_OK) and not self.broken and self.bus_master

    def signal(self, queue: Virtqueue) -> None:
        """Something has been given back."""
        if queue.wants_interrupt():
            self._tell(ISR_QUEUE, queue.vector)

    def config_has_changed(self) -> None:
        self.generation = self.generation + 1 & 0xFF
        if self.status & DRIVER_OK:
            self._tell(ISR_CONFIG, self.config_vector)

    def _tell(self, bit: int, vector: int) -> None:
        if self.msix is not None and self.msix.enabled:
            if vector != NO_VECTOR:
                self.msix.notify(vector)
        else:
            self.isr |= bit
            self._interrupt()

    def _interrupt(self) -> None:
        if self.msix is None or not self.msix.enabled:
            self.intx.set(self.isr)

    def serve(self, number: int) -> None:
        """Notify the kind; a broken ring stops the device."""
        if not self.running or number >= len(self.queues):
            return
        try:
            self.notified(number)
        except RingError as error:
            log.warning("%s: %s; the device stops until it is reset", self.name, error)
            self.broken = True
            self.status |= NEEDS_RESET
            self.config_has_changed()

    # --- what both interfaces do -------------------------------------------------------------------------------------------
    def _queue(self) -> Virtqueue | None:
        return self.queues[self.select] if self.select < len(self.queues) else None

    def _set_status(self, value: int) -> None:
        if not value:
            self._clear()
            self.stopped()
            return
        if value & FEATURES_OK and self.driver_features & ~self.features:
            value &= ~FEATURES_OK
        self.status = value & 0xFF | self.status & NEEDS_RESET
        for queue in self.queues:
            queue.event_index, queue.indirect = self.has(F_EVENT_IDX), self.has(F_INDIRECT)
        if value & DRIVER_OK:
            for number in range(len(self.queues)):      # a driver may notify before it is ready
                self.serve(number)

    def stopped(self) -> None:
        """The driver has reset the device."""

    def _vector(self, value: int) -> int:
        return value if self.msix is not None and value < self.msix.vectors else NO_VECTOR

    def _read_isr(self) -> int:
        value, self.isr = self.isr, 0
        self._interrupt()
        return value

    def _config(self, at: int, size: int) -> int:
        return int.from_bytes(self.device_config()[at:at + size], "little") if at >= 0 else 0

    # --- legacy ------------------------------------------------------------------------------------------------------------
    @property
    def _config_at(self) -> int:
        return 24 if self.msix is not None and self.msix.enabled else 20

    def _read_legacy(self, offset: int, size: int) -> int:
        if offset >= self._config_at:
            return self._config(offset - self._config_at, size)
        queue = self._queue()
        match offset:
            case 0:
                return self.features & 0xFFFFFFFF
            case 4:
                return self.driver_features & 0xFFFFFFFF
            case 8:
                return queue.desc >> 12 if queue is not None else 0
            case 12:
                return queue.max_size if queue is not None else 0
            case 14:
                return self.select
            case 18:
                return self.status
            case 19:
                return self._read_isr()
            case 20:
                return self.config_vector
            case 22:
                return queue.vector if queue is not None else NO_VECTOR
        return 0

    def _write_legacy(self, offset: int, size: int, value: int) -> None:
        if offset >= self._config_at:
            self.write_config(offset - self._config_at, value.to_bytes(size, "little"))
            return
        queue = self._queue()
        match offset:
            case 4:
                self.driver_features = value & self.features & 0xFFFFFFFF
            case 8:
                if queue is not None:
                    queue.set_legacy(value)
            case 14:
                self.select = value & 0xFFFF
            case 16:
                self.serve(value & 0xFFFF)
            case 18:
                self._set_status(value & 0xFF)
            case 20:
                self.config_vector = self._vector(value & 0xFFFF)
            case 22:
                if queue is not None:
                    queue.vector = self._vector(value & 0xFFFF)

    # --- 1.0 ---------------------------------------------------------------------------------------------------------------
    def _read_modern(self, offset: int, size: int) -> int:
        where, at = offset >> 12, offset & 0xFFF
        if where == 0:
            value = self._read_common(at & ~3) >> 8 * (at & 3)
            return value & (1 << 8 * size) - 1
        if where == 1:
            return self._read_isr() if not at else 0
        return self._config(at, size) if where == 2 else 0

    def _read_common(self, at: int) -> int:
        """A dword of the common configuration (4.1.4.3)."""
        queue = self._queue()
        match at:
            case 0x00:
                return self.device_select
            case 0x04:
                return self.features >> 32 * self.device_select & 0xFFFFFFFF if self.device_select < 2 else 0
            case 0x08:
                return self.driver_select
            case 0x0C:
                return self.driver_features >> 32 * self.driver_select & 0xFFFFFFFF if self.driver_select < 2 else 0
            case 0x10:
                return self.config_vector | len(self.queues) << 16
            case 0x14:
                return self.status | self.generation << 8 | self.select << 16
        if queue is None:
            return 0
        match at:
            case 0x18:
                return queue.size | queue.vector << 16
            case 0x1C:
                return int(queue.enabled) | self.select << 16
            case 0x20 | 0x24:
                return queue.desc >> 8 * (at - 0x20) & 0xFFFFFFFF
            case 0x28 | 0x2C:
                return queue.avail >> 8 * (at - 0x28) & 0xFFFFFFFF
            case 0x30 | 0x34:
                return queue.used >> 8 * (at - 0x30) & 0xFFFFFFFF
        return 0

    def _write_modern(self, offset: int, size: int, value: int) -> None:
        where, at = offset >> 12, offset & 0xFFF
        if where == 0:
            self._write_common(at, size, value)
        elif where == 2:
            self.write_config(at, value.to_bytes(size, "little"))
        elif where == 3:
            self.serve(at // NOTIFY_MULTIPLIER)

    def _write_common(self, at: int, size: int, value: int) -> None:
        queue = self._queue()
        match at:
            case 0x00:
                self.device_select = value
            case 0x08:
                self.driver_select = value
            case 0x0C:
                if self.driver_select < 2 and not self.status & FEATURES_OK:
                    shift = 32 * self.driver_select
                    self.driver_features = self.driver_features & ~(0xFFFFFFFF << shift) | value << shift
            case 0x10:
                self.config_vector = self._vector(value & 0xFFFF)
            case 0x14:
                self._set_status(value & 0xFF)
            case 0x16:
                self.select = value & 0xFFFF
            case _:
                if queue is not None:
                    self._write_queue(queue, at, value)

    def _write_queue(self, queue: Virtqueue, at: int, value: int) -> None:
        match at:
            case 0x18:
                if 0 < value <= queue.max_size and not value & value - 1 and not queue.enabled:
                    queue.size = value
            case 0x1A:
                queue.vector = self._vector(value & 0xFFFF)
            case 0x1C:
                queue.enabled = queue.enabled or bool(value & 1)
            case 0x20 | 0x24 | 0x28 | 0x2C | 0x30 | 0x34:
                if not queue.enabled:
                    name, shift = ("desc", "avail", "used")[(at - 0x20) // 8], 8 * (at & 4)
                    setattr(queue, name, getattr(queue, name) & ~(0xFFFFFFFF << shift) | (value & 0xFFFFFFFF) << shift)

    # --- life ----------------------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        super().reset()
        self._clear()
        self.stopped()

    FIELDS = ("status", "isr", "select", "generation", "device_select", "driver_select", "driver_features", "config_vector", "broken")

    def save(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self.FIELDS}
        return super().save() | own | {"queues": [queue.save() for queue in self.queues]}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.FIELDS:
            setattr(self, name, state[name])
        for queue, saved in zip(self.queues, state["queues"], strict=True):
            queue.load(saved)
        super().load(state)
