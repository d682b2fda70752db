"""The public API: a Host that runs domains, and a Domain with its console.

    with Host() as host:
        domain = host.create("guest.cfg")               # or a dict, or a DomainConfig
        domain.console.expect("login:")
        domain.console.sendline("root")
        print(domain.wait())                            # "poweroff"

A host is one Xen machine in this process.  It runs while a call waits for something (``expect``, ``wait``, ``run``)
and stands still otherwise, so a program decides when guests run, and with ``clock="virtual"`` every run repeats to
the bit.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from xenfast import _core
from xenfast.abi import sched
from xenfast.errors import XenfastError
from xenfast.libxl import build, config, kernel
from xenfast.libxl.device import Devices
from xenfast.trace import Tracer
from xenfast.xen import hypercall
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.profile import Symbols
from xenfast.xen.time import Clock, VirtualClock
from xenfast.xenstore.xenstored import XenStored

CLOCKS = {"real": Clock, "virtual": VirtualClock}
ENGINES = {"auto": "auto", "translate": "translator", "interp": "interpreter"}     # as the core calls them
DEFAULT_MEMORY = 2048           # MiB of a host; pages that nobody touches cost next to nothing


class TimedOut(XenfastError, TimeoutError):
    """What was waited for has not happened in time."""


class DomainEnded(XenfastError):
    """The domain has ended, so what was waited for cannot happen any more."""


class Idle(XenfastError):
    """Virtual time only: every domain waits, and nothing is left that could wake one."""


class Host:
    """One Xen machine: so much memory, a clock, domain 0 with its store and drivers."""

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
        self._abort: BaseException | None = None

    def create(self, settings: config.DomainConfig | dict[str, Any] | str | Path) -> Domain:
        """Create a domain from a DomainConfig, a dict of xl.cfg keys or a file; it runs once something waits."""
        if isinstance(settings, dict):
            settings = config.from_dict(settings)
        elif isinstance(settings, (str, Path)):
            settings = config.load(settings)
        if settings.name in self.domains:
            raise XenfastError(f"there is a domain called {settings.name!r} already")
        domain = Domain(self, settings)
        self.domains[settings.name] = domain
        return domain

    def run(self, until: Callable[[], Any] | None = None, timeout: float | None = None) -> str:
        """Let all domains run until ``until()`` or the time is over; returns "until", "timeout", "ended" or "idle"."""

        def over() -> bool:
            return self._abort is not None or (until is not None and bool(until()))

        reason = self.hypervisor.run(over, timeout)
        error, self._abort = self._abort, None
        if error is not None:
            raise error
        return str(reason)

    def abort(self, error: BaseException) -> None:
        """Have the run() that is under way raise this; for callbacks, which may be called on any of its threads."""
        self._abort = error
        self.hypervisor.loop.wake()

    def add_reader(self, fd: int, callback: Callable[[], Any]) -> None:
        """Call whenever ``fd`` can be read, while the host runs."""
        self.hypervisor.loop.add_reader(fd, callback)

    def remove_reader(self, fd: int) -> None:
        self.hypervisor.loop.remove_reader(fd)

    def close(self) -> None:
        """Destroy all domains, close their disks."""
        for domain in list(self.domains.values()):
            domain.destroy()
        self.devices.networks.close()
        self.hypervisor.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Domain:
    """A guest."""

    def __init__(self, host: Host, settings: config.DomainConfig) -> None:
        self.host, self.config, self.name = host, settings, settings.name
        settings.cpuid.warn()
        _refuse_missing(settings)
        image = kernel.load_pv(settings.kernel)
        ramdisk = kernel.read_file(settings.ramdisk, "ramdisk") if settings.ramdisk else b""
        images = host.devices.open_images(settings.disks)
        self._wall, self._destroyed = 0.0, False
        try:
            self.xen = host.hypervisor.create_domain(
                settings.name,
                max_pages=settings.maxmem << 8,
                vcpus=settings.maxvcpus,
                uuid=bytes.fromhex(settings.uuid.replace("-", "")),
                max_grant_frames=settings.max_grant_frames,
                cpuid=settings.cpuid,
            )
        except BaseException:
            host.devices.close_images(images)
            raise
        try:
            self.built = build.build_pv(self.xen, image, ramdisk, settings.cmdline, settings.memory)
            self.console = Console(self)
            host.devices.attach(self.xen, settings, self.built, images, self.console.received)
        except BaseException:
            host.devices.detach(self.xen)
            self.xen.destroy()
            host.store.release(self.domid)
            host.devices.close_images(images)
            raise

    @property
    def domid(self) -> int:
        return self.xen.domid

    @property
    def ended(self) -> str | None:
        """How the domain ended ("poweroff", "reboot", "crash" ...), None while it runs."""
        code = self.xen.shutdown_code
        return None if code is None else sched.SHUTDOWN_NAMES.get(code, f"code {code}")

    @property
    def crash_reason(self) -> str | None:
        return self.xen.crash_reason

    @property
    def crash_dump(self) -> str | None:
        """The registers of its vcpus as text, after a crash."""
        return self.xen.crash_dump

    def wait(self, timeout: float | None = None) -> str:
        """Let the host run until the domain has ended; returns how.  TimedOut after ``timeout`` seconds."""
        if self.ended is None and self.run(lambda: self.ended is not None, timeout) == "idle":
            raise Idle("every domain waits, and nothing is left that could wake one")
        if self.ended is None:
            raise TimedOut(f"the domain {self.name!r} has not ended")
        self.host.devices.drain(self.xen)
        return self.ended

    def run(self, until: Callable[[], Any] | None = None, timeout: float | None = None) -> str:
        """As Host.run, and counts the time."""
        started = time.monotonic()
        try:
            return self.host.run(until, timeout)
        finally:
            self._wall += time.monotonic() - started

    def shutdown(self, reason: str = "poweroff") -> None:
        """Ask the guest to end ("poweroff", "reboot", "halt"), by the node control/shutdown as xl does."""
        self.host.store.client().write(f"/local/domain/{self.domid}/control/shutdown", reason)

    def destroy(self) -> None:
        """End the domain at once and give back what it had; harmless when it has ended."""
        if self._destroyed:
            return
        self._destroyed = True
        self.host.devices.detach(self.xen)
        self.xen.destroy()
        self.host.store.release(self.domid)
        self.host.domains.pop(self.name, None)

    def stats(self) -> dict[str, Any]:
        """What was counted: instructions, hypercalls by name, bytes by disk, seconds."""
        return {
            "domain": self.name,
            "memory_mib": self.config.memory,
            "vcpus": self.config.vcpus,
            "engine": self.xen.vcpus[0].core.engine,
            "blocks_translated": sum(vcpu.core.statistics()["translated"] for vcpu in self.xen.vcpus),
            "instructions": self.xen.instructions,
            "run_seconds": round(self._wall, 6),
            "guest_seconds": round((self.host.hypervisor.clock.now() - self.xen.created_ns) / 1e9, 6),
            "hypercalls": dict(self.xen.hypercalls.most_common()),
            "disks": self.host.devices.disk_stats(self.xen),
            "nics": self.host.devices.nic_stats(self.xen),
            "console_bytes": self.console.count,
        }

    def trace(self, kinds: Iterable[str], stream: TextIO, start: int | None = None, count: int | None = None,
              symbols: Symbols | None = None) -> Tracer:
        """Write what its vcpus do to a stream ("exec", "int", "hypercall", "mmu"), from RIP ``start`` on, ``count`` lines."""
        tracer = Tracer(kinds, stream, start, count, hypercall.name_of, symbols.place if symbols is not None else None)
        for vcpu in self.xen.vcpus:
            tracer.attach(vcpu.core, f"d{self.domid}v{vcpu.vcpu_id} ")
        return tracer

    def __enter__(self) -> Domain:
        return self

    def __exit__(self, *exc: object) -> None:
        self.destroy()

    def __repr__(self) -> str:
        return f"<Domain {self.domid} {self.name!r} {self.ended or 'running'}>"


class Console:
    """A domain's console: everything it has printed, and a way to type."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.count = 0
        self._data = bytearray()
        self._seen = 0                      # end of the last match, in characters
        self._listeners: list[Callable[[bytes], Any]] = []

    @property
    def text(self) -> str:
        """All that the domain has printed, with newlines as they came."""
        return self._data.decode("utf-8", "replace")

    def on_output(self, listener: Callable[[bytes], Any]) -> None:
        """Call with every piece of output."""
        self._listeners.append(listener)

    def received(self, data: bytes) -> None:
        """The console backend has output."""
        self._data += data
        self.count += len(data)
        for listener in self._listeners:
            listener(data)

    def expect(
        self, pattern: str | re.Pattern[str], timeout: float | None = 60.0, *, or_end: bool = False
    ) -> re.Match[str] | None:
        """Let the host run until the output since the last match holds ``pattern``; returns the match.

        TimedOut when it does not in time; DomainEnded when the domain has ended without (None instead with ``or_end``).
        """
        regex = re.compile(pattern) if isinstance(pattern, str) else pattern
        found = self._search(regex)
        if not found and self.domain.ended is None:
            state = {"size": -1}

            def check() -> bool:
                nonlocal found
                if self.count != state["size"]:
                    state["size"] = self.count
                    found = self._search(regex)
                return bool(found) or self.domain.ended is not None

            if self.domain.run(check, timeout) == "idle":
                raise Idle(f"every domain waits, and the console has not shown {regex.pattern!r}{self._tail()}")
        if not found and self.domain.ended is not None:
            self.domain.host.devices.drain(self.domain.xen)
        found = found or self._search(regex)
        if found:
            self._seen = found.end()
            return found
        if self.domain.ended is None:
            raise TimedOut(f"the console has not shown {regex.pattern!r}{self._tail()}")
        if or_end:
            return None
        raise DomainEnded(f"the domain ended ({self.domain.ended}) before {regex.pattern!r} was seen{self._tail()}")

    def send(self, data: str | bytes) -> None:
        """Type something; it is delivered as the guest makes room for it."""
        self.domain.host.devices.console_send(self.domain.xen, data.encode() if isinstance(data, str) else bytes(data))

    def sendline(self, line: str = "") -> None:
        self.send(line + "\n")

    def _search(self, regex: re.Pattern[str]) -> re.Match[str] | None:
        return regex.search(self.text, self._seen)

    def _tail(self) -> str:
        last = self.text.rstrip().splitlines()[-1:]
        return f"; its last line is {last[0]!r}" if last else "; it has shown nothing"


def _refuse_missing(settings: config.DomainConfig) -> None:
    """What can be asked for and is not there yet, before anything is built."""
    if settings.type != "pv":
        raise XenfastError(f"guests of type {settings.type!r} are not supported yet, only PV guests are")
    if settings.vfbs:
        raise XenfastError("framebuffers (vfb) are not supported yet")


def _check_host_memory(mebibytes: int) -> None:
    """Refuse a machine larger than the real one: its guests could never use their memory."""
    if mebibytes < 1:
        raise XenfastError(f"a host cannot have {mebibytes} MiB of memory")
    try:
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    except (ValueError, OSError):
        return
    if mebibytes > have:
        raise XenfastError(f"{mebibytes} MiB of memory are wanted, this machine has {have} MiB")
