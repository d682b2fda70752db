"""Function 3 of the PIIX4: the ACPI power management registers, general purpose events and an SMBus host without devices.

Intel 82371AB data sheet (order 290562), 7 (configuration space) and 7.2, 7.3 (registers); ACPI specification 6.4, 4.8.3 and 4.8.4.  The
SCI is IRQ 9.  Sleep types: 0 is S5, as in the DSDT of the firmware; others wake up at once (WAK_STS).  Left out: SMI and the traps of
device activity (there is no SMM), throttling, transactions on the SMBus, where nobody answers.
"""

from collections.abc import Callable
from typing import Any

from xenfast.devices.pci import PciDevice
from xenfast.xen.hvm.bus import Bus, Region
from xenfast.xen.hvm.irq import Line
from xenfast.xen.hvm.pmtimer import PmTimer
from xenfast.xen.hvm.timers import Timers

# Configuration space: PMBA, PMREGMISC, SMBBA, SMBHSTCFG
PMBA, PMREGMISC, SMBBA, SMBHSTCFG = 0x40, 0x80, 0x90, 0xD2

# Power management I/O space
PMSTS, PMEN, PMCNTRL, PMTMR, GPSTS, GPEN, PCNTRL = 0x00, 0x02, 0x04, 0x08, 0x0C, 0x0E, 0x10
PM_SIZE = 64
TMR_STS, BM_STS, GBL_STS, PWRBTN_STS, SLPBTN_STS, RTC_STS, WAK_STS = 1, 1 << 4, 1 << 5, 1 << 8, 1 << 9, 1 << 10, 1 << 15
STATUS_BITS = TMR_STS | BM_STS | GBL_STS | PWRBTN_STS | SLPBTN_STS | RTC_STS | WAK_STS
TMR_EN, GBL_EN, PWRBTN_EN, SLPBTN_EN, RTC_EN = 1, 1 << 5, 1 << 8, 1 << 9, 1 << 10
ENABLE_BITS = TMR_EN | GBL_EN | PWRBTN_EN | SLPBTN_EN | RTC_EN
SCI_EN, BM_RLD, GBL_RLS, SLP_EN = 1, 2, 4, 1 << 13
SLP_TYP_SHIFT, S5 = 10, 0

ACPI_ENABLE, ACPI_DISABLE = 0xF1, 0xF0      # to SMI_CMD at B2h, as the FADT says
SMI_CMD = 0xB2
GPE0, GPE0_BYTES = 0xAFE0, 4                # status and enable bits of general purpose events

# SMBus host: HSTSTS, HSTCNT
SMB_SIZE = 16
SMB_DEV_ERR, SMB_START = 0x04, 0x40


class AcpiPm(PciDevice):
    """``sci`` is IRQ 9, ``power_off()`` what S5 does.  ``gpe`` (AFE0h, as Xen's) and ``smi_cmd`` (B2h) have fixed places."""

    def __init__(self, timers: Timers, ports: Bus, sci: Line, power_off: Callable[[], Any]) -> None:
        super().__init__("PIIX4 PM", 0x8086, 0x7113, 0x068000, revision=3, pin=1)
        self.ports, self.sci, self.power_off = ports, sci, power_off
        self.timer = PmTimer(timers, self._update)
        self.registers = Region(PM_SIZE, self._read, self._write, name="PIIX4 PM")
        self.smbus = Region(SMB_SIZE, self._read_smbus, self._write_smbus, width=1, name="PIIX4 SMBus")
        self.smi_cmd = Region(2, self._read_smi, self._write_smi, width=1, name="APM")          # B2h
        self.gpe = Region(GPE0_BYTES, self._read_gpe, self._write_gpe, width=1, name="GPE0")
        self.put(PMBA, 4, 0x00000001, 0xFFC0)
        self.put(PMREGMISC, 1, 0, 0x01)
        self.put(SMBBA, 4, 0x00000001, 0xFFF0)
        self.put(SMBHSTCFG, 1, 0, 0x0F)
        for offset, writable in ((0x44, 0xFFFFFFFF), (0x48, 0xFFFFFFFF), (0x4C, 0xFFFFFFFF), (0x50, 0xFFFFFFFF), (0x54, 0xFFFFFFFF),
                                 (0x58, 0xFFFFFFFF), (0x5C, 0xFFFFFFFF), (0x60, 0xFFFFFFFF), (0x64, 0xFFFFFFFF), (0x68, 0xFFFFFFFF),
                                 (0x6C, 0xFFFFFFFF), (0x70, 0xFFFFFFFF), (0x74, 0xFFFFFFFF), (0x78, 0xFFFFFFFF), (0x7C, 0xFFFFFFFF)):
            self.put(offset, 4, 0, writable)        # DEVACTA to DEVRESJ: traps that never come
        self._clear()

    def _clear(self) -> None:
        self.status = self.enable = 0
        self.control = SCI_EN                   # ACPI mode from power-on: the FADT names no SMI_CMD
        self.gp_status = self.gp_enable = 0
        self.apm = [0, 0]
        self.gpe_status, self.gpe_enable = bytearray(GPE0_BYTES // 2), bytearray(GPE0_BYTES // 2)
        self.smb = bytearray(SMB_SIZE)
        self.other = bytearray(PM_SIZE)

    # --- what others do -----------------------------------------------------------------------------------------------------
    def power_button(self) -> None:
        self.status |= PWRBTN_STS
        self._update()

    def sleep_button(self) -> None:
        self.status |= SLPBTN_STS
        self._update()

    def general_event(self, number: int) -> None:
        """Event ``number`` of GPE0, such as a change of devices or vcpus."""
        self.gpe_status[number >> 3] |= 1 << (number & 7)
        self._update()

    # --- inside ---------------------------------------------------------------------------------------------------------------
    def _update(self) -> None:
        if self.timer.carried():
            self.status |= TMR_STS
        pending = self.status & self.enable & ENABLE_BITS
        pending |= any(s & e for s, e in zip(self.gpe_status, self.gpe_enable))
        self.sci.set(self.control & SCI_EN and pending)
        self.timer.enable(bool(self.enable & TMR_EN) and not self.status & TMR_STS)

    def _get(self, offset: int) -> int:
        if offset == PMSTS:
            if self.timer.carried():
                self.status |= TMR_STS
            return self.status
        return {PMEN: self.enable, PMCNTRL: self.control, GPSTS: self.gp_status, GPEN: self.gp_enable}.get(
            offset, int.from_bytes(self.other[offset:offset + 2], "little"))

    def _read(self, offset: int, size: int) -> int:
        if offset & ~3 == PMTMR:
            return self.timer.read() >> 8 * (offset & 3)
        low = offset & ~1
        return (self._get(low) | self._get(min(low + 2, PM_SIZE - 2)) << 16) >> 8 * (offset & 1)

    def _write(self, offset: int, size: int, value: int) -> None:
        """In words; a byte changes its half, where ones clear a status bit."""
        low, done = offset & ~1, 0
        while done < size:
            if size == 1:
                shift = 8 * (offset & 1)
                keep = 0 if low in (PMSTS, GPSTS) else self._get(low) & ~(0xFF << shift)
                self._set(low, keep | (value & 0xFF) << shift)
            else:
                self._set(low + done, value >> 8 * done & 0xFFFF)
            done += 2
        self._update()

    def _set(self, offset: int, value: int) -> None:
        if offset == PMSTS:
            self._get(PMSTS)
            self.status &= ~(value & STATUS_BITS)
        elif offset == PMEN:
            self.enable = value & ENABLE_BITS
        elif offset == PMCNTRL:
            self.control = self.control & SCI_EN | value & (BM_RLD | 7 << SLP_TYP_SHIFT)
            if value & SLP_EN:
                self._sleep(value >> SLP_TYP_SHIFT & 7)
        elif offset == GPEN:
            self.gp_enable = value
        elif offset >= PCNTRL:
            self.other[offset:offset + 2] = value.to_bytes(2, "little")

    def _sleep(self, kind: int) -> None:
        if kind == S5:
            self.power_off()
        else:
            self.status |= WAK_STS | PWRBTN_STS

    def _read_smi(self, offset: int, size: int) -> int:
        return self.apm[offset]

    def _write_smi(self, offset: int, size: int, value: int) -> None:
        self.apm[offset] = value & 0xFF
        if offset == 0 and value in (ACPI_ENABLE, ACPI_DISABLE):
            self.control = self.control & ~SCI_EN | (value == ACPI_ENABLE)
            self._update()

    def _read_gpe(self, offset: int, size: int) -> int:
        return (self.gpe_status + self.gpe_enable)[offset]

    def _write_gpe(self, offset: int, size: int, value: int) -> None:
        half = GPE0_BYTES // 2
        if offset < half:
            self.gpe_status[offset] &= ~value & 0xFF
        else:
            self.gpe_enable[offset - half] = value & 0xFF
        self._update()

    def _read_smbus(self, offset: int, size: int) -> int:
        return self.smb[offset]

    def _write_smbus(self, offset: int, size: int, value: int) -> None:
        """Whatever transaction is started, no device answers."""
        if offset == 0:
            self.smb[0] &= ~value & 0xFF
        else:
            self.smb[offset] = value & (0x1F if offset == 2 else 0xFF)
            if offset == 2 and value & SMB_START:
                self.smb[0] |= SMB_DEV_ERR

    # --- configuration space ----------------------------------------------------------------------------------------------------
    def update(self) -> None:
        super().update()
        self._place(self.registers, self.get(PMBA, 2) & 0xFFC0 if self.config[PMREGMISC] & 1 else 0)
        self._place(self.smbus, self.get(SMBBA, 2) & 0xFFF0 if self.config[SMBHSTCFG] & 1 else 0)

    def _place(self, region: Region, address: int) -> None:
        if (region.start or 0) != address or self.bus is None:
            self.ports.remove(region)
            if address and self.bus is not None:
                self.ports.add(address, region)

    def reset(self) -> None:
        self._clear()
        self.timer.reset()
        self._update()
        super().reset()

    FIELDS = ("status", "enable", "control", "gp_status", "gp_enable")
    BYTES = ("gpe_status", "gpe_enable", "smb", "other")

    def save(self) -> dict[str, Any]:
        return super().save() | {name: getattr(self, name) for name in self.FIELDS} \
            | {name: bytes(getattr(self, name)) for name in self.BYTES} | {"apm": list(self.apm), "timer": self.timer.save()}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.FIELDS:
            setattr(self, name, state[name])
        for name in self.BYTES:
            setattr(self, name, bytearray(state[name]))
        self.apm = list(state["apm"])
        self.timer.load(state["timer"])
        super().load(state)
        self._update()
