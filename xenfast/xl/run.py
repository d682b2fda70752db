"""``xenfast run``: one domain in the foreground, its console on the terminal.

The exit status is 0 when the guest ended cleanly (or, with --expect, when its console has shown the text), 1
otherwise; the reason is said in one sentence on standard error and, with --json, in a file together with what was
counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xenfast import cpuid, guests, trace
from xenfast.errors import XenfastError
from xenfast.libxl import config as config_module
from xenfast.libxl.config import DomainConfig

if TYPE_CHECKING:
    from xenfast.libxl.domain import Domain
    from xenfast.libxl.host import Host

MAX_REBOOTS = 100
HEADROOM = 32               # MiB of machine memory beside the guest's: Xen's own pages
HVM_HEADROOM = 64           # and video memory, ROMs
EPILOG = f"""\
Keys of xl.cfg(5) may follow as KEY=VALUE and override the configuration file, as with xl create.
Without CONFIG and --kernel, the guest that is shipped with xenfast is run ({guests.HELLO.name}).
On a terminal, Ctrl-] ends the session."""


class Parser(argparse.ArgumentParser):
    """Errors are the user's, not exit status 2."""

    def error(self, message: str) -> NoReturn:
        raise XenfastError(f"{message} (see xenfast help run)")


def parser() -> Parser:
    p = Parser(
        prog="xenfast run",
        description="Create a domain, attach to its console, wait for its end.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("config", nargs="*", metavar="CONFIG", help="configuration file, as xl.cfg(5), and KEY=VALUE pairs")
    p.add_argument("--kernel", metavar="FILE", help="kernel image: ELF or bzImage")
    p.add_argument("--ramdisk", metavar="FILE", help="initial ramdisk")
    p.add_argument("--cmdline", metavar="TEXT", help="kernel command line")
    p.add_argument("--memory", metavar="MIB", help="memory in MiB (256)")
    p.add_argument("--vcpus", metavar="N", help="number of virtual CPUs (1)")
    p.add_argument("--cpu", metavar="MODEL[,+F][,-F]", help=f"CPU model ({', '.join(cpuid.MODELS)}) and features to add or leave out")
    p.add_argument("--name", metavar="NAME", help="name of the domain")
    p.add_argument("--disk", metavar="SPEC", action="append", help="a disk: 'root.img,raw,xvda,w' or 'FILE.iso,,hdc,cdrom'; repeatable")
    p.add_argument("--vif", metavar="SPEC", action="append", help="a network interface: '' or 'mac=...,bridge=xenbr0'; repeatable")
    p.add_argument("--net", metavar="[SWITCH=]UPLINK", action="append",
                   help="where a switch (xenbr0) leads: user[,hostfwd=tcp::2222-:22...], tap[,ifname=tap0], "
                        "stream,addr=unix:PATH[,server=on], dhcp, none; repeatable")
    p.add_argument("--pcap", metavar="[SWITCH=]FILE", help="record the frames of a switch (xenbr0)")
    p.add_argument("--type", choices=("pv", "pvh", "hvm"), help="kind of guest (pv)")
    p.add_argument("--boot", metavar="ORDER", help="HVM: what to boot: c disk, d CD-ROM, a floppy, n network (cda)")
    p.add_argument("--bios", metavar="NAME", help="HVM: seabios, ovmf or rombios instead of xenfast's own firmware")
    p.add_argument("--vnc", metavar="DISPLAY", help="HVM: the screen is on this VNC display of the loopback interface")
    p.add_argument("--expect", metavar="REGEX", help="end with status 0 as soon as the console shows this")
    p.add_argument("--timeout", metavar="SECONDS", help="end with status 1 after so much time")
    p.add_argument("--json", metavar="FILE", help="write how it ended and what was counted")
    p.add_argument("--profile", action="store_true", help="say where the time went: on standard error, and in the JSON file")
    p.add_argument("--symbols", metavar="FILE", help="names for --profile and --trace: System.map, /proc/kallsyms, or an ELF image")
    p.add_argument("--clock", choices=("real", "virtual"), default="real", help="virtual: a run repeats to the bit")
    p.add_argument("--seed", metavar="N", default="0", help="seed of everything random (0)")
    p.add_argument("--trace", metavar="KINDS", help=f"write what the guest does: {', '.join(trace.KINDS)}; the first needs xenfast[trace]")
    p.add_argument("--trace-file", metavar="FILE", help="where --trace writes (standard error)")
    p.add_argument("--trace-start", metavar="ADDRESS", help="trace from the first instruction at this address on")
    p.add_argument("--trace-count", metavar="N", help="trace so many lines")
    p.add_argument("--engine", choices=("auto", "translate", "interp"), default="auto",
                   help="hot code is translated to host code, or all is interpreted (auto: as the host allows)")
    p.add_argument("--quiet", "-q", action="store_true", help="do not say how it ended when it ended well")
    p.add_argument("--verbose", "-v", action="count", default=0, help="show what xenfast logs; twice for more")
    return p


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    report: dict[str, Any] = {"ended": "error", "reason": "", "exit_status": 1}
    started = time.monotonic()
    try:
        return _main(options, report)
    except XenfastError as error:
        report["reason"] = str(error)
        raise
    finally:
        report["wall_seconds"] = round(time.monotonic() - started, 6)
        if options.json:
            _write_json(options.json, report)


def _main(options: argparse.Namespace, report: dict[str, Any]) -> int:
    config = configuration(options)
    expect = _regex(options.expect)
    timeout = _number(options.timeout, "--timeout", float) if options.timeout is not None else None
    seed = _number(options.seed, "--seed", int)
    tracing = _tracing(options)
    from xenfast.libxl import profile
    from xenfast.libxl.host import Host

    with Host(memory=config.maxmem + headroom(config), clock=options.clock, seed=seed, engine=options.engine) as host:
        for text in options.net or ():
            host.devices.networks.define_text(text)
        if options.pcap:
            switch, _, path = options.pcap.rpartition("=")
            host.devices.networks.capture(host.devices.networks.switch(switch).name, path)
        if options.profile:
            profile.start(host, options.symbols)
        with Terminal(options.verbose) as terminal:
            session = Session(host, config, terminal, expect, timeout, tracing)
            try:
                session.run()
            finally:
                report.update(session.report())
                if tracing is not None:
                    tracing["stream"].flush()
        if options.profile:
            report["profile"], text = profile.finish(host)
            print(text, file=sys.stderr)
    status = int(report["exit_status"])
    if status or not options.quiet:
        print(f"xenfast: {report['reason']}", file=sys.stderr)
    return status


def headroom(config: DomainConfig) -> int:
    return HEADROOM + (HVM_HEADROOM + config.videoram if config.is_hvm else 0)


class Session:
    """The life of one domain, and of those that replace it when it reboots."""

    def __init__(
        self,
        host: Host,
        config: DomainConfig,
        terminal: Terminal,
        expect: re.Pattern[str] | None,
        timeout: float | None,
        tracing: dict[str, Any] | None = None,
    ) -> None:
        self.tracing = tracing
        self.host, self.config, self.terminal, self.expect = host, config, terminal, expect
        self.deadline = None if timeout is None else time.monotonic() + timeout
        self.timeout = timeout
        self.ended, self.reason, self.status = "error", "", 1
        self.domain: Domain | None = None
        self.reboots = 0

    def run(self) -> None:
        from xenfast.libxl.domain import DomainEnded, Idle, TimedOut

        try:
            while self._one_life():
                self.reboots += 1
                if self.reboots > MAX_REBOOTS:
                    self._end("reboot", f"the domain rebooted more than {MAX_REBOOTS} times", 1)
                    return
        except TimedOut:
            waited = f"{self.timeout:g} seconds have passed"
            missing = f" and {self.expect.pattern!r} was not seen" if self.expect else " and the domain has not ended"
            self._end("timeout", waited + missing, 1)
        except (DomainEnded, Idle) as error:
            self._end(type(error).__name__.lower(), str(error), 1)
        except KeyboardInterrupt:
            self._end("interrupted", "interrupted", 1)
        except Detached:
            self._end("interrupted", "ended by Ctrl-]", 1)
        except OutputClosed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)    # what is still buffered goes nowhere
            self._end("interrupted", "standard output was closed", 1)

    def _one_life(self) -> bool:
        """Create the domain and wait; True when it is to be created again."""
        domain = self.domain = self.host.create(self.config)
        self.terminal.attach(domain)
        if self.tracing is not None:
            domain.trace(**self.tracing)
        if self.expect is not None:
            match = domain.console.expect(self.expect, self._left(), or_end=True)
            if match is not None:
                self._end("expect", f"the console has shown {match.group()!r}", 0)
                return False
        how = domain.wait(self._left())
        action = {"poweroff": self.config.on_poweroff, "reboot": self.config.on_reboot}.get(how, self.config.on_crash)
        if action == "restart":
            if how == "crash" and self.domain.crash_dump:
                self.terminal.say(self.domain.crash_dump)
            domain.destroy()
            return True
        if how == "crash":
            dump = domain.crash_dump or ""
            self.terminal.say(dump)
            self._end("crash", f"the domain crashed: {domain.crash_reason or 'its kernel said so'}", 1)
        elif self.expect is not None:
            self._end(how, f"the domain ended ({how}) before {self.expect.pattern!r} was seen", 1)
        elif how in ("poweroff", "reboot"):
            self._end(how, f"the domain ended ({how})", 0)
        else:
            self._end(how, f"the domain ended in an unclean way ({how})", 1)
        return False

    def _left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def _end(self, ended: str, reason: str, status: int) -> None:
        self.ended, self.reason, self.status = ended, reason, status

    def report(self) -> dict[str, Any]:
        counted = self.domain.stats() if self.domain is not None else {}
        how = {"ended": self.ended, "reason": self.reason, "exit_status": self.status, "reboots": self.reboots}
        return how | counted


# ----------------------------------------------------------------------------------------------------------------------
# The terminal


class Detached(Exception):
    """Ctrl-] was pressed."""


class OutputClosed(Exception):
    """Nobody reads standard output any more."""


class Terminal:
    """Standard input and output, joined to a domain's console; in raw mode while it is a terminal."""

    ESCAPE = b"\x1d"        # Ctrl-], as xl console

    def __init__(self, verbose: int) -> None:
        self.raw = False
        self._saved: Any = None
        self._domain: Domain | None = None
        self._reading = False
        self._handler = _LogHandler(self)
        self._level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]

    def __enter__(self) -> Terminal:
        logger = logging.getLogger("xenfast")
        logger.addHandler(self._handler)
        logger.setLevel(self._level)
        logger.propagate = False
        if sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
            import termios
            import tty

            self._saved = termios.tcgetattr(0)
            tty.setraw(0)
            self.raw = True
        return self

    def __exit__(self, *exc: object) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
            self.raw = False
        sys.stdout.flush()
        logger = logging.getLogger("xenfast")
        logger.removeHandler(self._handler)

    def attach(self, domain: Domain) -> None:
        """Show what the domain prints, and give it what is typed."""
        self._domain = domain
        domain.console.on_output(self.write)
        if not self._reading and sys.stdin is not None:
            self._reading = True
            try:
                domain.host.add_reader(sys.stdin.fileno(), self._readable)
            except (OSError, ValueError):       # closed, or a plain file: epoll does not take those
                self._reading = False

    def write(self, data: bytes) -> None:
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            assert self._domain is not None
            self._domain.host.abort(OutputClosed())

    def say(self, text: str) -> None:
        """A line of our own on standard error."""
        end = "\r\n" if self.raw else "\n"
        sys.stdout.flush()
        print(text.rstrip("\n").replace("\n", end), end=end, file=sys.stderr, flush=True)

    def _readable(self) -> None:
        assert self._domain is not None
        data = os.read(0, 1024)
        if self.raw and self.ESCAPE in data:
            self._domain.host.abort(Detached())
        elif data:
            self._domain.console.send(data)
        else:
            self._domain.host.remove_reader(0)


class _LogHandler(logging.Handler):
    def __init__(self, terminal: Terminal) -> None:
        super().__init__()
        self.terminal = terminal
        self.setFormatter(logging.Formatter("(xenfast) %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.terminal.say(self.format(record))


# ----------------------------------------------------------------------------------------------------------------------
# Options


def configuration(options: argparse.Namespace) -> DomainConfig:
    """Put configuration file, KEY=VALUE pairs and options together; the later wins."""
    files = [item for item in options.config if not re.match(r"[A-Za-z_]\w*\s*\+?=", item)]
    pairs = [item for item in options.config if item not in files]
    if len(files) > 1:
        raise XenfastError(f"one configuration file is enough, and {files[1]!r} is another")
    settings: dict[str, Any] = {}
    where = "xenfast run"
    if files:
        where = files[0]
        text = config_module.read_text(files[0])
        settings = config_module.parse_settings(text, where)
    for pair in pairs:
        settings |= config_module.parse_settings(pair, "command line")
    for name in ("kernel", "ramdisk", "cmdline", "name", "cpu", "type", "boot", "bios"):
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    for name in ("memory", "vcpus"):
        if getattr(options, name) is not None:
            settings[name] = _number(getattr(options, name), f"--{name}", int)
            settings.pop("max" + {"memory": "mem", "vcpus": "vcpus"}[name], None)
    for name in ("disk", "vif"):
        if getattr(options, name):
            settings[name] = list(settings.get(name, [])) + getattr(options, name)
    if options.vnc is not None:
        settings |= {"vnc": 1, "vncunused": 0, "vncdisplay": _number(options.vnc, "--vnc", int)}
    if not files and "kernel" not in settings and settings.get("type", "pv") != "hvm":
        settings["kernel"] = str(_shipped_guest())
        settings.setdefault("name", "hello")
        settings.setdefault("memory", 16)
    if "name" not in settings and files:
        settings["name"] = Path(files[0]).stem
    return config_module.from_dict(settings, where)


def _shipped_guest() -> Path:
    if not guests.HELLO.exists():
        raise XenfastError("no kernel is given (--kernel FILE), and the guest shipped with xenfast was not built")
    return guests.HELLO


def _number(text: str, option: str, kind: type) -> Any:
    try:
        value = kind(text)
    except ValueError:
        raise XenfastError(f"{option} needs a number, not {text!r}") from None
    if value < 0 or value != value:
        raise XenfastError(f"{option} cannot be {text}")
    return value


def _tracing(options: argparse.Namespace) -> dict[str, Any] | None:
    """The arguments of Domain.trace(), None without --trace."""
    if options.trace is None:
        if options.trace_file or options.trace_start or options.trace_count:
            raise XenfastError(f"--trace says what to trace ({', '.join(trace.KINDS)})")
        return None
    kinds = trace.parse_kinds(options.trace)
    if "exec" in kinds:
        trace.disassembler()
    try:
        start = None if options.trace_start is None else int(options.trace_start, 0)
    except ValueError:
        raise XenfastError(f"--trace-start needs an address, not {options.trace_start!r}") from None
    count = None if options.trace_count is None else _number(options.trace_count, "--trace-count", int)
    try:
        stream = open(options.trace_file, "w", encoding="utf-8") if options.trace_file else sys.stderr     # noqa: SIM115
    except OSError as error:
        raise XenfastError(f"cannot write {options.trace_file}: {error.strerror}") from None
    from xenfast.libxl import profile

    symbols = profile.symbols(options.symbols) if options.symbols else None
    return {"kinds": kinds, "stream": stream, "start": start, "count": count, "symbols": symbols}


def _regex(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise XenfastError(f"--expect {text!r} is not a regular expression: {error}") from None


def _write_json(path: str, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise XenfastError(f"cannot write {path}: {error.strerror}") from None
