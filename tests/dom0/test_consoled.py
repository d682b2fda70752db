"""The console daemon on a guest's console page."""

import random

import pytest

from xenfast.abi.io import console as abi
from xenfast.dom0.consoled import ConsoleBackend
from xenfast.errors import XenError


class GuestConsole:
    """hvc_xen's side of the ring."""

    def __init__(self, machine):
        self.machine, self.domain = machine, machine.guest
        self.mfn = int(self.domain.alloc_pages(1)[0])
        self.page = machine.hypervisor.memory.view(self.mfn)
        self.words = self.page[abi.INDEX_OFFSET : abi.INDEX_OFFSET + 16].cast("I")
        self.port = self.domain.evtchn.alloc_unbound(0)
        self.shown = bytearray()
        self.backend = ConsoleBackend(machine.hypervisor, self.domain, self.mfn, self.port, self.shown.extend)

    def notify(self):
        self.domain.evtchn.send(self.port)
        self.machine.run()

    def put(self, data):
        """Print what fits; the number of bytes taken."""
        cons, prod = self.words[abi.OUT_CONS], self.words[abi.OUT_PROD]
        data = data[: abi.OUT_SIZE - (prod - cons & 0xFFFFFFFF)]
        for i, byte in enumerate(data):
            self.page[abi.OUT_OFFSET + (prod + i) % abi.OUT_SIZE] = byte
        self.words[abi.OUT_PROD] = (prod + len(data)) & 0xFFFFFFFF
        return len(data)

    def get(self, limit=1 << 20):
        cons, prod = self.words[abi.IN_CONS], self.words[abi.IN_PROD]
        count = min(limit, prod - cons & 0xFFFFFFFF)
        data = bytes(self.page[(cons + i) % abi.IN_SIZE] for i in range(count))
        self.words[abi.IN_CONS] = (cons + count) & 0xFFFFFFFF
        return data


@pytest.fixture
def console(machine):
    console = GuestConsole(machine)
    yield console
    console.backend.close()


def test_output_arrives_in_order_and_whole(console):
    """More than the ring holds, in pieces of all sizes, also where the 32-bit indices wrap."""
    random_ = random.Random(2)
    console.words[abi.OUT_CONS] = console.words[abi.OUT_PROD] = 0xFFFFF000
    data = random_.randbytes(20000)
    sent = 0
    while sent < len(data):
        sent += console.put(data[sent : sent + random_.randint(1, 3000)])
        console.notify()
    assert console.shown == data


def test_input_waits_until_there_is_room(machine, console):
    """What is typed is delivered as the guest reads, and nothing is lost."""
    data = random.Random(3).randbytes(5000)
    console.backend.send(data)
    got = b""
    while len(got) < len(data):
        machine.run()
        piece = console.get(700)
        assert piece
        got += piece
        console.notify()
    assert got == data


def test_a_guest_that_reads_without_notifying_gets_all_its_input(machine, console):
    """While input waits the daemon looks by itself, and gives up looking when nothing is read for long."""
    deadlines = []
    console.backend.loop.call_later = lambda delay, function, *args: deadlines.append((delay, function, args))
    data = random.Random(4).randbytes(3000)
    console.backend.send(data)
    got = console.get()
    while len(got) < len(data):
        delay, function, args = deadlines.pop()
        assert delay == 1_000_000 and not deadlines
        function(*args)
        got += console.get()
    assert got == data
    console.backend.send(bytes(5000))
    delays = []
    while deadlines:
        delay, function, args = deadlines.pop()
        delays.append(delay)
        function(*args)
    assert delays == [1_000_000 << i for i in range(10)]


def test_the_last_words_of_a_guest_are_not_lost(console):
    """Output without a notification is found when the domain has ended."""
    console.put(b"Power down.\n")
    console.backend.drain()
    console.put(b"really\n")
    console.backend.close()
    assert console.shown == b"Power down.\nreally\n"


@pytest.mark.parametrize("word", [abi.OUT_PROD, abi.OUT_CONS, abi.IN_PROD, abi.IN_CONS])
def test_wild_indices_end_the_console_only(console, word):
    """An index out of bounds is logged; the host goes on."""
    console.words[word] = 0x10000000
    console.notify()
    console.backend.send(b"x")
    console.notify()
    assert not console.backend.open
    assert console.shown == b""


def test_a_page_of_somebody_else_is_refused(machine):
    """The ring must be the domain's own memory."""
    port = machine.guest.evtchn.alloc_unbound(0)
    for mfn in (int(machine.hypervisor.memory.alloc(0, 1)[0]), 1 << 40):
        with pytest.raises(XenError):
            ConsoleBackend(machine.hypervisor, machine.guest, mfn, port, bytes)
