"""What the ACPI tables are told about a machine, and the numbers of it that do not change.

Ports and addresses are those of a Xen HVM guest: the power management block at B000h, general purpose events at AFE0h, the
map of vcpus that are plugged in at AF00h, tables from FC001000h on, which the memory map reserves.
"""

from dataclasses import dataclass

PM1A_EVENT, PM1A_CONTROL, PM_TIMER = 0xB000, 0xB004, 0xB008
GPE0, GPE0_LENGTH = 0xAFE0, 4
CPU_MAP, CPU_MAP_LENGTH = 0xAF00, 16        # a bit a vcpu: it is plugged in
CPU_EVENT = 2                               # the bit of GPE0 that says the map has changed
SCI = 9
RESET_PORT, RESET_VALUE = 0xCF9, 6

IO_APIC, IO_APIC_ID = 0xFEC00000, 1
LOCAL_APIC = 0xFEE00000
HPET = 0xFED00000

GENERATION_ID = 0xFC000000                  # 16 bytes, for a guest that asks whether it is a clone
TABLES = 0xFC001000

PCI_IRQS = (5, 10, 11)                      # ISA interrupts that the PIRQ router may use
PCI_SLOTS = range(1, 32)


def pci_gsi(device: int, pin: int) -> int:
    """The pin of the I/O APIC for INTA (0) to INTD (3) of a slot: 32 of them above the ISA interrupts, as Xen spreads them."""
    return 16 + ((device << 2) + (device >> 3) + pin & 31)


def pci_link(device: int, pin: int) -> int:
    """The PIRQ (0 to 3 for A to D) of the same."""
    return device + pin & 3


@dataclass(frozen=True)
class NumaNode:
    """A virtual NUMA node: ranges of memory as (first byte, bytes), its vcpus, distances to all nodes in their order."""

    memory: tuple[tuple[int, int], ...]
    vcpus: tuple[int, ...]
    distances: tuple[int, ...]


@dataclass(frozen=True)
class Machine:
    """``kind`` is "hvm" (a PC) or "pvh" (processors only: hardware-reduced, no legacy)."""

    kind: str = "hvm"
    vcpus: int = 1                          # those there at the start
    max_vcpus: int = 0                      # those that may be plugged in later too; 0: no more
    apic_ids: tuple[int, ...] = ()          # of each vcpu; (): twice its number, as in Xen
    apic: bool = True                       # False: no MADT, the guest uses the PICs
    hpet: bool = True
    rtc: bool = True
    ps2: bool = True
    vga: bool = True
    fdc: bool = True
    com: tuple[bool, bool] = (True, False)
    lpt: bool = False
    s3: bool = False
    s4: bool = False
    hot_plug: bool = True                   # False: the DSDT does not say where the MADT is, which then may be moved
    laptop_slate: bool = False              # a device that says the machine is not a tablet, for Windows
    pci_window: tuple[int, int] = (0xF0000000, 0xFC000000)          # first byte, end
    pci_window_high: tuple[int, int] | None = None                  # above 4 GiB
    generation_id: bool = False
    numa: tuple[NumaNode, ...] = ()
    extra: tuple[bytes, ...] = ()           # further tables, as acpi_firmware= of xl.cfg has them

    @property
    def processors(self) -> int:
        return max(self.vcpus, self.max_vcpus)

    def apic_id(self, vcpu: int) -> int:
        return self.apic_ids[vcpu] if self.apic_ids else 2 * vcpu
