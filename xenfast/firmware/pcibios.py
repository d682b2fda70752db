"""INT 1Ah/B1h: the PCI BIOS (PCI BIOS Specification 2.1), in real mode and, found by the BIOS32 service directory, in 32-bit code.

Configuration space is reached by mechanism 1, as everyone else does it.
"""

from xenfast.firmware.bios_rom import BASE
from xenfast.firmware.portio import PortIo
from xenfast.firmware.traps import Call

SUCCESSFUL, UNSUPPORTED, BAD_VENDOR, NOT_FOUND, BAD_REGISTER, SET_FAILED, TOO_SMALL = 0x00, 0x81, 0x83, 0x86, 0x87, 0x88, 0x89
SIGNATURE = 0x20494350          # "PCI "
MECHANISM_1 = 0x01
ADDRESS, DATA = 0xCF8, 0xCFC
VENDOR, CLASS, HEADER, SECONDARY = 0x00, 0x08, 0x0E, 0x18
ROUTING = b"$PIR"
LINKS = 0x60                    # PIRQRC[A-D] of the PIIX3


class PciBios:
    def __init__(self, ports: PortIo, service_length: int = 0x10000) -> None:
        self.ports = ports
        self.length = service_length
        self.last_bus = 0
        self.functions = {
            0x01: self.present, 0x02: self.find_device, 0x03: self.find_class, 0x06: self.special_cycle, 0x08: self.read, 0x09: self.read,
            0x0A: self.read, 0x0B: self.write, 0x0C: self.write, 0x0D: self.write, 0x0E: self.routing, 0x0F: self.set_interrupt,
        }   # fmt: skip

    # --- configuration space -----------------------------------------------------------------------------------------
    def _select(self, bdf: int, register: int) -> int:
        self.ports.outl(ADDRESS, 1 << 31 | bdf << 8 | register & 0xFC)
        return DATA + (register & 3)

    def config_read(self, bdf: int, register: int, size: int) -> int:
        """bdf is bus << 8 | device << 3 | function, as in BX."""
        port = self._select(bdf, register)
        return (self.ports.inb, self.ports.inw, self.ports.inl)[size >> 1](port)

    def config_write(self, bdf: int, register: int, size: int, value: int) -> None:
        port = self._select(bdf, register)
        (self.ports.outb, self.ports.outw, self.ports.outl)[size >> 1](port, value)

    def present_functions(self) -> list[int]:
        """All functions on all buses, in order."""
        found = []
        bus, self.last_bus = 0, 0
        while bus <= self.last_bus:
            for slot in range(32):
                first = bus << 8 | slot << 3
                if self.config_read(first, VENDOR, 2) in (0, 0xFFFF):
                    continue
                many = self.config_read(first, HEADER, 1) & 0x80
                for bdf in range(first, first + (8 if many else 1)):
                    if self.config_read(bdf, VENDOR, 2) in (0, 0xFFFF):
                        continue
                    found.append(bdf)
                    if self.config_read(bdf, HEADER, 1) & 0x7F == 1:        # a bridge
                        self.last_bus = max(self.last_bus, self.config_read(bdf, SECONDARY + 1, 1))
            bus += 1
        return found

    # --- entries -----------------------------------------------------------------------------------------------------
    def int1a(self, call: Call) -> None:
        """AL is the function; from 32-bit code the high bit of it is set by some callers."""
        handler = self.functions.get(call.al & 0x7F)
        status = UNSUPPORTED if handler is None else handler(call)
        call.ah, call.cf = status, status != SUCCESSFUL

    def far(self, call: Call) -> None:
        """The far entry for 32-bit code; flags are live."""
        call.flags_at = None
        if call.ah == 0xB1:
            self.int1a(call)
        else:
            call.ah, call.cf = UNSUPPORTED, True

    def bios32(self, call: Call, entry: int) -> None:
        """The service directory: EAX names a service, EBX, ECX, EDX say where it is (BIOS32 proposal 0.4)."""
        if call.ebx & 0xFF:
            call.al = 0x81
        elif call.eax == 0x49435024:            # "$PCI"
            call.ebx, call.ecx, call.edx, call.al = BASE, self.length, entry, 0
        else:
            call.al = 0x80

    # --- functions ---------------------------------------------------------------------------------------------------
    def present(self, call: Call) -> int:
        if self.config_read(0, VENDOR, 2) in (0, 0xFFFF):
            return NOT_FOUND
        self.present_functions()
        call.ax, call.bx, call.cl, call.edx = MECHANISM_1, 0x0210, self.last_bus, SIGNATURE
        return SUCCESSFUL

    def find_device(self, call: Call) -> int:
        """CX is the device, DX the vendor."""
        if call.dx == 0xFFFF:
            return BAD_VENDOR
        wanted = call.cx << 16 | call.dx
        return self._found(call, [bdf for bdf in self.present_functions() if self.config_read(bdf, VENDOR, 4) == wanted])

    def find_class(self, call: Call) -> int:
        wanted = call.ecx & 0xFFFFFF
        return self._found(call, [bdf for bdf in self.present_functions() if self.config_read(bdf, CLASS, 4) >> 8 == wanted])

    def _found(self, call: Call, functions: list[int]) -> int:
        """The SI-th of them."""
        if call.si >= len(functions):
            return NOT_FOUND
        call.bx = functions[call.si]
        return SUCCESSFUL

    def special_cycle(self, call: Call) -> int:
        return UNSUPPORTED                      # no device of ours listens to one

    def read(self, call: Call) -> int:
        size = 1 << (call.al & 0x7F) - 0x08
        if call.di > 0xFF or call.di & size - 1:
            return BAD_REGISTER
        value = self.config_read(call.bx, call.di, size)
        if size == 1:
            call.cl = value
        elif size == 2:
            call.cx = value
        else:
            call.ecx = value
        return SUCCESSFUL

    def write(self, call: Call) -> int:
        size = 1 << (call.al & 0x7F) - 0x0B
        if call.di > 0xFF or call.di & size - 1:
            return BAD_REGISTER
        self.config_write(call.bx, call.di, size, call.ecx)
        return SUCCESSFUL

    # --- interrupt routing -------------------------------------------------------------------------------------------
    def _slots(self, call: Call) -> bytes:
        """The slot entries of the routing table in ROM (PCI IRQ Routing Table Specification 1.0)."""
        rom = call.hvm.physmem.read(BASE, 0x10000)
        at = next((at for at in range(0, 0x10000, 16) if rom[at:at + 4] == ROUTING), None)
        if at is None:
            return b""
        size = int.from_bytes(rom[at + 6:at + 8], "little")
        return rom[at + 32:at + size] if 32 <= size <= 32 + 16 * 32 else b""

    def routing(self, call: Call) -> int:
        """0Eh: the table into the buffer that ES:DI describes; BX: interrupts that only PCI has."""
        slots = self._slots(call)
        wide = call.cpu.segment("cs")[3] & 0x4000 != 0 and call.flags_at is None        # a 32-bit caller: 48-bit pointers
        at = call.linear("es", call.edi if wide else call.di)
        size = call.mem.read_int(at, 2)
        call.mem.write_int(at, 2, len(slots))
        if size < len(slots):
            return TOO_SMALL
        if wide:
            buffer = call.linear("ds", call.mem.read_int(at + 2, 4))
        else:
            buffer = call.far(call.mem.read_int(at + 2, 4))
        call.mem.write(buffer, slots)
        call.bx = 0
        return SUCCESSFUL

    def set_interrupt(self, call: Call) -> int:
        """0Fh: the pin CL - 0Ah of device BX to interrupt CH, by the router of the PIIX3."""
        pin, irq = call.cl - 0x0A, call.ch
        entry = next((e for e in _entries(self._slots(call)) if e[0] == call.bx >> 8 and e[1] & 0xF8 == call.bx & 0xF8), None)
        if entry is None or not 0 <= pin < 4 or irq > 15:
            return SET_FAILED
        link, mask = entry[2 + 3 * pin], int.from_bytes(entry[3 + 3 * pin:5 + 3 * pin], "little")
        if not link or (irq and not mask >> irq & 1):
            return SET_FAILED
        register = LINKS + link - 1 if link <= 4 else link
        if not LINKS <= register < LINKS + 4:
            return SET_FAILED
        self.config_write(1 << 3, register, 1, irq or 0x80)
        return SUCCESSFUL


def _entries(slots: bytes) -> list[bytes]:
    return [slots[at:at + 16] for at in range(0, len(slots) - 15, 16)]
