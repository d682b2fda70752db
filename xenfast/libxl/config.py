"""Domain configurations: what a domain is made from, out of a file as in xl.cfg(5) or a dict with the same keys.

cfgfile.py reads the text, keys.py says what each key is; here the settings become a ``DomainConfig`` with a typed field
for each, which builders and devices read.  Fields have the names of their keys (``config.boot``, ``config.vncdisplay``),
but for those that are specifications: ``disks``, ``vifs``, ``vfbs``.
"""

from __future__ import annotations

import logging
import re
import uuid as uuid_module
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xenfast import cpuid
from xenfast.errors import XenfastError
from xenfast.firmware import numa
from xenfast.libxl import cpulist, disk, framebuffer, keys, network
from xenfast.libxl.cfgfile import Value, parse_settings

__all__ = ["DomainConfig", "from_dict", "load", "parse", "parse_settings", "read_text", "resolve_paths"]

log = logging.getLogger("xenfast")

MAX_VCPUS = 32                      # what struct shared_info has room for (XEN_LEGACY_MAX_VCPUS)
MAX_HVM_VCPUS = 128                 # HVM_MAX_VCPUS
MAX_CMDLINE = 1023                  # start_info.cmd_line less its NUL
MAX_NAME = 128
ACTIONS = ("destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart", "soft-reset")
EVENTS = ("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset")
TIMER_MODES = ("delay_for_missed_ticks", "no_delay_for_missed_ticks", "no_missed_ticks_pending", "one_missed_tick_pending")
VGA = ("stdvga", "cirrus", "qxl", "none")
HDTYPES = ("ide", "ahci")
BIOSES = ("", "seabios", "rombios", "ovmf", "uefi", "xenfast")

Fail = Callable[[str], XenfastError]


@dataclass
class DomainConfig:
    """Everything a domain is made from.  ``settings`` holds the keys as they were given."""

    name: str = ""
    uuid: str = ""
    type: str = "pv"
    # processors and scheduling
    vcpus: int = 1
    maxvcpus: int = 0
    cpus: list[str] = field(default_factory=list)           # lists of host processors: one for all vcpus, or one each
    cpus_soft: list[str] = field(default_factory=list)
    cpu_weight: int = 256
    cap: int = 0                                            # percent of a processor; 0: no limit
    cpuid: cpuid.Policy = field(default_factory=cpuid.Policy)
    # memory, MiB
    memory: int = 256
    maxmem: int = 0
    # what is done when it ends
    on_poweroff: str = "destroy"
    on_reboot: str = "restart"
    on_watchdog: str = "destroy"
    on_crash: str = "destroy"
    on_soft_reset: str = "soft-reset"
    # direct kernel boot
    kernel: str = ""
    ramdisk: str = ""
    cmdline: str = ""
    # limits
    max_grant_frames: int = 32
    max_event_channels: int = 1023
    nomigrate: int = 0
    # devices
    disks: list[disk.DiskSpec] = field(default_factory=list)
    vifs: list[network.NicSpec] = field(default_factory=list)
    vfbs: list[framebuffer.VfbSpec] = field(default_factory=list)
    # HVM guests: firmware and boot
    firmware: str = ""                  # as given; ``bios`` has what follows from it
    bios: str = ""                      # "": our own; "seabios", "rombios" or "ovmf": the distribution's image
    bios_path_override: str = ""        # a file with a BIOS image
    firmware_override: str = ""         # a file with what runs in place of hvmloader and firmware
    boot: str = "cda"                   # c disk, d CD-ROM, a floppy, n network
    hdtype: str = "ide"
    acpi_firmware: str = ""             # a file with more ACPI tables
    smbios_firmware: str = ""           # a file with SMBIOS structures
    smbios: dict[str, Any] = field(default_factory=dict)        # KEY -> string, or several of "oem"
    ms_vm_genid: str = ""               # a UUID, "" for none
    vnuma: tuple[numa.Vnode, ...] = ()
    # HVM guests: processor and platform
    pae: int = 1
    nx: int = 1
    acpi: int = 1
    acpi_s3: int = 1
    acpi_s4: int = 1
    acpi_laptop_slate: int = 0
    apic: int = 1
    hpet: int = 1
    xen_platform_pci: int = 1
    mmio_hole: int = 0                  # MiB below 4 GiB; 0: as much as is needed
    localtime: int = 0
    rtc_timeoffset: int = 0             # s
    vpt_align: int = 1
    timer_mode: str = "no_delay_for_missed_ticks"
    # HVM guests: screen
    vga: str = "stdvga"
    videoram: int = 0                   # MiB; 0: the card's own choice
    nographic: int = 0
    vnc: int = 1
    vnclisten: str = "127.0.0.1"
    vncdisplay: int = 0                 # port 5900 + vncdisplay
    vncunused: int = 1                  # the first free display from vncdisplay on
    vncpasswd: str = ""
    keymap: str = ""
    # HVM guests: other hardware
    serial: list[str] = field(default_factory=list)         # "pty", "stdio", "file:PATH", "tcp:...", "unix:...", "none", ...
    usb: int = 0
    usbversion: int = 0
    usbdevice: list[str] = field(default_factory=list)      # "tablet", "mouse", "keyboard"
    vkb_device: int = 1
    settings: dict[str, Value] = field(default_factory=dict)

    @property
    def is_hvm(self) -> bool:
        return self.type == "hvm"

    @property
    def cdroms(self) -> list[disk.DiskSpec]:
        return [spec for spec in self.disks if spec.cdrom]


# fields that are a key's value as it is
PLAIN = (
    "name uuid ramdisk kernel cpu_weight max_grant_frames max_event_channels nomigrate firmware bios_path_override"
    " firmware_override acpi_firmware smbios_firmware pae nx acpi acpi_s3 acpi_s4 acpi_laptop_slate apic hpet"
    " xen_platform_pci mmio_hole localtime rtc_timeoffset vpt_align videoram nographic vnc vncdisplay vncunused"
    " vncpasswd keymap usb usbversion vkb_device cap"
).split()
NOT_NEGATIVE = "cap mmio_hole videoram vncdisplay usbversion".split()


# ----------------------------------------------------------------------------------------------------------------------
# From text and files


def parse(text: str, where: str = "config") -> DomainConfig:
    """Read a configuration; raises XenfastError with the line of a mistake."""
    return from_dict(parse_settings(text, where), where)


def load(path: str | Path) -> DomainConfig:
    """Read a configuration file."""
    return parse(read_text(path), str(path))


def read_text(path: str | Path) -> str:
    """The text of a configuration file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise XenfastError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise XenfastError(f"{path} is not a configuration: it is not text") from None


# ----------------------------------------------------------------------------------------------------------------------
# Settings to a domain


def from_dict(settings: dict[str, Any], where: str = "config") -> DomainConfig:
    """Check settings and make a configuration of them; raises XenfastError for a wrong one."""

    def fail(text: str) -> XenfastError:
        return XenfastError(f"{where}: {text}")

    values: dict[str, Any] = {}
    for name, value in settings.items():
        if _is_known(name, where):
            values[name] = _checked(name, value, fail)
    config = DomainConfig(settings=values)
    for name in PLAIN:
        if name in values:
            setattr(config, name, values[name])
    config.type = _guest_type(values, fail)
    _numbers(config, fail)
    _sizes(config, values, fail)
    _scheduling(config, values, fail)
    config.cmdline = _cmdline(config.type, values, fail)
    for name in EVENTS:
        setattr(config, name, _action(name, values, getattr(config, name), fail))
    config.cpuid = _cpuid(values, fail)
    if config.type == "hvm":
        _hvm(config, values, fail)
    elif values.get("vnuma"):
        log.warning("'vnuma' has no effect: only HVM guests are told of nodes")
    config.name = _name(config.name or "domain", fail)
    config.uuid = _uuid(config, fail)
    _devices(config, values, fail)
    if not config.kernel and config.type != "hvm":
        raise fail("no kernel is given (kernel = \"PATH\")")
    return config


def _is_known(name: str, where: str) -> bool:
    """xl passes over a key that it does not know; so do we, but not without a word."""
    if name in keys.KEYS:
        return True
    import difflib

    near = difflib.get_close_matches(name, keys.KEYS, 1)
    log.warning("%s: the unknown key %r is ignored%s", where, name, f" (did you mean {near[0]!r}?)" if near else "")
    return False


def _checked(name: str, value: Any, fail: Fail) -> Any:
    if isinstance(value, (tuple, set)):
        value = list(value)
    if isinstance(value, Path):
        value = str(value)
    key = keys.KEYS[name]
    converted = keys.converted(key.kind, value)
    if converted is None:
        raise fail(f"{name!r} must be {key.kind}, not {value!r}")
    if converted not in keys.OFF:
        if key.status == keys.UNSUPPORTED:
            raise fail(f"{name!r} is not supported: {key.why}")
        if key.status == keys.MISSING:
            log.warning("%r has no effect: %s", name, key.why)
        elif key.status == keys.IGNORED:
            log.info("%r has no effect: %s", name, key.why)
    return converted


def _guest_type(values: dict[str, Any], fail: Fail) -> str:
    builder = values.get("builder", "generic")
    kind = values.get("type") or {"generic": "pv", "linux": "pv"}.get(builder, builder)
    if kind not in ("pv", "pvh", "hvm"):
        raise fail(f"the guest type {kind!r} does not exist (pv, pvh or hvm)")
    return kind


def _numbers(config: DomainConfig, fail: Fail) -> None:
    for name in NOT_NEGATIVE:
        if getattr(config, name) < 0:
            raise fail(f"{name} cannot be {getattr(config, name)}")
    if not 1 <= config.cpu_weight <= 65535:
        raise fail(f"cpu_weight must be between 1 and 65535, not {config.cpu_weight}")
    if not 1 <= config.max_grant_frames <= 4096:
        raise fail(f"max_grant_frames must be between 1 and 4096, not {config.max_grant_frames}")
    if not 1 <= config.max_event_channels <= 131071:
        raise fail(f"max_event_channels must be between 1 and 131071, not {config.max_event_channels}")


def _sizes(config: DomainConfig, values: dict[str, Any], fail: Fail) -> None:
    config.memory = int(values.get("memory", values.get("maxmem", config.memory)))
    config.maxmem = int(values.get("maxmem", config.memory))
    config.vcpus = int(values.get("vcpus", 1))
    config.maxvcpus = int(values.get("maxvcpus", config.vcpus))
    if config.memory < 1:
        raise fail(f"a domain cannot have {config.memory} MiB of memory")
    if config.maxmem < config.memory:
        raise fail(f"maxmem ({config.maxmem} MiB) is less than memory ({config.memory} MiB)")
    if config.vcpus < 1:
        raise fail(f"a domain cannot have {config.vcpus} vcpus")
    if config.maxvcpus < config.vcpus:
        raise fail(f"maxvcpus ({config.maxvcpus}) is less than vcpus ({config.vcpus})")
    most = MAX_VCPUS if config.type == "pv" else MAX_HVM_VCPUS
    if config.maxvcpus > most:
        raise fail(f"{config.maxvcpus} vcpus are more than the {most} that a {config.type.upper()} domain can have")


def _scheduling(config: DomainConfig, values: dict[str, Any], fail: Fail) -> None:
    for name in ("cpus", "cpus_soft"):
        lists = [str(item) for item in _as_list(values.get(name))]
        try:
            for text in lists:
                cpulist.parse(text)
        except XenfastError as error:
            raise fail(f"{name}: {error}") from None
        setattr(config, name, lists)


def _cmdline(kind: str, values: dict[str, Any], fail: Fail) -> str:
    extra = " ".join(str(item) for item in _as_list(values.get("extra")))
    if "cmdline" in values:
        text = values["cmdline"]
    else:
        text = " ".join(filter(None, (f"root={values['root']}" if values.get("root") else "", extra)))
    if kind == "pv" and len(text.encode()) > MAX_CMDLINE:
        raise fail(f"the command line is longer than the {MAX_CMDLINE} bytes that a PV kernel can be given")
    if "\0" in text:
        raise fail("the command line has a NUL in it")
    return text


def _action(name: str, values: dict[str, Any], default: str, fail: Fail) -> str:
    action = values.get(name, default)
    if action not in ACTIONS:
        raise fail(f"{name} cannot be {action!r} ({', '.join(ACTIONS)})")
    return action


def _cpuid(values: dict[str, Any], fail: Fail) -> cpuid.Policy:
    try:
        policy = cpuid.parse(values.get("cpu") or cpuid.DEFAULT)
        cpuid.change(policy, values.get("cpuid") or [])
    except XenfastError as error:
        raise fail(str(error)) from None
    return policy


def _as_list(value: Any) -> list:
    """A list, also of one string, which the older form has."""
    return value if isinstance(value, list) else [] if value in (None, "") else [value]


# ----------------------------------------------------------------------------------------------------------------------
# HVM guests


def _hvm(config: DomainConfig, values: dict[str, Any], fail: Fail) -> None:
    config.bios = _bios(config, values, fail)
    config.boot = values.get("boot") or config.boot
    if not re.fullmatch(r"[acdn]+", config.boot):
        raise fail(f"boot cannot be {config.boot!r}: it is made of a (floppy), c (disk), d (CD-ROM) and n (network)")
    config.hdtype = _one_of("hdtype", values, HDTYPES, "ide", fail)
    config.vga = _vga(values, fail)
    config.timer_mode = _timer_mode(values, fail)
    config.serial = [str(item) for item in _as_list(values.get("serial"))]
    config.usbdevice = [str(item) for item in _as_list(values.get("usbdevice"))]
    config.smbios = _pairs("smbios", values.get("smbios") or [], fail)
    config.ms_vm_genid = _genid(values, fail)
    try:
        config.vnuma = numa.parse(values.get("vnuma") or [], config.memory, config.maxvcpus)
    except XenfastError as error:
        raise fail(f"vnuma: {error}") from None
    _vnclisten(config, values.get("vnclisten", ""), fail)
    if config.usbversion and (config.usb or config.usbdevice):
        raise fail("usbversion cannot be combined with usb or usbdevice")
    if config.mmio_hole and not 256 <= config.mmio_hole <= 3840:
        raise fail(f"mmio_hole must be between 256 and 3840 MiB, not {config.mmio_hole}")


def _one_of(name: str, values: dict[str, Any], allowed: tuple[str, ...], default: str, fail: Fail) -> str:
    value = values.get(name) or default
    if value not in allowed:
        raise fail(f"{name} cannot be {value!r} ({', '.join(filter(None, allowed))})")
    return value


def _bios(config: DomainConfig, values: dict[str, Any], fail: Fail) -> str:
    """``bios``, or what ``firmware`` stands for."""
    if "bios" in values:
        name = _one_of("bios", values, BIOSES, "", fail)
    else:
        name = _one_of("firmware", values, (*BIOSES, "bios"), "", fail)
    return {"uefi": "ovmf", "xenfast": "", "bios": ""}.get(name, name)


def _vga(values: dict[str, Any], fail: Fail) -> str:
    kind = _one_of("vga", values, VGA, "stdvga", fail)
    if values.get("vga") in ("cirrus", "qxl") and not values.get("stdvga"):
        log.warning("vga = %r: there is only the standard VGA, which the guest gets", kind)
    return "none" if kind == "none" else "stdvga"


def _timer_mode(values: dict[str, Any], fail: Fail) -> str:
    value = values.get("timer_mode", 1)
    if isinstance(value, int) and 0 <= value < len(TIMER_MODES):
        return TIMER_MODES[value]
    if value not in TIMER_MODES:
        raise fail(f"timer_mode cannot be {value!r} ({', '.join(TIMER_MODES)})")
    return str(value)


def _pairs(name: str, items: list, fail: Fail) -> dict[str, Any]:
    """KEY -> value, or the list of values of a key that is there several times."""
    pairs: dict[str, Any] = {}
    for item in items:
        key, equals, value = str(item).partition("=")
        if not equals:
            raise fail(f"{name}: {item!r} is not KEY=VALUE")
        key, value = key.strip(), value.strip()
        pairs[key] = [*_as_list(pairs[key]), value] if key in pairs else value
    return pairs


def _genid(values: dict[str, Any], fail: Fail) -> str:
    value = values.get("ms_vm_genid", "none")
    if value in ("none", ""):
        return ""
    if value == "generate":
        return str(uuid_module.uuid4())
    try:
        return str(uuid_module.UUID(value))
    except ValueError:
        raise fail(f"ms_vm_genid cannot be {value!r} (generate, none or a UUID)") from None


def _vnclisten(config: DomainConfig, text: str, fail: Fail) -> None:
    """``ADDRESS[:DISPLAY]``."""
    try:
        address, display = framebuffer.listen_address(text)
    except ValueError as error:
        raise fail(f"vnclisten: {error}") from None
    config.vnclisten = address or config.vnclisten
    if display is not None:
        config.vncdisplay = display


# ----------------------------------------------------------------------------------------------------------------------
# Devices, name, files


def _devices(config: DomainConfig, values: dict[str, Any], fail: Fail) -> None:
    config.disks = [_spec("disk", disk.parse, spec, fail) for spec in values.get("disk", [])]
    seen: set[int] = set()
    for spec in config.disks:
        if spec.number in seen:
            raise fail(f"two disks are called {spec.vdev}")
        seen.add(spec.number)
        if not spec.target and config.type != "hvm":
            raise fail(f"disk {spec.vdev}: only an HVM domain can have an empty drive")
    vifs = [_spec("network interface", network.parse, spec, fail) for spec in values.get("vif", [])]
    try:
        config.vifs = network.settle(vifs, config.uuid)
    except XenfastError as error:
        raise fail(str(error)) from None
    config.vfbs = [_spec("framebuffer", framebuffer.parse, spec, fail) for spec in values.get("vfb", [])]
    if config.type == "pv" and not config.vfbs and any(values.get(name) for name in ("vnc", "sdl")):
        config.vfbs = [framebuffer.from_settings(values)]       # xl.cfg(5), vfb: the keys of a VGA make one


def _spec(what: str, parser: Callable[[str], Any], spec: Any, fail: Fail) -> Any:
    if not isinstance(spec, str):
        raise fail(f"a {what} is given by a string, not {spec!r}")
    try:
        return parser(spec)
    except XenfastError as error:
        raise fail(str(error)) from None


def check_name(name: str) -> None:
    """XenfastError for what cannot be the name of a domain."""
    if not name or len(name) > MAX_NAME or not name.isprintable() or "/" in name:
        raise XenfastError(f"{name[:MAX_NAME]!r} cannot be the name of a domain")
    if name.isascii() and name.isdigit():
        raise XenfastError(f"a domain cannot be called {name!r}: it would be taken for a domain's number")


def _name(name: str, fail: Fail) -> str:
    try:
        check_name(name)
    except XenfastError as error:
        raise fail(str(error)) from None
    return name


def _uuid(config: DomainConfig, fail: Fail) -> str:
    """The UUID given, or one made from the name, so that a run can be repeated to the bit."""
    if not config.uuid:
        return str(uuid_module.uuid5(uuid_module.NAMESPACE_URL, f"xenfast:{config.name}"))
    try:
        return str(uuid_module.UUID(config.uuid))
    except ValueError:
        raise fail(f"{config.uuid!r} is not a UUID") from None


FILES = ("kernel", "ramdisk", "bios_path_override", "firmware_override", "acpi_firmware", "smbios_firmware")


def resolve_paths(config: DomainConfig, directory: str | Path) -> None:
    """Files that are named relative to a directory get absolute names, for a process that is elsewhere."""
    base = Path(directory)
    for name in FILES:
        if getattr(config, name):
            setattr(config, name, str(base / getattr(config, name)))
    config.disks = [replace(spec, target=str(base / spec.target)) if spec.target else spec for spec in config.disks]
    config.serial = [_resolved_serial(text, base) for text in config.serial]


def _resolved_serial(text: str, base: Path) -> str:
    kind, colon, path = text.partition(":")
    return f"{kind}:{base / path}" if colon and kind in ("file", "unix", "pipe") else text
