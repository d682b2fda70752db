"""The public API: a Host, one Xen machine in this process.

    with Host() as host:
        domain = host.create("guest.cfg")               # or a dict, or a DomainConfig
        domain.console.expect("login:")
        domain.console.sendline("root")
        print(domain.wait())                            # "poweroff"

A host runs while a call waits for something (``expect``, ``wait``, ``run``) and stands still otherwise, so a program
decides when guests run, and with ``clock="virtual"`` every run repeats to the bit.  After ``start()`` it runs by itself,
on a thread of its own, until ``stop()``: calls may then come from any thread, and calls that wait just wait.  The async
variants start it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xenfast import _core
from xenfast.errors import XenfastError
from xenfast.libxl import config, kernel
from xenfast.libxl.device import Devices
from xenfast.libxl.domain import Domain
from xenfast.libxl.events import Events
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import Clock, VirtualClock
from xenfast.xenstore.xenstored import XenStored

CLOCKS = {"real": Clock, "virtual": VirtualClock}
ENGINES = {"auto": "auto", "translate": "translator", "interp": "interpreter"}     # as the core calls them
DEFAULT_MEMORY = 2048           # MiB of a host; pages that nobody touches cost next to nothing
KERNELS_KEPT = 4                # unpacked kernels, so that the next domain with one of them is made sooner


class Host:
    """One Xen machine: so much memory (MiB), a clock ("real" or "virtual"), domain 0 with its store and drivers."""

    def __init__(
        self, memory: int = DEFAULT_MEMORY, *, clock: str = "real", seed: int = 0, engine: str = "auto"
    ) -> None:
        if clock not in CLOCKS:
            raise ValueError(f"the clock is 'real' or 'virtual', not {clock!r}")
        if engine not in ENGINES:
            raise ValueError(f"the engine is 'auto', 'translate' or 'interp', not {engine!r}")
        if engine == "translate" and not _core.translator_works():
            raise XenfastError("this host gives no executable memory to translate into (it takes Linux on x86-64); try --engine interp")
        _check_host_memory(memory)
        self.hypervisor = Hypervisor(memory, clock=CLOCKS[clock](), seed=seed, engine=ENGINES[engine])
        self.store = XenStored(self.hypervisor)
        self.devices = Devices(self.hypervisor, self.store)
        self.domains: dict[str, Domain] = {}
        self.events = Events()
        self._lock = threading.Lock()                   # of domains and waiters
        self._reserved: set[str] = set()                # names of domains that are being made
        self._kernels: dict[tuple, Any] = {}
        self._abort: BaseException | None = None
        self._waiters: list[_Waiter] = []
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._failure: BaseException | None = None

    # --- domains -----------------------------------------------------------------------------------------------------
    def create(self, settings: config.DomainConfig | dict[str, Any] | str | Path, *, paused: bool = False) -> Domain:
        """Create a domain from a DomainConfig, a dict of xl.cfg keys or a file; it runs when the host does."""
        if isinstance(settings, dict):
            settings = config.from_dict(settings)
        elif isinstance(settings, (str, Path)):
            settings = config.load(settings)
        name = settings.name
        with self._lock:
            if name in self.domains or name in self._reserved:
                raise XenfastError(f"there is a domain called {name!r} already")
            self._reserved.add(name)
        try:
            domain = Domain(self, settings)
            with self._lock:
                self.domains[name] = domain
        finally:
            self._reserved.discard(name)
        self.events.emit("created", domain.domid, name)
        if not paused:
            domain.unpause()
        return domain

    def find(self, which: str | int) -> Domain:
        """A domain by its name or number; XenfastError when there is none."""
        with self._lock:
            domains = list(self.domains.values())
        for domain in domains:
            if domain.name == which or str(domain.domid) == str(which):
                return domain
        if str(which) in ("0", "Domain-0"):
            raise XenfastError("domain 0 is xenfast itself, which this cannot be done to")
        raise XenfastError(f"there is no domain {str(which)!r}")

    def load_kernel(self, path: str, kind: str = "pv") -> Any:
        """A PV or PVH kernel, unpacked; the last few are kept."""
        load: Any = kernel.load_pvh if kind == "pvh" else kernel.load_pv
        try:
            status = os.stat(path)
        except OSError:
            return load(path)                   # which says what is wrong with it
        key = (kind, path, status.st_mtime_ns, status.st_size, status.st_ino)
        with self._lock:
            image = self._kernels.pop(key, None)
        if image is None:
            image = load(path)
        with self._lock:
            self._kernels[key] = image
            while len(self._kernels) > KERNELS_KEPT:
                self._kernels.pop(next(iter(self._kernels)))
        return image

    # --- running -----------------------------------------------------------------------------------------------------
    def start(self) -> Host:
        """From now on the host runs by itself, on its own thread, until stop() or close()."""
        if self.hypervisor.clock.is_virtual:
            raise XenfastError("a host in virtual time runs only while somebody waits for something")
        if self._thread is None:
            self._stopping, self._failure = False, None
            self._thread = threading.Thread(target=self._serve, name="domain 0", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """End what start() began: no vcpu runs when this has returned."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping = True
            self.hypervisor.loop.wake()
            thread.join()
            for waiter in list(self._waiters):
                waiter.finish("ended")

    @property
    def started(self) -> bool:
        return self._thread is not None

    def _serve(self) -> None:
        try:
            self.hypervisor.run(self._look, None, forever=True)
        except BaseException as error:
            self._failure = error
            for waiter in list(self._waiters):
                waiter.fail(error)
            raise

    def _look(self) -> bool:
        """Has anything happened that somebody waits for?  Called after every batch of domain 0's events."""
        if self._abort is not None:
            error, self._abort = self._abort, None
            for waiter in list(self._waiters):
                waiter.fail(error)
        ended = self.hypervisor.scheduler.ended if self._waiters else False
        for waiter in list(self._waiters):
            waiter.look(ended)
        return self._stopping

    def run(self, until: Callable[[], Any] | None = None, timeout: float | None = None) -> str:
        """Let all domains run until ``until()`` or the time is over; returns "until", "timeout", "ended" or "idle"."""
        if self._thread is not None:
            return self._wait(until, timeout)

        def over() -> bool:
            return self._abort is not None or (until is not None and bool(until()))

        reason = self.hypervisor.run(over, timeout)
        error, self._abort = self._abort, None
        if error is not None:
            raise error
        return str(reason)

    def _wait(self, until: Callable[[], Any] | None, timeout: float | None) -> str:
        if threading.current_thread() is self._thread:
            raise RuntimeError("a callback of the host cannot wait for the host")
        done = threading.Event()
        waiter = _Waiter(until, done.set)
        self._add(waiter)
        try:
            done.wait(timeout)
        finally:
            self._waiters.remove(waiter)
        return waiter.outcome()

    async def run_async(self, until: Callable[[], Any] | None = None, timeout: float | None = None) -> str:
        """As run(), without blocking the event loop of asyncio; the host runs by itself from then on."""
        self.start()
        import asyncio  # tens of milliseconds, which only its users pay

        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        waiter = _Waiter(until, lambda: loop.call_soon_threadsafe(done.set))
        self._add(waiter)
        try:
            await asyncio.wait_for(done.wait(), timeout)
        except TimeoutError:
            pass
        finally:
            self._waiters.remove(waiter)
        return waiter.outcome()

    def _add(self, waiter: _Waiter) -> None:
        if self._failure is not None:
            raise RuntimeError("the host has failed") from self._failure
        self._waiters.append(waiter)
        self.hypervisor.loop.call_soon(lambda: None)    # has it looked at soon

    def abort(self, error: BaseException) -> None:
        """Have the run() that is under way raise this; for callbacks, which may be called on any of its threads."""
        self._abort = error
        self.hypervisor.loop.wake()

    def exclusively(self, function: Callable[[], Any]) -> Any:
        """The result of a call while domain 0's drivers rest: for what changes them."""
        return self.hypervisor.loop.exclusively(function)

    def add_reader(self, fd: int, callback: Callable[[], Any]) -> None:
        """Call whenever ``fd`` can be read, while the host runs."""
        self.hypervisor.loop.add_reader(fd, callback)
        self.hypervisor.loop.wake()

    def remove_reader(self, fd: int) -> None:
        self.hypervisor.loop.remove_reader(fd)

    # --- the end -----------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Destroy all domains, close their disks."""
        self.stop()
        for domain in list(self.domains.values()):
            domain.destroy()
        self.devices.networks.close()
        self.hypervisor.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Host:
        return self.start()

    async def __aexit__(self, *exc: object) -> None:
        import asyncio

        await asyncio.to_thread(self.close)


class _Waiter:
    """Somebody who waits while the host runs by itself."""

    def __init__(self, until: Callable[[], Any] | None, done: Callable[[], Any]) -> None:
        self.until, self.done = until, done
        self.result: str | None = None
        self.error: BaseException | None = None

    def look(self, ended: bool) -> None:
        if self.result is None and self.error is None:
            try:
                if self.until is not None and self.until():
                    self.finish("until")
                elif ended:
                    self.finish("ended")
            except BaseException as error:
                self.fail(error)

    def finish(self, result: str) -> None:
        if self.result is None:
            self.result = result
            self.done()

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.done()

    def outcome(self) -> str:
        if self.error is not None:
            raise self.error
        return self.result or "timeout"


def _check_host_memory(mebibytes: int) -> None:
    """Refuse a machine larger than the real one: its guests could never use their memory."""
    if mebibytes < 1:
        raise XenfastError(f"a host cannot have {mebibytes} MiB of memory")
    have = physical_memory()
    if have is not None and mebibytes > have:
        raise XenfastError(f"{mebibytes} MiB of memory are wanted, this machine has {have} MiB")


def physical_memory() -> int | None:
    """MiB of the real machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    except (ValueError, OSError):
        return None
