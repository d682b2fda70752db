"""What happens to the domains of a host, as it happens: ``host.events``.

    stop = host.events.listen(print)            # a call for each event
    with host.events.queue() as queue:          # or a queue
        event = queue.get(timeout=5)

Kinds: created, paused, unpaused, ended (``how``: poweroff, reboot, crash ...), destroyed, renamed, device (``what``: attached,
detached ...).  Listeners are called on the thread on which it happens and must not block.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("xenfast")

QUEUE_SIZE = 1024       # of a listener that does not read: older events are dropped


@dataclass(frozen=True)
class Event:
    """One thing that has happened to a domain."""

    kind: str
    domid: int
    name: str
    details: dict[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)          # seconds since 1970

    def as_dict(self) -> dict[str, Any]:
        return {"event": self.kind, "domid": self.domid, "name": self.name, "time": round(self.time, 6), **self.details}


class EventQueue:
    """Events since it was opened, oldest first."""

    def __init__(self, events: Events) -> None:
        self._queue: queue.Queue[Event] = queue.Queue(QUEUE_SIZE)
        self._stop = events.listen(self._put)

    def _put(self, event: Event) -> None:
        while True:
            try:
                return self._queue.put_nowait(event)
            except queue.Full:
                try:
                    self._queue.get_nowait()
                except queue.Empty:
                    pass

    def get(self, timeout: float | None = None) -> Event | None:
        """The next event; None when there was none in time."""
        try:
            return self._queue.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        self._stop()

    def __enter__(self) -> EventQueue:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Events:
    """``host.events``."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Event], Any]] = []

    def listen(self, listener: Callable[[Event], Any]) -> Callable[[], None]:
        """Call with every event; returns a function that ends this."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def queue(self) -> EventQueue:
        """A queue that gets every event from now on."""
        return EventQueue(self)

    def emit(self, kind: str, domid: int, name: str, **details: Any) -> None:
        event = Event(kind, domid, name, details)
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                log.exception("a listener of events failed")
