"""xen/include/public/io/xenbus.h: the states of either end of a split device, as written in its ``state`` node."""

from enum import IntEnum


class XenbusState(IntEnum):
    Unknown = 0
    Initialising = 1
    InitWait = 2  # finished early initialisation, waits for information from the peer or for hotplug scripts
    Initialised = 3  # initialised, waits for a connection from the peer
    Connected = 4
    Closing = 5  # an error, or the device goes away
    Closed = 6
    Reconfiguring = 7
    Reconfigured = 8


def parse_state(text: bytes | str | None) -> XenbusState:
    """The state a ``state`` node names; a missing node or nonsense is Unknown, as xenbus_read_driver_state has it."""
    try:
        return XenbusState(int(text or 0))
    except ValueError:
        return XenbusState.Unknown
