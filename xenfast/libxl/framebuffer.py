"""Framebuffer specifications: the strings of ``vfb`` in xl.cfg(5), and addresses as in ``vnclisten``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xenfast.errors import XenfastError
from xenfast.libxl.cfgfile import number_value


@dataclass(frozen=True)
class VfbSpec:
    """A PV framebuffer, with the VNC server that shows it."""

    vnc: int = 1
    vnclisten: str = "127.0.0.1"
    vncdisplay: int = 0
    vncunused: int = 1
    vncpasswd: str = ""
    sdl: int = 0
    keymap: str = ""


NUMBERS = ("vnc", "vncdisplay", "vncunused", "sdl")
TEXTS = ("vncpasswd", "keymap")
IGNORED = ("display", "xauthority", "opengl", "type")       # of a window, and of older versions


def listen_address(text: str) -> tuple[str, int | None]:
    """ADDRESS, ADDRESS:DISPLAY, or [IPV6]:DISPLAY; ValueError for what is none."""
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an address")
        display = rest[1:]
    elif text.count(":") > 1:
        address, display = text, ""
    else:
        address, _, display = text.partition(":")
    if display and not (display.isascii() and display.isdigit() and int(display) < 60000):
        raise ValueError(f"{display!r} is not the number of a display")
    return address, int(display) if display else None


def parse(spec: str) -> VfbSpec:
    """Read a framebuffer specification; raises XenfastError."""
    values: dict[str, Any] = {}
    for item in spec.split(","):
        if not item.strip():
            continue
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise XenfastError(f"vfb {spec!r}: {item!r} is not KEY=VALUE")
        if key not in (*NUMBERS, *TEXTS, *IGNORED, "vnclisten"):
            raise XenfastError(f"vfb {spec!r}: {key!r} is not an option of a framebuffer")
        values[key] = value
    try:
        return from_settings(values)
    except ValueError as error:
        raise XenfastError(f"vfb {spec!r}: {error}") from None


def from_settings(values: dict[str, Any]) -> VfbSpec:
    """A framebuffer by the keys of the same names."""
    chosen: dict[str, Any] = {}
    for name in NUMBERS:
        if name in values:
            try:
                chosen[name] = number_value(str(values[name]))
            except ValueError:
                raise ValueError(f"{name} is not a number: {values[name]!r}") from None
    if not 0 <= chosen.get("vncdisplay", 0) < 60000:
        raise ValueError(f"there is no display {chosen['vncdisplay']}")
    chosen |= {name: values[name] for name in TEXTS if name in values}
    if values.get("vnclisten"):
        address, display = listen_address(values["vnclisten"])
        chosen |= {"vnclisten": address} | ({} if display is None else {"vncdisplay": display})
    return VfbSpec(**chosen)
