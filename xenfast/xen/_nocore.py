"""What the hypervisor needs of the core, for as long as the core has not been built."""

import time


class MachineClock:
    def __init__(self, virtual: bool) -> None:
        self.virtual = virtual
        self.value = 0
        self.start = time.monotonic_ns()

    def now(self) -> int:
        return self.value if self.virtual else time.monotonic_ns() - self.start

    def skip(self, ns: int) -> None:
        self.value += ns
