"""The back end's half of a split device: two directories in xenstore whose ``state`` nodes shake hands (io/xenbus.h).

    front end                      back end Initialising                   Initialising, then InitWait: what it can do
    is in its directory Initialised: rings are there   connects, Connected: how large the device is, is in its
    directory Connected Closing                        Closing: lets go of the rings once the front end is Closed
    Closed                         Closed; gone if ``online`` is 0, else it waits for the next Initialising
    InitWait                       (kexec, module reloaded, mini-os after its boot loader)

What a guest does wrong is written to the back end's ``error`` node, and the device closes; nothing is raised.
"""

import logging
from collections.abc import Callable
from typing import Any

from xenfast.abi.io.xenbus import XenbusState, parse_state
from xenfast.errors import XenError
from xenfast.xenstore.client import Client
from xenfast.xenstore.tree import home_of

log = logging.getLogger("xenfast")

MAX_WARNINGS = 10  # of a device; a guest cannot fill the log


class ProtocolError(Exception):
    """The front end has written what cannot be used."""


class Backend:
    """A device served by domain 0.  Subclasses say what it offers and how it connects."""

    kind = ""  # "vbd"

    def __init__(self, hypervisor: Any, store: Any, domain: Any, handle: int) -> None:
        self.hypervisor, self.domain, self.domid, self.handle = hypervisor, domain, domain.domid, handle
        self.name = f"{self.kind}/{self.domid}/{handle}"
        self.path = f"{home_of(0)}/backend/{self.name}"
        self.front = f"{home_of(self.domid)}/device/{self.kind}/{handle}"
        self.store: Client = store.client(f"{self.kind}-{self.domid}-{handle}")
        self.state = XenbusState.Initialising
        self.connected = False
        self.failures = 0
        self.on_closed: Callable[[], None] | None = None    # once, when the front end has let go of the device

    # -- what a device does --

    def advertise(self) -> None:
        """Write what the back end can do."""
        raise NotImplementedError

    def connect(self) -> None:
        """Map the rings and write the device's properties; ProtocolError or XenError if the guest's nodes are no
        use."""
        raise NotImplementedError

    def disconnect(self) -> None:
        """Let go of everything of the guest's; harmless if there is nothing."""
        raise NotImplementedError

    # -- the handshake --

    def start(self) -> None:
        """Begin to follow the front end."""
        self.store.watch(f"{self.front}/state", "frontend", self.frontend_event)

    def frontend_event(self, path: str, token: str) -> None:
        state = parse_state(self.store.read(f"{self.front}/state", ""))
        try:
            REACTIONS.get(state, Backend.ignore)(self)
        except (ProtocolError, XenError) as error:
            self.fatal(str(error))

    def switch_state(self, state: XenbusState) -> None:
        if state != self.state:
            log.debug("%s: %s", self.name, state.name)
            self.state = state
            self.store.write(f"{self.path}/state", int(state))

    def fatal(self, text: str) -> None:
        """Give up on this front end: say why in xenstore and close (xenbus_dev_fatal)."""
        self.failures += 1
        log.log(logging.WARNING if self.failures <= MAX_WARNINGS else logging.DEBUG, "%s: %s", self.name, text)
        self.drop()
        self.store.write(f"error/backend/{self.name}/error", f"22 {text}")
        self.switch_state(XenbusState.Closing)

    def drop(self) -> None:
        self.connected = False
        self.disconnect()

    def ignore(self) -> None:
        pass

    def front_initialising(self) -> None:
        if self.state in (XenbusState.Initialising, XenbusState.Closed):
            self.drop()
            self.advertise()
            self.switch_state(XenbusState.InitWait)

    def front_ready(self) -> None:
        if self.state == XenbusState.InitWait:
            self.drop()
            self.connect()
            self.connected = True
            self.switch_state(XenbusState.Connected)

    def front_closing(self) -> None:
        self.switch_state(XenbusState.Closing)

    def front_closed(self) -> None:
        self.drop()
        self.switch_state(XenbusState.Closed)
        done, self.on_closed = self.on_closed, None
        if done is not None:
            done()

    def unplug(self, done: Callable[[], None]) -> None:
        """Ask the front end to let go of the device for good; ``done()`` is called when it has (libxl's device_remove).

        A front end that is busy (a mounted disk) may never do so.
        """
        self.on_closed = done
        self.store.write(f"{self.path}/online", 0)
        if not self.connected:
            self.front_closed()
        else:
            self.switch_state(XenbusState.Closing)

    def read_front(self, name: str) -> int:
        """A number the front end must have written."""
        text = self.store.read(f"{self.front}/{name}", "")
        if not text.isascii() or not text.isdigit() or int(text) >= 1 << 32:
            raise ProtocolError(f"{name} is {text[:20]!r}")
        return int(text)

    def close(self) -> None:
        """The device goes away: let go of the guest, remove the nodes."""
        self.drop()
        self.store.close()
        for path in (self.path, f"error/backend/{self.name}"):
            self.store.rm(path)


REACTIONS: dict[XenbusState, Callable[[Backend], None]] = {
    XenbusState.Initialising: Backend.front_initialising,
    XenbusState.Initialised: Backend.front_ready,
    XenbusState.Connected: Backend.front_ready,
    XenbusState.Closing: Backend.front_closing,
    XenbusState.Closed: Backend.front_closed,
    XenbusState.Unknown: Backend.front_closed,  # the toolstack has removed the device
}
