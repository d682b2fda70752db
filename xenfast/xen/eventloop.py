"""Domain 0's event loop: what runs the kernel of a domain that is Python.

Ports raised for such a domain, calls asked for by other threads, timers of the machine's clock and readable host files
all become calls here, one at a time, first come, first served.  Callbacks never block.  Calls are made on the thread
that drives the machine (``Hypervisor.run``); handlers of ports on that thread or, in real time, on that of the vcpu
that has raised the port, as waking another thread of the host for every disk request would take longer than the request
(docs/decisions).  In virtual time there is one thread only, so that a run repeats to the bit.

A callback that fails is a bug of ours, not the guest's right to stop the machine: it is logged with its traceback and
counted.
"""

import heapq
import logging
import os
import selectors
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenfast.xen.evtchn import Channel
    from xenfast.xen.time import Clock

log = logging.getLogger("xenfast")


class Timer:
    """A call to come; cancel() prevents it."""

    __slots__ = ("args", "callback")

    def __init__(self, callback: Callable[..., Any], args: tuple) -> None:
        self.callback: Callable[..., Any] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None


class EventLoop:
    """``hypervisor.loop``.  post_event, call_soon, call_later and call_at may be called from any thread."""

    def __init__(self, clock: "Clock") -> None:
        self.clock = clock
        self.failures = 0               # callbacks that raised
        self.after_batch: Callable[[], Any] | None = None   # called after handlers of ports have run
        self.deliverers: set[int] = set()       # threads that call deliver_events() soon after they have raised a port
        self._events: deque[Channel] = deque()
        self._ready: deque[tuple[Callable[..., Any], tuple]] = deque()
        self._turn = threading.Lock()           # whose turn it is to run domain 0
        self._holder = 0                        # the thread that has it
        self._timers: list[tuple[int, int, Timer]] = []     # a heap of (deadline, number, timer)
        self._timer_lock = threading.Lock()
        self._count = 0
        self._waiting = False
        self._selector: selectors.BaseSelector | None = None
        self._pipe: tuple[int, int] | None = None
        self._readers = 0

    # --- what others ask for -----------------------------------------------------------------------------------------
    def post_event(self, channel: "Channel") -> None:
        """A pending port of a Python domain: its handler will be called."""
        self._events.append(channel)
        if self._waiting and threading.get_ident() not in self.deliverers:
            self.wake()

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self._ready.append((callback, args))
        if self._waiting:
            self.wake()

    def call_at(self, deadline: int, callback: Callable[..., Any], *args: Any) -> Timer:
        """Call when the machine's clock reaches ``deadline`` ns."""
        timer = Timer(callback, args)
        with self._timer_lock:
            self._count += 1
            heapq.heappush(self._timers, (deadline, self._count, timer))
        if self._waiting:
            self.wake()
        return timer

    def call_later(self, delay: int, callback: Callable[..., Any], *args: Any) -> Timer:
        """Call ``delay`` ns of the machine's clock from now."""
        return self.call_at(self.clock.now() + delay, callback, *args)

    def add_reader(self, fd: int, callback: Callable[[], Any]) -> None:
        """Call whenever the host's file ``fd`` can be read without blocking."""
        self._get_selector().register(fd, selectors.EVENT_READ, callback)
        self._readers += 1

    def remove_reader(self, fd: int) -> None:
        self._get_selector().unregister(fd)
        self._readers -= 1

    @property
    def has_readers(self) -> bool:
        return self._readers > 0

    # --- what the driver of the machine does -------------------------------------------------------------------------
    def run_ready(self) -> bool:
        """Make all calls that are due now, also those that they ask for; False when there was none."""
        ran = False
        while True:
            ran |= self.deliver_events()
            self._due_timers()
            if not self._ready:
                return ran
            ran = True
            with self._turn:
                self._holder = threading.get_ident()
                for _ in range(len(self._ready)):
                    callback, args = self._ready.popleft()
                    self._call(callback, args)
                self._holder = 0

    def deliver_events(self) -> bool:
        """Call the handlers of raised ports, unless another thread is at it: then it does these, too."""
        ran = False
        while self._events and self._turn.acquire(blocking=False):
            self._holder = threading.get_ident()
            try:
                while self._events:
                    ran = True
                    self._call(_deliver, (self._events.popleft(),))
                if self.after_batch is not None:
                    self.after_batch()
            finally:
                self._holder = 0
                self._turn.release()
        return ran

    def exclusively(self, callback: Callable[[], Any]) -> Any:
        """The result of a call while no other thread runs domain 0; also from within one of its callbacks.  Whoever holds
        the hypervisor's lock must not ask for this.
        """
        if self._holder == threading.get_ident():
            return callback()
        with self._turn:
            self._holder = threading.get_ident()
            try:
                return callback()
            finally:
                self._holder = 0

    def next_deadline(self) -> int | None:
        """When the next timer is due, in ns of the machine's clock."""
        if not self._timers:
            return None
        with self._timer_lock:
            while self._timers and self._timers[0][2].callback is None:
                heapq.heappop(self._timers)
            return self._timers[0][0] if self._timers else None

    def poll(self, seconds: float | None) -> None:
        """Wait at most so long for a wake(), a timer (of a real clock) or a readable file; queue the calls of readable
        files.
        """
        if seconds == 0 and not self._readers:
            return
        selector = self._get_selector()
        self._waiting = True                # from here on whoever adds something wakes us
        try:
            deadline = None if self.clock.is_virtual else self.next_deadline()
            if deadline is not None:
                left = max(0, deadline - self.clock.now()) / 1e9
                seconds = left if seconds is None else min(left, seconds)
            ready = selector.select(0 if self._ready or self._events else seconds)
        finally:
            self._waiting = False
        for key, _ in ready:
            if key.data is None:
                os.read(key.fd, 4096)
            else:
                self._ready.append((key.data, ()))

    def wake(self) -> None:
        """End poll() early, from any thread."""
        if self._pipe is not None:
            try:
                os.write(self._pipe[1], b"x")
            except BlockingIOError:         # full: it wakes up anyway
                pass

    def open(self) -> None:
        """From now on wake() ends a poll(), also one that is about to begin."""
        self._get_selector()

    @contextmanager
    def woken_by_signals(self) -> Iterator[None]:
        """On the main thread: a signal of the host ends a poll(), also one that is about to begin (Ctrl-C)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.open()
        assert self._pipe is not None
        before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)

    def close(self) -> None:
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None

    # --- inside ------------------------------------------------------------------------------------------------------
    def _get_selector(self) -> selectors.BaseSelector:
        if self._selector is None:
            read, write = os.pipe()
            os.set_blocking(read, False)
            os.set_blocking(write, False)
            self._pipe = read, write
            self._selector = selectors.DefaultSelector()
            self._selector.register(read, selectors.EVENT_READ, None)
        return self._selector

    def _due_timers(self) -> None:
        if not self._timers:
            return
        now = self.clock.now()
        with self._timer_lock:
            while self._timers and self._timers[0][0] <= now:
                timer = heapq.heappop(self._timers)[2]
                if timer.callback is not None:
                    self._ready.append((timer.callback, timer.args))

    def _call(self, callback: Callable[..., Any], args: tuple) -> None:
        try:
            callback(*args)
        except Exception:
            self.failures += 1
            log.exception("domain 0: %r failed", callback)


def _deliver(channel: "Channel") -> None:
    """Call the handler of a raised port; a port raised meanwhile is queued again."""
    if not channel.pending:             # closed or handled since
        return
    channel.pending = False
    if channel.handler is not None:
        channel.handler(channel.port)
    else:
        channel.pending = True          # masked meanwhile: kept for on_event()
