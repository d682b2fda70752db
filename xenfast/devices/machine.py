"""The PC that an HVM guest finds: every chip and device, where it is and which interrupt it has.

This file is the board: devices know neither addresses nor interrupt controllers (docs/design.md, "HVM and PVH guests").

Memory::

    00000000  RAM, 640 KiB
    000A0000  VGA
    000C0000  video BIOS and option ROMs; what is ROM and what is RAM up to 1 MiB: i440fx.py
    00100000  RAM, up to F0000000 or less
    F0000000  BARs of PCI devices, as the firmware places them
    FEC00000  I/O APIC
    FED00000  HPET
    FEE00000  local APICs (in the core)
    FFF00000  the BIOS again
    1_00000000  the rest of the RAM

Interrupts (ISA; input 2 of the I/O APIC is IRQ 0, the others are as they are)::

    0  PIT, or timer 0 of the HPET        8  RTC, or timer 1 of the HPET
    1  keyboard                           9  ACPI (SCI)
    2  the second PIC                    10  PCI, as the firmware routes it
    3  COM2, COM4                        11  PCI, as the firmware routes it
    4  COM1, COM3                        12  PS/2 mouse
    5  PCI, as the firmware routes it    13  -
    6  floppy disks                      14  IDE, primary
    7  LPT1                              15  IDE, secondary

PCI::

    00.0 i440FX   01.0 PIIX3   01.1 IDE   01.2 USB   01.3 ACPI power management   02.0 VGA   03.0 Xen platform device   others behind
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from xenfast.devices import cmos, cpu_map, uhci, vga_pci
from xenfast.devices.acpi_pm import AcpiPm
from xenfast.devices.ahci import Ahci
from xenfast.devices.debugcon import DebugPort, PostPort
from xenfast.devices.dma8237 import Dma
from xenfast.devices.drive import Drive
from xenfast.devices.fdc import Fdc
from xenfast.devices.fw_cfg import FwCfg
from xenfast.devices.i440fx import I440fx
from xenfast.devices.ide import Piix3Ide
from xenfast.devices.isa import Board
from xenfast.devices.parallel import ParallelPort
from xenfast.devices.pci import PciBus, PciDevice
from xenfast.devices.piix import Piix3, PirqRouter
from xenfast.devices.ps2 import Ps2Controller
from xenfast.devices.serial import Uart
from xenfast.devices.xen_platform import XenPlatform
from xenfast.xen.hvm import vpt
from xenfast.xen.hvm.hpet import Hpet
from xenfast.xen.hvm.irq import Line, Shared
from xenfast.xen.hvm.rtc import Rtc
from xenfast.xen.hvm.vioapic import IoApic
from xenfast.xen.hvm.vpic import Pics
from xenfast.xen.hvm.vpit import Pit

IOAPIC, HPET = 0xFEC00000, 0xFED00000
SERIAL_PORTS = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))         # COM1 to COM4: port, IRQ
ISA_IRQS = 16
IRQ0_INPUT = 2                  # of the I/O APIC
TIMER_MODES = {
    "delay_for_missed_ticks": vpt.DELAY_FOR_MISSED_TICKS, "no_delay_for_missed_ticks": vpt.NO_DELAY_FOR_MISSED_TICKS,
    "no_missed_ticks_pending": vpt.NO_MISSED_TICKS_PENDING, "one_missed_tick_pending": vpt.ONE_MISSED_TICK_PENDING,
}  # fmt: skip
LAPIC_INIT = 5                  # a delivery mode


class Gate:
    """A line that can be held low: the PIT's and the RTC's, while the HPET stands in for them."""

    def __init__(self, out: Line) -> None:
        self.out, self.closed = out, False
        self.line = Line(self._changed)

    def close(self, closed: bool) -> None:
        self.closed = closed
        self.out.set(self.line.level and not closed)

    def _changed(self, _number: int, level: bool) -> None:
        self.out.set(level and not self.closed)


class PC:
    """The machine of a domain.  ``config`` has the keys of xl.cfg(5) that it needs (``libxl.config.DomainConfig``).

    ``ide``, ``ahci`` and ``floppies`` are drives by position; ``serial`` has a function for what is sent by each serial port, None
    for a port that nobody listens to; ``cards`` are PCI functions that go into the first free slots, ``nics`` those that unplug
    takes away.
    """

    def __init__(
        self, domain: Any, config: Any, *, ide: Sequence[Drive | None] = (), floppies: Sequence[Drive | None] = (),
        serial: Sequence[Callable[[bytes], Any] | None] = (), parallel: Callable[[bytes], Any] | None = None,
        cards: Sequence[PciDevice] = (), nics: Sequence[PciDevice] = (), debug: Callable[[bytes], Any] | None = None,
        ahci: Sequence[Drive | None] = (),
    ) -> None:  # fmt: skip
        self.domain, self.config = domain, config
        self.hvm = hvm = domain.hvm
        self.timers = timers = hvm.timers
        mode = TIMER_MODES[config.timer_mode]

        # interrupt controllers
        self.pics = Pics(hvm.intr)
        self.ioapic = IoApic(hvm.apics.send)
        self.ioapic.extint = self._virtual_wire
        self.isa = [Shared(self._isa_changed, n) for n in range(ISA_IRQS)]
        self.router = PirqRouter(self.ioapic.set, self.irq)
        hvm.gsi_sinks.append(self._gsi)
        hvm.intack = self._acknowledge
        hvm.eoi = self.ioapic.eoi

        # timers
        self.irq0, self.irq8 = Gate(self.irq(0)), Gate(self.irq(8))
        self.pit = Pit(timers, self.irq0.line, mode)
        self.rtc = Rtc(timers, self.irq8.line, clock_offset(config), mode)
        self.hpet = Hpet(timers, self.router.input, (self.irq(0), self.irq(8)), self._replace) if config.hpet else None

        # the ISA bus
        self.dma = Dma(hvm.physmem)
        self.board = Board(timers, self.pit, self.rtc.write, self.restart, self.init)
        self.serial = [Uart(timers, self.irq(SERIAL_PORTS[n][1]), output) for n, output in enumerate(serial[:4])]
        self.parallel = ParallelPort(self.irq(7), parallel)
        self.ps2 = Ps2Controller(self.irq(1), self.irq(12), self.init, self.board.set_a20)
        self.fdc = Fdc(timers, self.irq(6), self.dma.channel(2), floppies)
        self.post = PostPort()
        self.debug = DebugPort("guest", debug)
        self.debug402 = DebugPort("firmware", debug)

        # PCI
        self.pci = PciBus(hvm.ports, hvm.mmio, self.router.interrupt, hvm.msi)
        self.i440fx = I440fx(hvm)
        self.piix3 = Piix3(self.router)
        self.ide = Piix3Ide(hvm.physmem, (self.irq(14), self.irq(15)), ide)
        self.pm = AcpiPm(timers, hvm.ports, self.irq(9), hvm.power_off)
        self.cpu_map = cpu_map.CpuMap(config.vcpus, self.pm.general_event)
        self.ahci = Ahci(hvm.physmem, ahci) if any(ahci) else None
        disks: list[Piix3Ide | Ahci] = [self.ide] if self.ahci is None else [self.ide, self.ahci]
        self.platform = XenPlatform(disks, nics) if config.xen_platform_pci else None
        self.vga: vga_pci.VgaCard | None = None
        if config.vga != "none":
            memory = domain.hypervisor.memory
            self.vga = vga_pci.make(hvm, timers, memory, domain.domid, video_memory(config.videoram))
        self.usb = uhci.make(timers, hvm.physmem, getattr(config, "usb", 0), getattr(config, "usbdevice", []))
        self.cards = [*([self.ahci] if self.ahci is not None else []), *cards, *nics]
        self._fw_cfg: FwCfg | None = None

        self._ports()
        self._memory()
        self._slots()
        self._parts()
        low, high = hvm.low_pages << 12, (hvm.high_pages << 12) + (1 << 32)
        types = [cmos.FLOPPY_1440 if drive is not None else cmos.NO_FLOPPY for drive in floppies]
        cmos.fill(self.rtc, low, high, types, [drive is not None and not drive.cdrom for drive in ide], config.vcpus)

    # --- what is where ------------------------------------------------------------------------------------------------------
    def _ports(self) -> None:
        """Later ones lie on top of earlier ones."""
        for port, region in (
            (0x000, self.dma.controllers[0].region),
            (0x020, self.pics.regions[0]),
            (0x040, self.pit.region),
            (0x060, self.ps2.data),
            (0x061, self.board.nsc),
            (0x064, self.ps2.control),
            (0x070, self.rtc.region),
            (0x070, self.board.nmi),
            (0x080, self.post.region),
            (0x081, self.dma.pages),
            (0x092, self.board.port92),
            (0x0A0, self.pics.regions[1]),
            (0x0B2, self.pm.smi_cmd),
            (0x0C0, self.dma.controllers[1].region),
            (0x0E9, self.debug.region),
            (0x170, self.ide.channels[1].command_block),
            (0x1F0, self.ide.channels[0].command_block),
            (0x376, self.ide.channels[1].control_block),
            (0x378, self.parallel.region),
            (0x3F0, self.fdc.region),
            (0x3F6, self.ide.channels[0].control_block),
            (0x3F7, self.fdc.region7),
            (0x402, self.debug402.region),
            (0x4D0, self.pics.elcr),
            (cpu_map.PORT, self.cpu_map.region),
            (0xAFE0, self.pm.gpe),
            (0xCF8, self.pci.address),
            (0xCF9, self.board.reset_control),
            (0xCFC, self.pci.data),
        ):
            self.hvm.ports.add(port, region)
        for (port, _), uart in zip(SERIAL_PORTS, self.serial):
            self.hvm.ports.add(port, uart.region)
        if self.platform is not None:
            self.hvm.ports.add(0x010, self.platform.ports)

    def _memory(self) -> None:
        self.hvm.mmio.add(IOAPIC, self.ioapic.region)
        if self.hpet is not None:
            self.hvm.mmio.add(HPET, self.hpet.region)

    def _slots(self) -> None:
        for device, slot, function in (
            (self.i440fx, 0, 0),
            (self.piix3, 1, 0),
            (self.ide, 1, 1),
            (self.usb, 1, 2),
            (self.pm, 1, 3),
            (self.vga, 2, 0),
            (self.platform, 3, 0),
        ):
            if device is not None:
                self.pci.attach(device, slot, function)
        for card in self.cards:
            self.plug(card)

    def plug(self, device: PciDevice, slot: int | None = None) -> PciDevice:
        """One more PCI function, in the first free slot from 4 on."""
        if slot is None:
            slot = next(n for n in range(4, 32) if n << 3 not in self.pci.functions)
        return self.pci.attach(device, slot)

    def _parts(self) -> None:
        """Everything with a state, in the order of loading: devices, then what their lines end in."""
        self.parts: dict[str, Any] = {
            "dma": self.dma, "board": self.board, "parallel": self.parallel, "ps2": self.ps2, "fdc": self.fdc, "post": self.post,
            "debug": self.debug, "debug402": self.debug402, "cpu_map": self.cpu_map, "pci": self.pci,
        }  # fmt: skip
        self.parts |= {f"serial{n}": uart for n, uart in enumerate(self.serial)}
        self.chips: dict[str, Any] = {"pit": self.pit, "rtc": self.rtc, "pics": self.pics, "ioapic": self.ioapic}
        if self.hpet is not None:
            self.chips = {"hpet": self.hpet} | self.chips

    def fw_cfg(self) -> FwCfg:
        """QEMU's firmware configuration, for firmware that asks for it; it is there from the first call on."""
        if self._fw_cfg is None:
            self._fw_cfg = FwCfg(self.hvm.physmem)
            self._fw_cfg.attach(self.hvm.ports)
        return self._fw_cfg

    # --- interrupts ---------------------------------------------------------------------------------------------------------------
    def irq(self, number: int) -> Line:
        """One more line into an interrupt of the ISA bus."""
        return self.isa[number].line()

    def _isa_changed(self, number: int, level: bool) -> None:
        self.pics.set(number, level)
        self.ioapic.set(number or IRQ0_INPUT, level)

    def _gsi(self, number: int, level: bool) -> None:
        """By number, as hypercalls and the callback of a PV driver do it."""
        lines = self.__dict__.setdefault("_gsi_lines", {})
        if number not in lines and 0 < number < 48:
            lines[number] = self.irq(number) if number < ISA_IRQS else self.router.input(number)
        if number in lines:
            lines[number].set(level)

    def _acknowledge(self, _vcpu: Any) -> int | None:
        return self.pics.acknowledge() if self.pics.pending else None

    def _virtual_wire(self, destination: int | None) -> None:
        """The I/O APIC sends the PICs' interrupts to the local APIC of this ID, or to none."""
        for vcpu in self.domain.vcpus:
            if vcpu.core is not None:
                vcpu.core.extint = vcpu.core.apic_id == destination
        self.hvm.intr(self.pics.pending)

    def _replace(self, on: bool) -> None:
        self.irq0.close(on)
        self.irq8.close(on)

    # --- from outside, with the lock held ----------------------------------------------------------------------------------------
    def power_button(self) -> None:
        self.pm.power_button()

    def set_vcpus(self, count: int) -> None:
        """Plug in the first so many vcpus, and the others out, by ACPI: it is for the guest to follow."""
        self.cpu_map.set(max(1, min(count, len(self.domain.vcpus))))

    def sleep_button(self) -> None:
        self.pm.sleep_button()

    def nmi(self, vcpu_id: int = 0) -> None:
        """A non-maskable interrupt (xl trigger nmi)."""
        vcpu = self.domain.vcpus[vcpu_id]
        if vcpu.core is not None:
            vcpu.core.nmi()
            vcpu.look()

    # --- reset -----------------------------------------------------------------------------------------------------------------------
    def restart(self) -> None:
        """The whole machine starts anew: the toolstack's work."""
        self.hvm.reset()

    def init(self) -> None:
        """The keyboard controller's or port 92h's reset of the processor.  Where the CMOS says what to go on with it is that
        and no more; otherwise it is how systems restart the machine.
        """
        if self.rtc.cmos[cmos.SHUTDOWN]:
            self.send_init(self.hvm.current.vcpu_id if self.hvm.current is not None else 0)
        else:
            self.restart()

    def send_init(self, vcpu_id: int) -> None:
        """INIT to one processor: the first starts at the reset vector, others wait for SIPI."""
        core = self.domain.vcpus[vcpu_id].core
        if core is not None:
            self.hvm.apics.send(core.apic_id, 0, LAPIC_INIT)

    def reset(self) -> None:
        """Every chip and device to its state after power-on; memory and processors are left alone."""
        for part in (*self.parts.values(), *self.chips.values()):
            part.reset()

    # --- state --------------------------------------------------------------------------------------------------------------------
    def save(self) -> dict[str, Any]:
        state = {name: part.save() for name, part in (self.parts | self.chips).items()}
        state["functions"] = {key: device.save() for key, device in self.pci.functions.items()}
        if self._fw_cfg is not None:
            state["fw_cfg"] = self._fw_cfg.save()
        return state

    def load(self, state: dict[str, Any]) -> None:
        """The state of a machine of the same configuration, whose memory is in place.  Devices raise their lines again, then the
        controllers get the state they had.
        """
        self.reset()
        if "fw_cfg" in state:
            self.fw_cfg().load(state["fw_cfg"])
        for key, device in list(self.pci.functions.items()):
            if key in state["functions"]:
                device.load(state["functions"][key])
            else:
                self.pci.detach(device)         # it had been unplugged
        for name, part in (self.parts | self.chips).items():
            part.load(state[name])


def video_memory(mebibytes: int) -> int:
    """Bytes of a BAR for ``videoram``: 16 MiB if it is not given, at least 2 MiB, a power of two."""
    size = max(2, min(mebibytes or 16, 256)) << 20
    return 1 << (size - 1).bit_length()


def clock_offset(config: Any) -> int:
    """Seconds between UTC and what the clock shows."""
    local = time.localtime().tm_gmtoff if config.localtime else 0
    return config.rtc_timeoffset + local
