"""Network specifications: the strings of xl-network-configuration(5).

``key=value`` pairs and flags, separated by commas; all are optional.  ``rate`` is a number of bytes per interval, as
the back end wants it.  Beyond the page, ``bridge=`` names a switch of this process (``xenbr0`` is there by itself).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from xenfast.errors import XenfastError

XEN_OUI = "00:16:3e"
MODELS = ("rtl8139", "e1000", "virtio-net", "virtio", "ne2k_pci")
DEFAULT_MODEL = "rtl8139"
DEFAULT_BRIDGE = "xenbr0"
KINDS = ("ioemu", "vif")
RATE = re.compile(r"([0-9]+)([GMK]?)([Bb])/s(?:@([0-9]+)(ms|us|s)?)?", re.A)
INTERVAL_US = 50_000            # of a rate that names none
UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}
TIMES = {"us": 1, "ms": 1000, "s": 1_000_000}


@dataclass(frozen=True)
class NicSpec:
    """One network interface of a guest.  What is not given is empty; ``settle`` fills in what a domain must have."""

    mac: str = ""                   # lower case, "" until settle()
    bridge: str = ""                # the switch; "" is the default one
    devid: int = -1                 # -1 until settle()
    model: str = ""                 # of an emulated card
    kind: str = ""                  # "ioemu": an emulated card and a PV device; "vif": a PV device only
    ip: str = ""
    script: str = ""
    vifname: str = ""
    gatewaydev: str = ""
    backend: str = ""
    rate_bytes: int = 0             # credit per interval; 0: no limit
    rate_interval_us: int = 0
    mtu: int = 0                    # 0: the switch's, 1500
    trusted: bool = True

    @property
    def emulated(self) -> bool:
        """An HVM guest sees a network card, too."""
        return self.kind != "vif"


def parse(spec: str) -> NicSpec:
    """Read a network specification; raises XenfastError."""

    def fail(text: str) -> XenfastError:
        return XenfastError(f"vif {spec!r}: {text}")

    values: dict[str, object] = {}
    for item in spec.split(","):
        item = item.strip()
        if not item:
            continue
        key, equals, value = (part.strip() for part in item.partition("="))
        if item in ("trusted", "untrusted"):
            values["trusted"] = item == "trusted"
        elif not equals:
            raise fail(f"{item!r} is not an option of a network interface")
        elif key in ("bridge", "model", "ip", "script", "vifname", "backend"):
            values[key] = value
        elif key in READERS:
            name, reader = READERS[key]
            try:
                read = reader(value)
            except ValueError as error:
                raise fail(str(error)) from None
            values.update(read if isinstance(read, dict) else {name: read})
        else:
            raise fail(f"{key!r} is not an option of a network interface")
    if values.get("backend", "0") not in ("0", "Domain-0", "dom0"):
        raise fail("networks are served by domain 0 only")
    return NicSpec(**values)        # type: ignore[arg-type]


def mac_address(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}", text):
        raise ValueError(f"{text!r} is not a MAC address")
    octets = [int(part, 16) for part in text.split(":")]
    if octets[0] & 1:
        raise ValueError(f"{text!r} is a multicast address")
    return ":".join(f"{octet:02x}" for octet in octets)


def rate(text: str) -> dict[str, int]:
    """``250KB/s@20ms`` is so many bytes in each interval."""
    match = RATE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a rate (such as 10Mb/s or 250KB/s@20ms)")
    amount, unit, kind, interval, scale = match.groups()
    bytes_per_s = int(amount) * UNITS[unit] // (8 if kind == "b" else 1)
    interval_us = int(interval) * TIMES[scale or "us"] if interval else INTERVAL_US
    if not 0 < interval_us < 1 << 32:
        raise ValueError(f"the interval of {text!r} is out of range")
    return {"rate_bytes": bytes_per_s * interval_us // 1_000_000, "rate_interval_us": interval_us}


def _kind(text: str) -> str:
    if text not in KINDS:
        raise ValueError(f"the type {text!r} is neither ioemu nor vif")
    return text


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def _mtu(text: str) -> int:
    value = _number(text)
    if not 68 <= value <= 65535:
        raise ValueError(f"an MTU of {value} is out of range")
    return value


READERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "mac": ("mac", mac_address), "type": ("kind", _kind), "rate": ("", rate), "devid": ("devid", _number), "mtu": ("mtu", _mtu),
    "gatewaydev": ("gatewaydev", str), "netdev": ("gatewaydev", str),
}  # fmt: skip


def settle(specs: list[NicSpec], seed: str) -> list[NicSpec]:
    """Give each interface a number and an address.  An address made here follows from ``seed`` (the domain's UUID), so
    that a run can be repeated; two interfaces with one number or one address are refused.
    """
    taken = {spec.devid for spec in specs if spec.devid >= 0}
    if len(taken) < sum(spec.devid >= 0 for spec in specs):
        raise XenfastError("two network interfaces have the same devid")
    settled = []
    for spec in specs:
        devid = spec.devid
        if devid < 0:
            devid = next(number for number in range(len(specs) + 1) if number not in taken)
            taken.add(devid)
        settled.append(replace(spec, devid=devid, mac=spec.mac or generated_mac(seed, devid)))
    if len({spec.mac for spec in settled}) < len(settled):
        raise XenfastError("two network interfaces have the same MAC address")
    return settled


def generated_mac(seed: str, devid: int) -> str:
    """An address in Xen's own range."""
    digest = hashlib.sha256(f"{seed}/{devid}".encode()).digest()
    return f"{XEN_OUI}:{digest[0] & 0x7F:02x}:{digest[1]:02x}:{digest[2]:02x}"
