"""Which vcpus are plugged in: a map of bits that ACPI reads when general purpose event 2 says it has changed.

The place (AF00h) and the event are those of QEMU's first interface for this (docs/specs/acpi_cpu_hotplug.rst, "legacy"), which Xen's
guests have.  The AML that looks at it is firmware/acpi/dsdt.py.  Writes are ignored: the newer interface is not there.
"""

from typing import Any

from xenfast.xen.hvm.bus import Region

PORT, SIZE = 0xAF00, 16         # 128 vcpus
EVENT = 2                       # of GPE0


class CpuMap:
    """``event(number)`` raises a general purpose event."""

    def __init__(self, vcpus: int, event: Any) -> None:
        self.event = event
        self.bits = (1 << vcpus) - 1
        self.region = Region(SIZE, self._read, self._write, width=4, name="CPU map")

    def set(self, vcpus: int) -> None:
        """The first so many are plugged in from now on."""
        bits = (1 << min(vcpus, 8 * SIZE)) - 1
        if bits != self.bits:
            self.bits = bits
            self.event(EVENT)

    def _read(self, offset: int, size: int) -> int:
        return self.bits >> 8 * offset & (1 << 8 * size) - 1

    def _write(self, offset: int, size: int, value: int) -> None:
        pass

    def reset(self) -> None:
        """What is plugged in stays so."""

    def save(self) -> dict[str, Any]:
        return {"bits": self.bits}

    def load(self, state: dict[str, Any]) -> None:
        self.bits = state["bits"]
