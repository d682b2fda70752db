"""The FIFO event channel ABI: an event word per port in pages of the guest, and linked queues by priority for each
vcpu.

Specified in xen/include/public/event_channel.h ("FIFO ABI"); follows xen/common/event_fifo.c.  A word has the bits
PENDING, MASKED, LINKED, BUSY and the LINK to the next port of its queue; the control block of a vcpu has the heads of
its 16 queues and a bit per queue that holds something.  Xen appends to the tail, which only it knows; the guest takes
from the head, at the same time.
"""

from typing import TYPE_CHECKING, Any

from xenfast._core import SharedWords
from xenfast.abi import event_channel as abi
from xenfast.xen.evtchn import Channel, EventChannels

if TYPE_CHECKING:
    from xenfast.xen.domain import Domain

WORDS_PER_PAGE = 4096 // 4
MAX_PAGES = abi.EVTCHN_FIFO_NR_CHANNELS // WORDS_PER_PAGE
LINKED = 1 << abi.EVTCHN_FIFO_LINKED
BUSY = 1 << abi.EVTCHN_FIFO_BUSY
SET_LINK_TRIES = 4          # the guest may change other bits of the word meanwhile, but hardly so often


class ControlBlock:
    """The control block of a vcpu: the shared words, and the tail of each queue."""

    def __init__(self, words: Any, first: int) -> None:
        self.words = words
        self.first = first                      # index of the 32-bit word "ready"
        self.tails = [0] * abi.EVTCHN_FIFO_MAX_QUEUES

    def set_head(self, priority: int, port: int) -> None:
        self.words.store32(self.first + abi.CONTROL_HEAD // 4 + priority, port)

    def set_ready(self, priority: int) -> bool:
        """Was the queue marked as holding something already?"""
        return self.words.test_and_set_bit(self.first * 32 + priority)


class FifoPorts:
    """The ports of a guest that has called EVTCHNOP_init_control."""

    max_ports = abi.EVTCHN_FIFO_NR_CHANNELS

    def __init__(self, domain: "Domain") -> None:
        self.domain = domain
        self.memory = domain.hypervisor.memory
        self.pages: list[Any] = []              # SharedWords of the event array
        self.blocks: list[ControlBlock | None] = [None] * len(domain.vcpus)

    # --- set up ------------------------------------------------------------------------------------------------------
    def take_over(self, evtchn: EventChannels) -> None:
        """The domain leaves the two-level ABI: what is pending there is remembered until the event array has its
        words.
        """
        for channel in evtchn.channels:
            if channel is not None:
                channel.pending = evtchn.abi.is_pending(channel)
        evtchn.abi = self

    def has_control_block(self, vcpu_id: int) -> bool:
        return self.blocks[vcpu_id] is not None

    def set_control_block(self, vcpu_id: int, mfn: int, offset: int) -> None:
        words = SharedWords(self.memory.view(mfn))
        block = self.blocks[vcpu_id] = ControlBlock(words, offset // 4)
        for priority in range(abi.EVTCHN_FIFO_MAX_QUEUES):
            block.set_head(priority, 0)

    @property
    def is_full(self) -> bool:
        return len(self.pages) >= MAX_PAGES

    def expand_array(self, evtchn: EventChannels, mfn: int) -> None:
        """The next page of event words; ports that were raised before they had one are raised now."""
        first = len(self.pages) * WORDS_PER_PAGE
        self.pages.append(SharedWords(self.memory.view(mfn)))
        for channel in evtchn.channels[first:first + WORDS_PER_PAGE]:
            if channel is not None and channel.pending:
                channel.pending = False
                self.set_pending(channel)

    def port_init(self, channel: Channel) -> None:
        """A port may be used again while its word is still linked: then it keeps its place in the old queue."""
        channel.priority = abi.EVTCHN_FIFO_PRIORITY_DEFAULT

    def _word(self, port: int) -> tuple[Any, int] | None:
        page, index = divmod(port, WORDS_PER_PAGE)
        return (self.pages[page], index) if page < len(self.pages) else None

    # --- the port ABI ------------------------------------------------------------------------------------------------
    def set_pending(self, channel: Channel) -> None:
        """evtchn_fifo_set_pending(): mark the word, and link it to the tail of its queue unless it is linked or
        masked.
        """
        port = channel.port
        word = self._word(port)
        if word is None:
            channel.pending = True
            return
        words, index = word
        bit = index * 32
        was_pending = words.test_and_set_bit(bit + abi.EVTCHN_FIFO_PENDING)
        masked = words.test_bit(bit + abi.EVTCHN_FIFO_MASKED)
        if not masked and not words.test_bit(bit + abi.EVTCHN_FIFO_LINKED):
            self._link(channel, words, bit)
        if not was_pending:
            self.domain.check_pollers(port)

    def _link(self, channel: Channel, words: Any, bit: int) -> None:
        block = self.blocks[channel.vcpu]
        if block is None:
            return
        if words.test_and_set_bit(bit + abi.EVTCHN_FIFO_LINKED):
            return
        port, priority = channel.port, channel.priority
        old = self.blocks[channel.last_vcpu]
        if old is not None and old.tails[channel.last_priority] == port:
            old.tails[channel.last_priority] = 0        # it was the last of the queue it has left
        channel.last_vcpu, channel.last_priority = channel.vcpu, priority
        tail = block.tails[priority]
        linked = bool(tail) and self._set_link(tail, port)
        if not linked:
            block.set_head(priority, port)
        block.tails[priority] = port
        if not linked and not block.set_ready(priority):
            self.domain.vcpus[channel.vcpu].mark_events_pending()

    def _set_link(self, tail: int, port: int) -> bool:
        """Link ``port`` behind the tail; False when the guest has taken the tail off the queue meanwhile."""
        word = self._word(tail)
        if word is None:
            return False
        words, index = word
        for _ in range(SET_LINK_TRIES):
            old = words.load32(index)
            if not old & LINKED:
                return False
            if words.cas32(index, old, (old & ~(BUSY | abi.EVTCHN_FIFO_LINK_MASK)) | port):
                return True
        # The guest keeps changing the word.  BUSY asks it to leave the link alone; one that does not gets a new queue.
        words.test_and_set_bit(index * 32 + abi.EVTCHN_FIFO_BUSY)
        for _ in range(SET_LINK_TRIES):
            old = words.load32(index)
            if not old & LINKED:
                words.test_and_clear_bit(index * 32 + abi.EVTCHN_FIFO_BUSY)
                return False
            if words.cas32(index, old, (old & ~(BUSY | abi.EVTCHN_FIFO_LINK_MASK)) | port):
                return True
        self.domain.log_once(("fifo", "busy"), "event word of port %d keeps changing", tail)
        return False

    def clear_pending(self, channel: Channel) -> None:
        channel.pending = False
        word = self._word(channel.port)
        if word is not None:
            word[0].test_and_clear_bit(word[1] * 32 + abi.EVTCHN_FIFO_PENDING)

    def is_pending(self, channel: Channel) -> bool:
        word = self._word(channel.port)
        return channel.pending if word is None else word[0].test_bit(word[1] * 32 + abi.EVTCHN_FIFO_PENDING)

    def is_masked(self, channel: Channel) -> bool:
        word = self._word(channel.port)
        return word is None or word[0].test_bit(word[1] * 32 + abi.EVTCHN_FIFO_MASKED)

    def unmask(self, channel: Channel) -> None:
        word = self._word(channel.port)
        if word is None:
            return
        words, bit = word[0], word[1] * 32
        words.test_and_clear_bit(bit + abi.EVTCHN_FIFO_MASKED)
        if words.test_bit(bit + abi.EVTCHN_FIFO_PENDING):
            self.set_pending(channel)
