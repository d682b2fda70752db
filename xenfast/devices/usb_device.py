"""A USB device: control transfers and standard requests, as every function of a bus has them.

Specified by Universal Serial Bus Specification 2.0, chapters 8 (packets) and 9 (requests, descriptors).  A host controller calls
``setup``, ``data_in`` and ``data_out`` for the tokens it sends; they answer with data, ``NAK`` or ``STALL``.  Full speed only; one
configuration; no strings but the three of the device.
"""

from __future__ import annotations

from typing import Any

NAK, STALL = "NAK", "STALL"
Answer = bytes | str

# Requests (table 9-4), as (bmRequestType, bRequest)
(GET_STATUS, CLEAR_FEATURE, SET_FEATURE, SET_ADDRESS, GET_DESCRIPTOR, GET_CONFIGURATION, SET_CONFIGURATION, GET_INTERFACE,
 SET_INTERFACE) = 0, 1, 3, 5, 6, 8, 9, 10, 11
TO_DEVICE, TO_INTERFACE, TO_ENDPOINT, IN = 0x00, 0x01, 0x02, 0x80
# Descriptors (table 9-5)
DEVICE, CONFIGURATION, STRING, INTERFACE, ENDPOINT = 1, 2, 3, 4, 5
ENGLISH = 0x0409
MAX_CONTROL = 4096              # bytes of a control transfer


class UsbDevice:
    """Subclasses say their descriptors and what their endpoints do."""

    vendor, product, release = 0x0627, 0x0001, 0x0000
    strings = ("xenfast", "USB device", "1")            # manufacturer, product, serial number
    packet = 8                                          # bytes of endpoint 0

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """The bus was reset: address 0, not configured."""
        self.address = self.configuration = 0
        self._request = b""             # the setup packet of the transfer under way
        self._data = bytearray()        # what is left to send, or has been received
        self.halted: set[int] = set()

    # --- descriptors (9.6) ---------------------------------------------------------------------------------------------
    def device_descriptor(self) -> bytes:
        return bytes((18, DEVICE, 0x10, 0x01, 0, 0, 0, self.packet)) + b"".join(
            number.to_bytes(2, "little") for number in (self.vendor, self.product, self.release)) + bytes((1, 2, 3, 1))

    def configuration_descriptor(self) -> bytes:
        body = self.interfaces()
        return bytes((9, CONFIGURATION)) + (9 + len(body)).to_bytes(2, "little") + bytes((1, 1, 0, 0xA0, 50)) + body

    def interfaces(self) -> bytes:
        """Interfaces, class descriptors, endpoints."""
        raise NotImplementedError

    def string_descriptor(self, index: int) -> bytes | None:
        if index == 0:
            return bytes((4, STRING)) + ENGLISH.to_bytes(2, "little")
        if index > len(self.strings):
            return None
        text = self.strings[index - 1].encode("utf-16-le")
        return bytes((2 + len(text), STRING)) + text

    def descriptor(self, kind: int, index: int) -> bytes | None:
        if kind == DEVICE:
            return self.device_descriptor()
        if kind == CONFIGURATION and index == 0:
            return self.configuration_descriptor()
        return self.string_descriptor(index) if kind == STRING else None

    # --- what a class adds ---------------------------------------------------------------------------------------------
    def class_request(self, kind: int, request: int, value: int, index: int, length: int, data: bytes) -> bytes | None:
        """A request that is none of chapter 9; None: stall."""
        return None

    def endpoint_in(self, endpoint: int, size: int) -> Answer:
        return STALL

    def endpoint_out(self, endpoint: int, data: bytes) -> Answer:
        return STALL

    # --- tokens ----------------------------------------------------------------------------------------------------------
    def setup(self, endpoint: int, data: bytes) -> Answer:
        """The beginning of a control transfer; what it reads is there at once."""
        if endpoint or len(data) != 8:
            return STALL
        self._request, self._data = data, bytearray()
        if data[0] & IN:
            answer = self._do(b"")
            if answer is None:
                self._request = b""
                self.halted.add(0)
                return data[:0]                 # a stall comes in the next stage
            self._data += answer[:self._length]
        self.halted.discard(0)
        return b""

    @property
    def _length(self) -> int:
        return int.from_bytes(self._request[6:8], "little")

    def data_in(self, endpoint: int, size: int) -> Answer:
        if endpoint:
            return STALL if endpoint in self.halted or not self.configuration else self.endpoint_in(endpoint, size)
        if 0 in self.halted:
            return STALL
        if self._request and not self._request[0] & IN:         # the status stage of a transfer to the device
            answer = self._do(bytes(self._data))
            self._finish()
            return STALL if answer is None else b""
        part = bytes(self._data[:min(size, self.packet)])
        del self._data[:len(part)]
        return part

    def data_out(self, endpoint: int, data: bytes) -> Answer:
        if endpoint:
            return STALL if endpoint in self.halted or not self.configuration else self.endpoint_out(endpoint, data)
        if 0 in self.halted:
            return STALL
        if self._request and not self._request[0] & IN:
            if len(self._data) + len(data) > min(self._length, MAX_CONTROL):
                return STALL
            self._data += data
        return b""                              # or the status stage of a transfer from the device

    def _finish(self) -> None:
        if self._request[:2] == bytes((TO_DEVICE, SET_ADDRESS)):
            self.address = self._request[2] & 0x7F
        self._request, self._data = b"", bytearray()

    # --- requests ----------------------------------------------------------------------------------------------------------
    def _do(self, data: bytes) -> bytes | None:
        """The answer to a request, None to stall it.  An address counts from the end of the transfer on."""
        kind, request = self._request[0], self._request[1]
        value, index = (int.from_bytes(self._request[i:i + 2], "little") for i in (2, 4))
        if kind & 0x60:
            return self.class_request(kind, request, value, index, self._length, data)
        if (kind, request) == (IN, GET_DESCRIPTOR):
            return self.descriptor(value >> 8, value & 0xFF)
        if (kind, request) == (IN | TO_INTERFACE, GET_DESCRIPTOR):
            return self.class_request(kind, request, value, index, self._length, data)
        if (kind, request) == (TO_DEVICE, SET_ADDRESS):
            return b""
        if (kind, request) == (TO_DEVICE, SET_CONFIGURATION):
            if value > 1:
                return None
            self.configuration = value
            self.halted.clear()
            return b""
        if (kind, request) == (IN, GET_CONFIGURATION):
            return bytes((self.configuration,))
        if request == GET_STATUS and kind & ~3 == IN:
            halted = kind & 3 == TO_ENDPOINT and index & 15 in self.halted
            return bytes((1 if halted else 0, 0))
        if (kind, request) == (IN | TO_INTERFACE, GET_INTERFACE):
            return b"\0"
        if (kind, request) == (TO_INTERFACE, SET_INTERFACE):
            return b"" if value == 0 else None
        if kind == TO_ENDPOINT and request in (SET_FEATURE, CLEAR_FEATURE) and value == 0:
            (self.halted.add if request == SET_FEATURE else self.halted.discard)(index & 15)
            return b""
        if kind == TO_DEVICE and request in (SET_FEATURE, CLEAR_FEATURE) and value == 1:
            return b""                          # remote wake-up
        return None

    # --- save, load ----------------------------------------------------------------------------------------------------------
    VALUES: tuple[str, ...] = ("address", "configuration")

    def save(self) -> dict[str, Any]:
        state: dict[str, Any] = {name: getattr(self, name) for name in self.VALUES}
        return state | {"request": self._request, "data": bytes(self._data), "halted": sorted(self.halted)}

    def load(self, state: dict[str, Any]) -> None:
        for name in self.VALUES:
            setattr(self, name, state[name])
        self._request, self._data, self.halted = state["request"], bytearray(state["data"]), set(state["halted"])
