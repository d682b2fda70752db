"""The parts of the hypervisor that domain 0's drivers use, in a few lines: docs/design.md, "Contracts".

Events wait in a queue until ``Hypervisor.run()``, as in domain 0's event loop; grants are a dict from reference to frame.
"""

from collections import deque
from errno import EINVAL
from threading import RLock

from xenfast.errors import XenError

GNTST_BAD_GNTREF = -3


class Memory:
    def __init__(self, frames: int) -> None:
        self.ram = bytearray(frames * 4096)
        self.free = list(range(frames - 1, 0, -1))
        self.written: list[int] = []

    def view(self, mfn: int, count: int = 1) -> memoryview:
        return memoryview(self.ram)[mfn * 4096 : (mfn + count) * 4096]

    def wrote(self, mfn: int, count: int = 1) -> None:
        self.written.append(mfn)

    def alloc(self, domid: int, n: int, **_) -> list[int]:
        return [self.free.pop() for _ in range(n)]


class Loop:
    """Domain 0's event loop."""

    def __init__(self) -> None:
        self.queue: deque = deque()

    def call_soon(self, function, *args) -> None:
        self.queue.append((function, args))

    def run(self) -> None:
        while self.queue:
            function, args = self.queue.popleft()
            function(*args)


class EventChannels:
    def __init__(self, domain: "Domain") -> None:
        self.domain = domain
        self.ports: dict[int, dict] = {}

    def new(self, **state) -> int:
        port = next(n for n in range(1, 1 << 20) if n not in self.ports)
        self.ports[port] = {"peer": None, "handler": None, "pending": False, **state}
        return port

    def alloc_unbound(self, remote_domid: int) -> int:
        return self.new(remote=remote_domid)

    def bind_interdomain(self, remote_domid: int, remote_port: int) -> int:
        remote = self.domain.hypervisor.domain(remote_domid).evtchn
        theirs = remote.ports.get(remote_port)
        if theirs is None or theirs["peer"] or theirs.get("remote") != self.domain.domid:
            raise XenError(EINVAL, "not unbound for us")
        port = self.new(peer=(remote, remote_port))
        theirs["peer"] = (self, port)
        self.raise_port(port)
        return port

    def raise_port(self, port: int) -> None:
        state = self.ports[port]
        if not state["pending"]:
            state["pending"] = True
            if state["handler"]:
                self.domain.hypervisor.loop.call_soon(self.deliver, port)

    def deliver(self, port: int) -> None:
        state = self.ports.get(port)
        if state and state["pending"]:
            state["pending"] = False
            state["handler"](port)

    def on_event(self, port: int, handler) -> None:
        self.ports[port]["handler"] = handler
        if self.ports[port]["pending"]:
            self.domain.hypervisor.loop.call_soon(self.deliver, port)

    def send(self, port: int) -> None:
        if port not in self.ports:
            raise XenError(EINVAL, "port is not open")
        if peer := self.ports[port]["peer"]:
            peer[0].raise_port(peer[1])

    def close(self, port: int) -> None:
        if port not in self.ports:
            raise XenError(EINVAL, "port is not open")
        if peer := self.ports.pop(port)["peer"]:
            peer[0].ports[peer[1]]["peer"] = None


class GrantMapping:
    def __init__(self, table: "GrantTable", ref: int, mfn: int, readonly: bool) -> None:
        self.table, self.ref, self.mfn = table, ref, mfn
        view = table.memory.view(mfn)
        self.view = view.toreadonly() if readonly else view
        table.mapped[ref] = table.mapped.get(ref, 0) + 1

    def wrote(self) -> None:
        self.table.memory.wrote(self.mfn)

    def unmap(self) -> None:
        if self.table is not None:
            self.table.mapped[self.ref] -= 1
            self.table = None
            self.view.release()


class GrantTable:
    def __init__(self, domain: "Domain") -> None:
        self.memory = domain.hypervisor.memory
        self.entries: dict[int, tuple[int, int, bool]] = {}
        self.mapped: dict[int, int] = {}
        self.next = 8

    def grant(self, frame: int, to_domid: int, readonly: bool = False) -> int:
        self.next += 1
        self.entries[self.next] = (frame, to_domid, readonly)
        return self.next

    def end_access(self, ref: int) -> bool:
        return not self.mapped.get(ref) and bool(self.entries.pop(ref, True))

    def map(self, ref: int, readonly: bool = False, mapper=None) -> GrantMapping:
        frame, domid, only = self.entries.get(ref, (0, -1, True))
        if domid != (mapper.domid if mapper else 0) or (only and not readonly):
            raise XenError(GNTST_BAD_GNTREF, f"grant {ref}")
        return GrantMapping(self, ref, frame, readonly)


class Domain:
    def __init__(self, hypervisor: "Hypervisor", domid: int) -> None:
        self.hypervisor, self.domid = hypervisor, domid
        self.evtchn = EventChannels(self)
        self.gnttab = GrantTable(self)
        self.on_shutdown: list = []


class Hypervisor:
    def __init__(self, frames: int = 1024) -> None:
        self.memory = Memory(frames)
        self.loop = Loop()
        self.lock = RLock()
        self.domains: dict[int, Domain] = {}
        for domid in (0, 1):
            self.domains[domid] = Domain(self, domid)

    def domain(self, domid: int) -> Domain:
        return self.domains[domid]

    def run(self) -> None:
        self.loop.run()
