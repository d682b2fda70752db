"""The messages of the xenstore protocol: bytes to requests and back.  Marshalling only; nothing here knows the store.

Specified in docs/misc/xenstore.txt and io/xs_wire.h.  Paths and tokens travel as Latin-1 text here, so that every
byte a guest may send survives the way in and out; the tree refuses paths with other characters.
"""

import errno
from typing import NamedTuple

from xenfast.abi.io.xs_wire import HEADER, XENSTORE_PAYLOAD_MAX, XSD_ERRORS, XsdSockmsgType
from xenfast.errors import XenError

OK = b"OK\0"
ENCODING = "latin-1"


class ProtocolError(Exception):
    """What arrived cannot be a message: there is no telling where the next one starts."""


class Message(NamedTuple):
    type: int
    req_id: int
    tx_id: int
    payload: bytes

    def pack(self) -> bytes:
        return HEADER.pack(self.type, self.req_id, self.tx_id, len(self.payload)) + self.payload


class Parser:
    """Cuts a stream into messages, however it arrives in pieces."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        self.buffer += data
        messages = []
        while (message := self.take()) is not None:
            messages.append(message)
        return messages

    def take(self) -> Message | None:
        if len(self.buffer) < HEADER.size:
            return None
        kind, req_id, tx_id, length = HEADER.unpack_from(self.buffer)
        if length > XENSTORE_PAYLOAD_MAX:
            raise ProtocolError(f"a payload of {length} bytes")
        end = HEADER.size + length
        if len(self.buffer) < end:
            return None
        payload = bytes(self.buffer[HEADER.size : end])
        del self.buffer[:end]
        return Message(kind, req_id, tx_id, payload)

    def reset(self) -> None:
        self.buffer.clear()


def strings(payload: bytes) -> list[str]:
    """The nul-terminated strings of a payload, at least one; a payload that does not end in a nul is EINVAL."""
    if not payload.endswith(b"\0"):
        raise XenError(errno.EINVAL, "payload without a nul at its end")
    return payload[:-1].decode(ENCODING).split("\0")


def exactly(payload: bytes, count: int) -> list[str]:
    """The strings of a payload that must hold `count` of them."""
    found = strings(payload)
    if len(found) != count:
        raise XenError(errno.EINVAL, f"{len(found)} strings instead of {count}")
    return found


def at_least(payload: bytes, count: int) -> list[str]:
    """The strings of a payload that may hold more than we know of ("?" in the specification)."""
    found = strings(payload)
    if len(found) < count:
        raise XenError(errno.EINVAL, f"{len(found)} strings instead of {count}")
    return found


def path_and_value(payload: bytes) -> tuple[str, bytes]:
    """<path>|<value|> of WRITE: the value is all the rest, nuls included."""
    path, nul, value = payload.partition(b"\0")
    if not nul:
        raise XenError(errno.EINVAL, "no nul after the path")
    return path.decode(ENCODING), value


def number(text: str) -> int:
    """A domid, an offset, a frame or a port in decimal."""
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise XenError(errno.EINVAL, f"number {text[:20]!r}")
    return int(text)


def pack_strings(*texts: str) -> bytes:
    return "".join(f"{text}\0" for text in texts).encode(ENCODING)


def error_payload(error: int) -> bytes:
    name = errno.errorcode.get(error, "EINVAL")
    return (name if name in XSD_ERRORS else "EINVAL").encode() + b"\0"


def error_reply(request: Message, error: int) -> Message:
    return Message(XsdSockmsgType.ERROR, request.req_id, request.tx_id, error_payload(error))


def watch_event(path: str, token: str) -> Message:
    return Message(XsdSockmsgType.WATCH_EVENT, 0, 0, pack_strings(path, token))
