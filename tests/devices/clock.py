"""Time for tests of chips and devices: ``Timers`` whose clock stands still until it is told to go on."""

import heapq
import types

from xenfast.xen.eventloop import Timer


class FakeTimers:
    def __init__(self, now=0, wall_at_zero=1_700_000_000 * 10**9):
        self.time, self.heap, self.count = now, [], 0
        self.loop = types.SimpleNamespace(clock=types.SimpleNamespace(wall_at_zero=wall_at_zero))

    def now(self):
        return self.time

    def call_at(self, deadline, callback, *args):
        timer = Timer(callback, args)
        self.count += 1
        heapq.heappush(self.heap, (deadline, self.count, timer))
        return timer

    def call_later(self, delay, callback, *args):
        return self.call_at(self.time + delay, callback, *args)

    def call_soon(self, callback, *args):
        self.call_at(self.time, callback, *args)

    @property
    def pending(self):
        """How many calls are to come."""
        return sum(timer.callback is not None for _, _, timer in self.heap)

    def advance(self, ns, late=0):
        """Time goes on, and calls are made at their moments; ``late``: first it jumps that far at once."""
        self.time += late
        end = self.time + ns
        while self.heap and self.heap[0][0] <= end:
            deadline, _, timer = heapq.heappop(self.heap)
            if timer.callback is not None:
                self.time = max(self.time, deadline)
                timer.callback(*timer.args)
        self.time = end
