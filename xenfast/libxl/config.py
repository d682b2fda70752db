"""Domain configurations: the file format of xl.cfg(5) and what a domain is made from.

The grammar: ``KEY = VALUE`` pairs separated by newlines or semicolons, ``KEY += VALUE`` to add to a string or list,
``#`` comments; a value is a quoted string, a number (decimal, 0octal, 0xhex) or a list, whose items may be on lines
of their own.  keys.py says what each key is.  A dict with the same keys and Python values makes a configuration just
as well.
"""

from __future__ import annotations

import logging
import re
import uuid as uuid_module
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xenfast import cpuid
from xenfast.errors import XenfastError
from xenfast.libxl import disk, keys

log = logging.getLogger("xenfast")

MAX_VCPUS = 32                      # what struct shared_info has room for (XEN_LEGACY_MAX_VCPUS)
MAX_CMDLINE = 1023                  # start_info.cmd_line less its NUL
ACTIONS = ("destroy", "restart")    # of on_poweroff and the like
OTHER_ACTIONS = ("rename-restart", "preserve", "coredump-destroy", "coredump-restart", "soft-reset")

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\\\n)
      | (?P<comment>\#[^\n]*)
      | (?P<end>[\n;])
      | (?P<number>0[xX][0-9a-fA-F]+|[0-9]+)(?![A-Za-z0-9_.])
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>\+=|[=\[\],])""",
    re.X,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}

Value = str | int | list


@dataclass
class DomainConfig:
    """Everything a domain is made from.  ``settings`` holds the keys as they were given."""

    name: str = ""
    uuid: str = ""
    type: str = "pv"
    memory: int = 256
    maxmem: int = 0
    vcpus: int = 1
    maxvcpus: int = 0
    kernel: str = ""
    ramdisk: str = ""
    cmdline: str = ""
    disks: list[disk.DiskSpec] = field(default_factory=list)
    on_poweroff: str = "destroy"
    on_reboot: str = "restart"
    on_crash: str = "destroy"
    max_grant_frames: int = 32
    cpuid: cpuid.Policy = field(default_factory=cpuid.Policy)
    settings: dict[str, Value] = field(default_factory=dict)


# ----------------------------------------------------------------------------------------------------------------------
# Text to settings


def parse(text: str, where: str = "config") -> DomainConfig:
    """Read a configuration; raises XenfastError with the line of a mistake."""
    return from_dict(parse_settings(text, where), where)


def load(path: str | Path) -> DomainConfig:
    """Read a configuration file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise XenfastError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise XenfastError(f"{path} is not a configuration: it is not text") from None
    return parse(text, str(path))


def parse_settings(text: str, where: str = "config") -> dict[str, Value]:
    """The KEY = VALUE pairs of a configuration, unchecked."""
    return _Parser(text, where).settings()


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.tokens = list(self._tokens(text))
        self.pos = 0

    def _tokens(self, text: str) -> Any:
        pos, line = 0, 1
        while pos < len(text):
            match = _TOKEN.match(text, pos)
            if not match:
                raise self._error(line, f"cannot make sense of {text[pos:].splitlines()[0]!r}")
            kind = match.lastgroup
            if kind not in ("space", "comment"):
                yield kind, match.group(), line
            line += match.group().count("\n")
            pos = match.end()
        yield "end", "", line

    def _error(self, line: int, what: str) -> XenfastError:
        return XenfastError(f"{self.where}, line {line}: {what}")

    def _next(self) -> tuple[str, str, int]:
        token = self.tokens[min(self.pos, len(self.tokens) - 1)]
        self.pos += 1
        return token

    def settings(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while self.pos < len(self.tokens):
            kind, key, line = self._next()
            if kind == "end":
                continue
            if kind != "name":
                raise self._error(line, f"expected a key, found {key!r}")
            _, mark, _ = self._next()
            if mark not in ("=", "+="):
                raise self._error(line, f"expected '=' after {key!r}")
            value = self._value(key)
            kind, text, _ = self._next()
            if kind != "end":
                raise self._error(line, f"unexpected {text!r} after the value of {key!r}")
            if mark == "+=" and key in found:
                value = self._added(key, found[key], value, line)
            found[key] = value
        return found

    def _added(self, key: str, old: Value, value: Value, line: int) -> Value:
        if isinstance(old, list):
            return old + (value if isinstance(value, list) else [value])
        if isinstance(old, str) and isinstance(value, str):
            return old + value
        raise self._error(line, f"cannot add to {key!r}: it is a number")

    def _value(self, key: str) -> Value:
        kind, text, line = self._next()
        if kind == "string":
            return _dequote(text)
        if kind == "number":
            return _number(text)
        if text == "[":
            return self._list(key)
        raise self._error(line, f"the value of {key!r} is neither a string in quotes, a number nor a list")

    def _list(self, key: str) -> list:
        items: list[Value] = []
        while True:
            self._skip_newlines()
            if self.tokens[min(self.pos, len(self.tokens) - 1)][1] == "]":
                self.pos += 1
                return items
            items.append(self._value(key))
            self._skip_newlines()
            _, text, line = self._next()
            if text == "]":
                return items
            if text != ",":
                what = f"unexpected {text!r} in the list of {key!r}" if text else f"the list of {key!r} is not closed"
                raise self._error(line, what)

    def _skip_newlines(self) -> None:
        while self.pos < len(self.tokens) and self.tokens[self.pos][1] == "\n":
            self.pos += 1


def _dequote(text: str) -> str:
    def unescape(match: re.Match[str]) -> str:
        escape = match.group(1)
        if escape[0] == "x" or escape[0] in "01234567":
            return chr(int(escape.lstrip("x"), 16 if escape[0] == "x" else 8))
        return _ESCAPES.get(escape, escape)

    return re.sub(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", unescape, text[1:-1])


def _number(text: str) -> int:
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    return int(text, 8) if text[0] == "0" and text.isdigit() and not set(text) & set("89") else int(text)


# ----------------------------------------------------------------------------------------------------------------------
# Settings to a domain


def from_dict(settings: dict[str, Any], where: str = "config") -> DomainConfig:
    """Check settings and make a configuration of them; raises XenfastError for a wrong one."""

    def fail(text: str) -> XenfastError:
        return XenfastError(f"{where}: {text}")

    values: dict[str, Any] = {}
    for name, value in settings.items():
        values[name] = _checked(name, value, fail)
    config = DomainConfig(settings=values)
    for name in ("name", "uuid", "kernel", "ramdisk"):
        setattr(config, name, values.get(name, ""))
    config.type = _guest_type(values, fail)
    _sizes(config, values, fail)
    config.cmdline = _cmdline(values, fail)
    for name in ("on_poweroff", "on_reboot", "on_crash"):
        setattr(config, name, _action(name, values, getattr(config, name), fail))
    config.cpuid = _cpuid(values, fail)
    config.disks = [_disk(spec, fail) for spec in values.get("disk", [])]
    _check_disks(config.disks, fail)
    config.name = config.name or "domain"
    config.uuid = _uuid(config, fail)
    if not config.kernel:
        raise fail("no kernel is given (kernel = \"PATH\")")
    return config


def _checked(name: str, value: Any, fail: Any) -> Any:
    if isinstance(value, (tuple, set)):
        value = list(value)
    if isinstance(value, Path):
        value = str(value)
    key = keys.KEYS.get(name)
    if key is None:
        import difflib

        near = difflib.get_close_matches(name, keys.KEYS, 1)
        raise fail(f"unknown key {name!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    if key.kind == keys.NUMBER and isinstance(value, str) and value.strip().isdigit():
        value = int(value)                          # xl reads memory = "256" as well
    if not keys.accepts(key.kind, value):
        raise fail(f"{name!r} must be {key.kind}, not {value!r}")
    if key.status == keys.UNSUPPORTED and value not in (0, "", [], "disabled", "none"):
        raise fail(f"{name!r} is not supported yet")
    if key.status == keys.IGNORED:
        log.info("%s has no effect", name)
    return value


def _guest_type(values: dict[str, Any], fail: Any) -> str:
    builder = values.get("builder", "generic")
    kind = values.get("type") or {"generic": "pv", "linux": "pv"}.get(builder, builder)
    if kind not in ("pv", "pvh", "hvm"):
        raise fail(f"the guest type {kind!r} does not exist (pv, pvh or hvm)")
    if kind != "pv":
        raise fail(f"guests of type {kind!r} are not supported yet, only PV guests are")
    return kind


def _sizes(config: DomainConfig, values: dict[str, Any], fail: Any) -> None:
    config.memory = int(values.get("memory", config.memory))
    config.maxmem = int(values.get("maxmem", config.memory))
    config.vcpus = int(values.get("vcpus", 1))
    config.maxvcpus = int(values.get("maxvcpus", config.vcpus))
    config.max_grant_frames = int(values.get("max_grant_frames", config.max_grant_frames))
    if config.memory < 1:
        raise fail(f"a domain cannot have {config.memory} MiB of memory")
    if config.maxmem < config.memory:
        raise fail(f"maxmem ({config.maxmem} MiB) is less than memory ({config.memory} MiB)")
    if config.vcpus < 1:
        raise fail(f"a domain cannot have {config.vcpus} vcpus")
    if config.maxvcpus < config.vcpus:
        raise fail(f"maxvcpus ({config.maxvcpus}) is less than vcpus ({config.vcpus})")
    if config.maxvcpus > MAX_VCPUS:
        raise fail(f"{config.maxvcpus} vcpus are more than the {MAX_VCPUS} that a domain can have")
    if not 1 <= config.max_grant_frames <= 4096:
        raise fail(f"max_grant_frames must be between 1 and 4096, not {config.max_grant_frames}")


def _cmdline(values: dict[str, Any], fail: Any) -> str:
    if "cmdline" in values:
        text = values["cmdline"]
    else:
        text = " ".join(filter(None, (f"root={values['root']}" if values.get("root") else "", values.get("extra", ""))))
    if len(text.encode()) > MAX_CMDLINE:
        raise fail(f"the command line is longer than the {MAX_CMDLINE} bytes that a PV kernel can be given")
    if "\0" in text:
        raise fail("the command line has a NUL in it")
    return text


def _action(name: str, values: dict[str, Any], default: str, fail: Any) -> str:
    action = values.get(name, default)
    if action in OTHER_ACTIONS:
        raise fail(f"{name} = {action!r} is not supported yet")
    if action not in ACTIONS:
        raise fail(f"{name} cannot be {action!r}")
    return action


def _cpuid(values: dict[str, Any], fail: Any) -> cpuid.Policy:
    try:
        policy = cpuid.parse(values.get("cpu") or cpuid.DEFAULT)
        cpuid.change(policy, values.get("cpuid") or [])
    except XenfastError as error:
        raise fail(str(error)) from None
    return policy


def _disk(spec: Any, fail: Any) -> disk.DiskSpec:
    if not isinstance(spec, str):
        raise fail(f"a disk is given by a string, not {spec!r}")
    try:
        return disk.parse(spec)
    except XenfastError as error:
        raise fail(str(error)) from None


def _check_disks(disks: list[disk.DiskSpec], fail: Any) -> None:
    seen: set[int] = set()
    for spec in disks:
        if spec.number in seen:
            raise fail(f"two disks are called {spec.vdev}")
        seen.add(spec.number)


def _uuid(config: DomainConfig, fail: Any) -> str:
    """The UUID given, or one made from the name, so that a run can be repeated to the bit."""
    if not config.uuid:
        return str(uuid_module.uuid5(uuid_module.NAMESPACE_URL, f"xenfast:{config.name}"))
    try:
        return str(uuid_module.UUID(config.uuid))
    except ValueError:
        raise fail(f"{config.uuid!r} is not a UUID") from None
