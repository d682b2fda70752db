"""A serial EEPROM of 64 words behind three wires, as network cards have: reading a 93C46 (Microchip DS21749).

A command begins with the first one that is shifted in after the chip has been selected: 110b and six bits of address read; a word
comes out after them, highest bit first, and the next words after it.  Other commands have no effect.
"""

from typing import Any

READ = 0b110
ADDRESS_BITS = 6


class Microwire:
    def __init__(self, words: list[int]) -> None:
        self.words = words
        self.reset()

    def reset(self) -> None:
        self.clock = False
        self.shifted = self.count = 0           # what has come since the chip was selected
        self.out: int | None = None             # bits that go out are counted here; -1: a zero comes first

    def drive(self, select: int, clock: int, data: int) -> None:
        """The levels of CS, SK and DI."""
        rises, falls = clock and not self.clock, self.clock and not clock
        self.clock = bool(clock)
        if not select:
            self.shifted = self.count = 0
            self.out = None
        elif rises:
            self._rise(bool(data))
        elif falls and self.out is not None:
            self.out += 1

    def _rise(self, bit: bool) -> None:
        if self.out is not None or (not self.count and not bit):
            return
        self.shifted, self.count = self.shifted << 1 | bit, self.count + 1
        if self.count == 3 + ADDRESS_BITS:
            if self.shifted >> ADDRESS_BITS == READ:
                self.shifted &= (1 << ADDRESS_BITS) - 1
                self.out = -1
            else:
                self.shifted = self.count = 0

    @property
    def data(self) -> bool:
        """The level of DO."""
        if self.out is None or self.out < 0:
            return self.out is None
        word = self.words[(self.shifted + self.out // 16) % len(self.words)]
        return bool(word >> 15 - self.out % 16 & 1)

    def save(self) -> dict[str, Any]:
        return {"clock": self.clock, "shifted": self.shifted, "count": self.count, "out": self.out}

    def load(self, state: dict[str, Any]) -> None:
        self.clock, self.shifted, self.count, self.out = state["clock"], state["shifted"], state["count"], state["out"]
