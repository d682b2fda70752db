"""The switches of a host, by name, and how each reaches beyond it.

A guest's ``bridge=`` names a switch; it is made when it is first asked for.  ``xenbr0``, the default, has a user network
(NAT, user.py) as its uplink, where libslirp is installed; other switches join guests only, with
a DHCP server of our own, unless ``define`` gives them something else:

    user[,net=10.1.0.0/24][,hostfwd=tcp:127.0.0.1:2222-:22][,restrict=on][,tftp=DIR][,bootfile=FILE] ...
    tap[,ifname=tap0]
    stream,addr=unix:PATH|tcp:HOST:PORT[,server=on]
    dhcp[,net=192.168.100.0/24]
    none

A switch that is joined to others by TAP or a stream has no DHCP server of ours unless it is asked for.
"""

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from xenfast.dom0.net import slirp
from xenfast.dom0.net.dhcp import DhcpServer
from xenfast.dom0.net.link import StreamLink
from xenfast.dom0.net.pcap import Pcap
from xenfast.dom0.net.switch import Switch
from xenfast.dom0.net.tap import Tap
from xenfast.dom0.net.user import UserNet, UserOptions
from xenfast.errors import XenfastError

log = logging.getLogger("xenfast")

DEFAULT_SWITCH = "xenbr0"
MAX_NAME = 64
SWITCHES = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}


class Networks:
    def __init__(self, hypervisor: Any) -> None:
        self.hypervisor = hypervisor
        self.switches: dict[str, Switch] = {}
        self.uplinks: dict[str, list[Any]] = {}
        self.captures: list[Pcap] = []

    def switch(self, name: str = "") -> Switch:
        """A switch by name, "" for the default one."""
        name = name or DEFAULT_SWITCH
        if name not in self.switches:
            if name != DEFAULT_SWITCH:
                self.define(name, "dhcp")
            elif slirp.available():
                self.define(name, "user")
            else:
                log.warning("guests on %s reach each other, but not the world: libslirp is not installed "
                            "(Debian: apt-get install libslirp0)", name)
                self.define(name, "dhcp")
        return self.switches[name]

    def define(self, name: str, *uplinks: str) -> Switch:
        """Make a switch, or give one that is there more uplinks."""
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise XenfastError(f"{name[:80]!r} cannot be the name of a switch")
        made = name not in self.switches
        switch = self.switches.get(name) or Switch(name, self.hypervisor)
        held: list[Any] = []
        try:
            for uplink in uplinks:
                found = self._uplink(switch, uplink)
                held += [found] if found is not None else []
        except BaseException:
            for each in held:
                each.close()
            if made:
                switch.close()
            raise
        self.switches[name] = switch
        self.uplinks.setdefault(name, []).extend(held)
        return switch

    def _uplink(self, switch: Switch, text: str) -> Any:
        kind, _, rest = text.partition(",")
        make = KINDS.get(kind)
        if make is None:
            raise XenfastError(f"{kind!r} is not a kind of network: it is one of {', '.join(KINDS)}")
        return make(self.hypervisor.loop, switch, parse_options(kind, rest))

    def define_text(self, text: str) -> Switch:
        """``[SWITCH=]UPLINK``, as the option --net has it; without a name it is the default switch."""
        head, equals, rest = text.partition("=")
        if equals and "," not in head and head not in KINDS:
            return self.define(head, rest)
        return self.define(DEFAULT_SWITCH, text)

    def capture(self, name: str, path: str) -> Pcap:
        """Record the frames of a switch, or of one port (``vif1.0``), in a pcap file."""
        switch = self.switches.get(name)
        ports = [port for each in self.switches.values() for port in each.ports if port.name == name]
        if switch is None and not ports:
            raise XenfastError(f"there is no switch and no port called {name!r}")
        holder: Any = switch or ports[0]
        if holder.capture is not None:
            holder.capture.close()
        holder.capture = Pcap(path)
        self.captures.append(holder.capture)
        return holder.capture

    def user(self, name: str = "") -> UserNet:
        """The user network of a switch, for port forwards."""
        self.switch(name)
        for uplink in self.uplinks[name or DEFAULT_SWITCH]:
            if isinstance(uplink, UserNet):
                return uplink
        raise XenfastError(f"the switch {name or DEFAULT_SWITCH!r} has no user network, which port forwards take")

    def close(self) -> None:
        for held in self.uplinks.values():
            for each in held:
                each.close()
        for switch in self.switches.values():
            switch.close()
        for capture in self.captures:
            capture.close()
        self.uplinks.clear()
        self.switches.clear()


def parse_options(kind: str, text: str) -> dict[str, list[str]]:
    """``a=b,c,d=e`` as lists of values by name; a name without a value is "on"."""
    found: dict[str, list[str]] = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if name not in OPTIONS[kind]:
            raise XenfastError(f"{name!r} is not an option of a {kind} network ({', '.join(sorted(OPTIONS[kind])) or 'it has none'})")
        found.setdefault(name.replace("-", "_"), []).append(value if equals else "on")
    return found


def _user(loop: Any, switch: Switch, given: dict[str, list[str]]) -> UserNet:
    options = UserOptions()
    for each in fields(UserOptions):
        values = given.get(each.name)
        if not values:
            continue
        if isinstance(getattr(options, each.name), list):
            setattr(options, each.name, values)
        elif isinstance(getattr(options, each.name), bool):
            setattr(options, each.name, flag(each.name, values[-1]))
        else:
            setattr(options, each.name, values[-1])
    slirp.library()
    return _on_port(switch, "user", lambda port: UserNet(loop, port, options))


def _on_port(switch: Switch, name: str, make: Callable[[Any], Any]) -> Any:
    """What is plugged into a new port; no port is left if that fails."""
    port = switch.port(name)
    try:
        return make(port)
    except BaseException:
        port.close()
        raise


def _tap(loop: Any, switch: Switch, given: dict[str, list[str]]) -> Tap:
    return _on_port(switch, "tap", lambda port: Tap(loop, port, given.get("ifname", [""])[-1]))


def _stream(loop: Any, switch: Switch, given: dict[str, list[str]]) -> StreamLink:
    server = flag("server", given.get("server", ["off"])[-1])
    return _on_port(switch, "stream", lambda port: StreamLink(loop, port, given.get("addr", [""])[-1], server))


def _dhcp(loop: Any, switch: Switch, given: dict[str, list[str]]) -> DhcpServer:
    return _on_port(switch, "dhcp", lambda port: DhcpServer(port, *given.get("net", [])[-1:]))


def flag(name: str, value: str) -> bool:
    if value not in SWITCHES:
        raise XenfastError(f"{name}={value} is neither on nor off")
    return SWITCHES[value]


Maker = Callable[[Any, Switch, dict[str, list[str]]], Any]
KINDS: dict[str, Maker] = {"user": _user, "tap": _tap, "stream": _stream, "dhcp": _dhcp, "none": lambda loop, switch, given: None}
OPTIONS = {
    "user": {each.name.replace("_", "-") for each in fields(UserOptions)},
    "tap": {"ifname"},
    "stream": {"addr", "server"},
    "dhcp": {"net"},
    "none": set(),
}
