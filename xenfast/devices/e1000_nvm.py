"""The EEPROM and the PHY of the 82540EM.

SDM 317453: the EEPROM is 64 words behind a Microwire (13.4.3: EECD bit by bit, 13.4.4: EERD a word at a time), of which a driver
wants the address (words 0 to 2) and a sum of BABAh (5.6).  The PHY is a Marvell 88E1011 behind MDIC (13.4.6), registers of IEEE 802.3
clause 22 and a few of its own.  The EEPROM cannot be written.
"""

from typing import Any

from xenfast.devices.microwire import Microwire

# EECD
SK, CS, DI, DO, REQ, GNT, PRESENT = 1, 2, 4, 8, 0x40, 0x80, 0x100
EERD_START, EERD_DONE = 1, 0x10
SUM = 0xBABA

# EEPROM words beside the address: compatibility, ID, initialisation control (table 5-2)
WORDS = {0x03: 0x0000, 0x04: 0xFFFF, 0x05: 0xFFFF, 0x08: 0x3000, 0x09: 0x1000, 0x0A: 0x6403, 0x0B: 0x001E, 0x0C: 0x8086, 0x0D: 0x100E,
         0x0E: 0x8086, 0x0F: 0x3040, 0x10: 0x0008, 0x11: 0x2000, 0x12: 0x7E14, 0x13: 0x0048, 0x14: 0x1000, 0x15: 0x00D8}


class Eeprom:
    def __init__(self, mac: bytes) -> None:
        self.words = [WORDS.get(n, 0) for n in range(64)]
        self.words[:3] = [int.from_bytes(mac[n:n + 2], "little") for n in (0, 2, 4)]
        self.words[0x3F] = SUM - sum(self.words[:0x3F]) & 0xFFFF
        self.reset()

    def reset(self) -> None:
        self.eecd = self.eerd = 0
        self.wires = Microwire(self.words)

    def read_eecd(self) -> int:
        return self.eecd & (SK | CS | DI | REQ) | PRESENT | (GNT if self.eecd & REQ else 0) | (DO if self.wires.data else 0)

    def write_eecd(self, value: int) -> None:
        self.eecd = value
        self.wires.drive(value & CS, value & SK, value & DI)

    def read_eerd(self) -> int:
        return self.eerd

    def write_eerd(self, value: int) -> None:
        if value & EERD_START:
            self.eerd = value & 0xFF00 | EERD_DONE | self.words[value >> 8 & 63] << 16

    def save(self) -> dict[str, Any]:
        return {"eecd": self.eecd, "eerd": self.eerd, "wires": self.wires.save()}

    def load(self, state: dict[str, Any]) -> None:
        self.eecd, self.eerd = state["eecd"], state["eerd"]
        self.wires.load(state["wires"])


# MDIC
DATA, REGISTER_SHIFT, PHY_SHIFT, OPERATION_SHIFT, READY, INTERRUPT, ERROR = 0xFFFF, 16, 21, 26, 1 << 28, 1 << 29, 1 << 30
WRITE_OPERATION, READ_OPERATION = 1, 2
ADDRESS = 1
CONTROL, PHY_STATUS, PSSR = 0, 1, 17
CONTROL_RESET, CONTROL_LOOPBACK, CONTROL_RESTART = 0x8000, 0x4000, 0x0200
STATUS_LINK, STATUS_DONE, PSSR_LINK = 0x0004, 0x0020, 0x0400

# Register, value after reset, bits that can be written (clause 22; 16 on: 88E1011)
REGISTERS = (
    (0, 0x1140, 0x7FC0),        # control: automatic negotiation, full duplex, 1000 Mb/s
    (1, 0x7949, 0),             # status
    (2, 0x0141, 0), (3, 0x0C20, 0),     # identifier
    (4, 0x0DE1, 0xFFFF),        # advertisement
    (5, 0xCDE1, 0),             # link partner's ability
    (6, 0x000F, 0),             # expansion
    (7, 0x2001, 0xFFFF),        # next page
    (9, 0x0E00, 0xFFFF),        # 1000BASE-T control
    (10, 0x3C00, 0),            # 1000BASE-T status
    (15, 0x3000, 0),            # extended status
    (16, 0x0068, 0xFFFF),       # PHY specific control
    (17, 0xA808, 0),            # PHY specific status: 1000 Mb/s, full duplex, resolved
    (18, 0x0000, 0xFFFF),       # interrupt enable
    (20, 0x0D60, 0xFFFF),       # extended control
    (29, 0, 0xFFFF), (30, 0, 0xFFFF),
)  # fmt: skip


class Phy:
    def __init__(self) -> None:
        self.link = True
        self.reset()

    def reset(self) -> None:
        self.mdic = READY
        self.values = {number: value for number, value, _ in REGISTERS}
        self.writable = {number: mask for number, _, mask in REGISTERS}

    @property
    def loopback(self) -> bool:
        return bool(self.values[CONTROL] & CONTROL_LOOPBACK)

    def read(self, number: int) -> int:
        value = self.values[number]
        if number == PHY_STATUS and self.link:
            value |= STATUS_LINK | STATUS_DONE
        elif number == PSSR and self.link:
            value |= PSSR_LINK
        return value

    def write_mdic(self, value: int) -> bool:
        """An access of the PHY; returns whether an interrupt is wanted at its end."""
        number, operation = value >> REGISTER_SHIFT & 31, value >> OPERATION_SHIFT & 3
        self.mdic = value & ~ERROR | READY
        if value >> PHY_SHIFT & 31 != ADDRESS or number not in self.values:
            self.mdic |= ERROR
        elif operation == READ_OPERATION:
            self.mdic = self.mdic & ~DATA | self.read(number)
        elif operation == WRITE_OPERATION:
            if number == CONTROL and value & CONTROL_RESET:
                mdic = self.mdic
                self.reset()
                self.mdic = mdic
            else:
                mask = self.writable[number] & ~(CONTROL_RESTART if number == CONTROL else 0)
                self.values[number] = self.values[number] & ~mask | value & mask
        return bool(value & INTERRUPT)

    def save(self) -> dict[str, Any]:
        return {"mdic": self.mdic, "values": dict(self.values), "link": self.link}

    def load(self, state: dict[str, Any]) -> None:
        self.mdic, self.values, self.link = state["mdic"], dict(state["values"]), state["link"]
