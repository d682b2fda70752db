"""The public API: a Domain, a guest of a Host (host.py), with its console (console.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TextIO

from xenfast.abi import sched
from xenfast.errors import XenfastError
from xenfast.libxl import config, cpulist, kernel
from xenfast.libxl.console import EOF, TIMEOUT, Console, DomainEnded, Idle, TimedOut
from xenfast.libxl.resources import Resources
from xenfast.trace import Tracer
from xenfast.xen import hypercall
from xenfast.xen.profile import Symbols

if TYPE_CHECKING:
    from xenfast.libxl import build_hvm, vnc
    from xenfast.libxl.host import Host
    from xenfast.libxl.screen import Screen

__all__ = ["EOF", "TIMEOUT", "Console", "Domain", "DomainEnded", "Idle", "TimedOut"]

SHUTDOWNS = ("poweroff", "reboot", "halt", "suspend", "crash")      # what control/shutdown may ask for
HVM_SPARE = 512         # pages beside RAM: tables, ROMs, what lies behind them as shadow RAM
SYSRQ_KEYS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Domain(Resources):
    """A guest.  Made by ``Host.create``; it is paused until that has set it going."""

    def __init__(self, host: Host, settings: config.DomainConfig) -> None:
        self.host, self.config, self.name = host, settings, settings.name
        settings.cpuid.warn()
        _refuse_missing(settings)
        image = host.load_kernel(settings.kernel, settings.type) if settings.type != "hvm" else None
        ramdisk = kernel.read_file(settings.ramdisk, "ramdisk") if settings.ramdisk else b""
        images = host.devices.open_images(settings.disks)
        self._wall, self._destroyed, self._told = 0.0, False, False
        self.created = time.time()
        self._init_resources()
        try:
            self.xen = host.hypervisor.create_domain(
                settings.name,
                max_pages=(settings.maxmem << 8) + (HVM_SPARE if settings.type == "hvm" else 0),
                vcpus=settings.maxvcpus,
                uuid=bytes.fromhex(settings.uuid.replace("-", "")),
                max_grant_frames=settings.max_grant_frames,
                max_evtchns=settings.max_event_channels,
                cpuid=settings.cpuid,
                kind=settings.type,
            )
        except BaseException:
            host.devices.close_images(images)
            raise
        self.xen.pause()                                # until its devices are there, and create() sets it going
        self.user_pauses = 1
        self.machine: build_hvm.Machine | None = None      # of an HVM guest
        self._screen: Screen | None = None
        self.vnc: vnc.VncServer | None = None
        self.console = Console(self)
        self.pv_console = self.console                      # an HVM guest's first serial port is another one
        try:
            self._schedule()
            self._build(image, ramdisk, images)
            host.exclusively(lambda: host.devices.attach(self.xen, settings, self.built, images, self.pv_console.received))
            if self.machine is not None:
                from xenfast.libxl.vnc import store_nodes

                for node, value in store_nodes(self.vnc).items():
                    host.store.client().write(f"{self.path}/console/{node}", value)
        except BaseException:
            host.exclusively(self._close_screen)
            host.exclusively(lambda: host.devices.detach(self.xen))
            self.xen.destroy()
            host.store.release(self.domid)
            host.devices.close_images(images)
            raise
        self.xen.on_shutdown.append(self._has_ended)

    def _schedule(self) -> None:
        """What the configuration says about processors."""
        if (self.config.cpu_weight, self.config.cap) != (256, 0):
            self.set_share(self.config.cpu_weight, self.config.cap)
        count = os.cpu_count() or 1
        for lists, soft in ((self.config.cpus, False), (self.config.cpus_soft, True)):
            for number in range(len(self.xen.vcpus) if lists else 0):
                cpus = cpulist.members(lists[min(number, len(lists) - 1)], count)
                if soft:
                    self.pin_vcpu(number, None, cpus)
                else:
                    self.pin_vcpu(number, cpus)

    def _build(self, image: Any, ramdisk: bytes, images: dict[str, Any]) -> None:
        """Fill its memory, make what else it has.  A builder is imported when it is needed: the PC is large."""
        if self.config.type == "hvm":
            self._build_hvm(images)
            return
        builder: Any
        if self.config.type == "pvh":
            from xenfast.libxl.build_pvh import build_pvh as builder
        else:
            from xenfast.libxl.build import build_pv as builder
        self.built = builder(self.xen, image, ramdisk, self.config.cmdline, self.config.memory)

    def _build_hvm(self, images: dict[str, Any]) -> None:
        """The PC; its first serial port is the console, its PV console another."""
        from xenfast.devices import uhci
        from xenfast.libxl import build_hvm, vnc
        from xenfast.libxl.screen import Input, Screen

        hypervisor = self.host.hypervisor
        self.config.serial = self.config.serial or ["pty"]
        with hypervisor.lock:
            serial = build_hvm.serial_outputs(self.config, hypervisor.loop, self.console.received)
            self.machine = build_hvm.build_hvm(self.xen, self.config, images, serial, self.host.devices.networks)
        self.built = self.machine.built
        if any(isinstance(output, build_hvm.Gathered) for output in serial):
            self.pv_console = Console(self, type_in=self._type_pv)
        pc = self.machine.pc
        if pc.vga is not None:
            user = Input(pc.ps2.keyboard, pc.ps2.mouse, pc.timers, usb=uhci.input_devices(pc.usb), keymap=self.config.keymap,
                         size=lambda: self.screen.size)
            card = pc.vga.vga
            self._screen = Screen(card, user, hypervisor.lock, self.run)
            self.vnc = self.host.exclusively(lambda: vnc.start(card, user, hypervisor.loop, hypervisor.lock, self.config, self.name))

    @property
    def screen(self) -> Screen:
        """What an HVM guest's monitor shows, and its keyboard and mouse."""
        if self._screen is None:
            raise XenfastError(f"the domain {self.name!r} has no screen (vga=\"none\", or it is no HVM guest)")
        return self._screen

    def _close_screen(self) -> None:
        if self.machine is not None:
            self.machine.close()
        server, self.vnc = self.vnc, None
        if server is not None:
            server.close()

    @property
    def domid(self) -> int:
        return self.xen.domid

    @property
    def path(self) -> str:
        """Its directory in xenstore."""
        return f"/local/domain/{self.domid}"

    # --- its end -----------------------------------------------------------------------------------------------------
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
        return self._how()

    async def wait_async(self, timeout: float | None = None) -> str:
        """As wait(), without blocking the event loop of asyncio; the host runs by itself from then on."""
        if self.ended is None:
            await self.host.run_async(lambda: self.ended is not None, timeout)
        return self._how()

    def _how(self) -> str:
        if self.ended is None:
            raise TimedOut(f"the domain {self.name!r} has not ended")
        self.drain()
        self._has_ended()
        return self.ended

    def run(self, until: Callable[[], Any] | None = None, timeout: float | None = None) -> str:
        """As Host.run, and counts the time."""
        started = time.monotonic()
        try:
            return self.host.run(until, timeout)
        finally:
            self._wall += time.monotonic() - started

    def _has_ended(self, *_: Any) -> None:
        """Tell it, once, before anything else that happens to the domain."""
        with self.host._lock:
            if self._told or self.ended is None:
                return
            self._told = True
        self.host.events.emit("ended", self.domid, self.name, how=self.ended, reason=self.crash_reason)

    def shutdown(self, reason: str = "poweroff") -> None:
        """Ask the guest to end ("poweroff", "reboot", "halt"), by the node control/shutdown as xl does."""
        if reason not in SHUTDOWNS:
            raise XenfastError(f"a guest cannot be asked for {reason!r} ({', '.join(SHUTDOWNS)})")
        self.host.store.client().write(f"{self.path}/control/shutdown", reason)

    def reboot(self) -> None:
        """Ask the guest to reboot."""
        self.shutdown("reboot")

    def destroy(self) -> None:
        """End the domain at once and give back what it had; harmless when it has ended."""
        self._has_ended()
        with self.host._lock:
            if self._destroyed:
                return
            self._destroyed = self._told = True
        self.xen.shutdown(sched.SHUTDOWN_poweroff)
        self.host.hypervisor.scheduler.quiesce(self.xen)
        self.host.exclusively(self._close_screen)
        self.host.exclusively(lambda: self.host.devices.detach(self.xen))
        self.xen.destroy()
        self.host.store.release(self.domid)
        with self.host._lock:
            if self.host.domains.get(self.name) is self:
                del self.host.domains[self.name]
        self.host.events.emit("destroyed", self.domid, self.name)

    # --- while it runs -----------------------------------------------------------------------------------------------
    def pause(self) -> None:
        """No vcpu runs from now on; a second pause changes nothing."""
        if not self.user_pauses:
            self.user_pauses = 1
            self.xen.pause()
            self.host.events.emit("paused", self.domid, self.name)

    def unpause(self) -> None:
        if self.user_pauses:
            self.user_pauses = 0
            self.xen.unpause()
            self.host.events.emit("unpaused", self.domid, self.name)

    @property
    def paused(self) -> bool:
        return self.user_pauses > 0

    def rename(self, name: str) -> None:
        """Give the domain another name."""
        config.check_name(name)
        with self.host._lock:
            if name in self.host.domains:
                raise XenfastError(f"there is a domain called {name!r} already")
            self.host.domains.pop(self.name, None)
            old, self.name, self.xen.name = self.name, name, name
            self.host.domains[name] = self
        client = self.host.store.client()
        client.write(f"{self.path}/name", name)
        client.write(f"/vm/{self.config.uuid}/name", name)
        self.host.events.emit("renamed", self.domid, name, old=old)

    def sysrq(self, key: str) -> None:
        """Press a magic SysRq key in the guest."""
        if len(key) != 1 or key.lower() not in SYSRQ_KEYS:
            raise XenfastError(f"{key!r} is not a SysRq key")
        self.host.store.client().write(f"{self.path}/control/sysrq", key)

    def type_in(self, data: bytes) -> None:
        """Type something on its console; Console.send is what to call."""
        if self.pv_console is self.console:
            self._type_pv(data)
        else:
            assert self.machine is not None
            self.machine.pc.timers.call_soon(self.machine.pc.serial[self.machine.console].receive, data)

    def _type_pv(self, data: bytes) -> None:
        self.host.exclusively(lambda: self.host.devices.console_send(self.xen, data))

    def trigger(self, what: str, vcpu: int = 0) -> None:
        """What ``xl trigger`` does to an HVM guest: "power" and "sleep" press a button, "nmi", "init" and "reset" interrupt."""
        if self.machine is None:
            raise XenfastError(f"a {self.config.type.upper()} guest has no hardware to trigger anything of")
        if not 0 <= vcpu < len(self.xen.vcpus):
            raise XenfastError(f"there is no vcpu {vcpu}")
        pc = self.machine.pc
        actions: dict[str, Callable[[], Any]] = {
            "power": pc.power_button, "sleep": pc.sleep_button, "nmi": lambda: pc.nmi(vcpu), "init": lambda: pc.send_init(vcpu),
            "reset": pc.restart,
        }  # fmt: skip
        if what not in actions:
            raise XenfastError(f"{what!r} cannot be triggered ({', '.join(actions)})")
        with self.host.hypervisor.lock:
            actions[what]()
        self.host.hypervisor.loop.wake()

    def drain(self) -> None:
        """Take what is left in the console ring of a domain that has ended."""
        if self.machine is not None:
            self.machine.drain()
        self.host.exclusively(lambda: self.host.devices.drain(self.xen))

    # --- what is known about it --------------------------------------------------------------------------------------
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

    async def __aenter__(self) -> Domain:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.destroy()

    def __repr__(self) -> str:
        return f"<Domain {self.domid} {self.name!r} {self.ended or 'running'}>"


def _refuse_missing(settings: config.DomainConfig) -> None:
    """What can be asked for and is not there yet, before anything is built."""
    if settings.type == "hvm" and settings.kernel:
        raise XenfastError("an HVM guest boots by its firmware: kernel= is not supported for type=\"hvm\" (PV and PVH guests have it)")
    if settings.vfbs:
        raise XenfastError("framebuffers (vfb) are not supported yet")
