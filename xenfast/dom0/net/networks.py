"""The switches of a host, by name, and how each reaches beyond it.

A guest's ``bridge=`` names a switch; it is made when it is first asked for.  ``xenbr0``, the default, has a user network
(NAT, user.py) as its uplink, where libslirp is installed; other switches join guests only, unless
``define`` gives them something else:

    user[,net=10.1.0.0/24][,hostfwd=tcp:127.0.0.1:2222-:22][,restrict=on][,tftp=DIR][,bootfile=FILE] ...
    none
"""

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from xenfast.dom0.net import slirp
from xenfast.dom0.net.switch import Switch
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

    def switch(self, name: str = "") -> Switch:
        """A switch by name, "" for the default one."""
        name = name or DEFAULT_SWITCH
        if name not in self.switches:
            if name != DEFAULT_SWITCH:
                self.define(name, "none")
            elif slirp.available():
                self.define(name, "user")
            else:
                log.warning("guests on %s reach each other, but not the world: libslirp is not installed "
                            "(Debian: apt-get install libslirp0)", name)
                self.define(name, "none")
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
    port = switch.port("user")
    try:
        return UserNet(loop, port, options)
    except BaseException:
        port.close()
        raise


def flag(name: str, value: str) -> bool:
    if value not in SWITCHES:
        raise XenfastError(f"{name}={value} is neither on nor off")
    return SWITCHES[value]


Maker = Callable[[Any, Switch, dict[str, list[str]]], Any]
KINDS: dict[str, Maker] = {"user": _user, "none": lambda loop, switch, given: None}
OPTIONS = {"user": {each.name.replace("_", "-") for each in fields(UserOptions)}, "none": set()}
