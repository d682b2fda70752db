"""libslirp by ctypes: the structures and functions of its libslirp.h (version 1 of its configuration: every release of 4.x).

Kept for the whole life of a stack: the configuration's strings and the callbacks, which C holds pointers to.
``PyDLL`` keeps the interpreter's lock during a call: its sockets do not block, and giving the lock away for each frame
costs more than the call.
"""

import ctypes
import ctypes.util
import ipaddress
from ctypes import CFUNCTYPE, POINTER, Structure, c_bool, c_char_p, c_int, c_int64, c_size_t, c_ssize_t, c_uint8, c_uint32, c_void_p
from functools import cache
from typing import Any

from xenfast.errors import XenfastError

SLIRP_POLL_IN, SLIRP_POLL_OUT, SLIRP_POLL_PRI, SLIRP_POLL_ERR, SLIRP_POLL_HUP = 1, 2, 4, 8, 16


class InAddr(Structure):
    _fields_ = [("s_addr", c_uint32)]


class In6Addr(Structure):
    _fields_ = [("s6_addr32", c_uint32 * 4)]


WRITE = CFUNCTYPE(c_ssize_t, c_void_p, c_size_t, c_void_p)
GUEST_ERROR = CFUNCTYPE(None, c_char_p, c_void_p)
CLOCK = CFUNCTYPE(c_int64, c_void_p)
TIMER = CFUNCTYPE(None, c_void_p)
TIMER_NEW = CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_void_p)
TIMER_FREE = CFUNCTYPE(None, c_void_p, c_void_p)
TIMER_MOD = CFUNCTYPE(None, c_void_p, c_int64, c_void_p)
POLL_FD = CFUNCTYPE(None, c_int, c_void_p)
NOTIFY = CFUNCTYPE(None, c_void_p)
ADD_POLL = CFUNCTYPE(c_int, c_int, c_int, c_void_p)
GET_REVENTS = CFUNCTYPE(c_int, c_int, c_void_p)


class SlirpCb(Structure):
    _fields_ = [
        ("send_packet", WRITE),
        ("guest_error", GUEST_ERROR),
        ("clock_get_ns", CLOCK),
        ("timer_new", TIMER_NEW),
        ("timer_free", TIMER_FREE),
        ("timer_mod", TIMER_MOD),
        ("register_poll_fd", POLL_FD),
        ("unregister_poll_fd", POLL_FD),
        ("notify", NOTIFY),
        ("init_completed", c_void_p),       # version 4, not used
        ("timer_new_opaque", c_void_p),
    ]


class SlirpConfig(Structure):
    _fields_ = [
        ("version", c_uint32),
        ("restricted", c_int),
        ("in_enabled", c_bool),
        ("vnetwork", InAddr),
        ("vnetmask", InAddr),
        ("vhost", InAddr),
        ("in6_enabled", c_bool),
        ("vprefix_addr6", In6Addr),
        ("vprefix_len", c_uint8),
        ("vhost6", In6Addr),
        ("vhostname", c_char_p),
        ("tftp_server_name", c_char_p),
        ("tftp_path", c_char_p),
        ("bootfile", c_char_p),
        ("vdhcp_start", InAddr),
        ("vnameserver", InAddr),
        ("vnameserver6", In6Addr),
        ("vdnssearch", POINTER(c_char_p)),
        ("vdomainname", c_char_p),
        ("if_mtu", c_size_t),
        ("if_mru", c_size_t),
        ("disable_host_loopback", c_bool),
        ("enable_emu", c_bool),
        ("later", c_uint8 * 64),            # versions 2 to 4, not used
    ]


FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "slirp_new": (c_void_p, [POINTER(SlirpConfig), POINTER(SlirpCb), c_void_p]),
    "slirp_cleanup": (None, [c_void_p]),
    "slirp_input": (None, [c_void_p, c_char_p, c_int]),
    "slirp_pollfds_fill": (None, [c_void_p, POINTER(c_uint32), ADD_POLL, c_void_p]),
    "slirp_pollfds_poll": (None, [c_void_p, c_int, GET_REVENTS, c_void_p]),
    "slirp_add_hostfwd": (c_int, [c_void_p, c_int, InAddr, c_int, InAddr, c_int]),
    "slirp_remove_hostfwd": (c_int, [c_void_p, c_int, InAddr, c_int]),
    "slirp_connection_info": (c_void_p, [c_void_p]),
    "slirp_version_string": (c_char_p, []),
}


@cache
def library() -> Any:
    """The C library; XenfastError where it is not installed."""
    for name in ("libslirp.so.0", ctypes.util.find_library("slirp")):
        if name:
            try:
                found = ctypes.PyDLL(name)
                break
            except OSError:
                pass
    else:
        raise XenfastError("guests reach the outside through libslirp, which is not installed (Debian: apt-get install libslirp0)")
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def available() -> bool:
    try:
        library()
    except XenfastError:
        return False
    return True


def address4(text: Any) -> Any:
    return InAddr.from_buffer_copy(ipaddress.IPv4Address(text).packed)


def address6(text: Any) -> Any:
    return In6Addr.from_buffer_copy(ipaddress.IPv6Address(text).packed)
