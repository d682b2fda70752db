"""xen/include/public/io/xs_wire.h: the xenstore protocol, its messages and the page a domain shares with xenstored."""

import struct
from enum import IntEnum

# struct xsd_sockmsg: type, req_id, tx_id, len
HEADER = struct.Struct("<IIII")


class XsdSockmsgType(IntEnum):
    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    # 20 was XS_RESTRICT
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


# The errors that have a name on the wire (xsd_errors[]); any other errno is sent as EINVAL.
XSD_ERRORS = (
    "EINVAL", "EACCES", "EEXIST", "EISDIR", "ENOENT", "ENOMEM", "ENOSPC", "EIO", "ENOTEMPTY",
    "ENOSYS", "EROFS", "EBUSY", "EAGAIN", "EISCONN", "E2BIG", "EPERM",
)  # fmt: skip

XENSTORE_PAYLOAD_MAX = 4096
XENSTORE_ABS_PATH_MAX = 3072
XENSTORE_REL_PATH_MAX = 2048

# struct xenstore_domain_interface
XENSTORE_RING_SIZE = 1024
REQ_OFFSET = 0
RSP_OFFSET = XENSTORE_RING_SIZE
INDEX_OFFSET = 2 * XENSTORE_RING_SIZE
# the words at INDEX_OFFSET
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, SERVER_FEATURES, CONNECTION, RING_ERROR = range(7)
INDEX_COUNT = 7

XENSTORE_SERVER_FEATURE_RECONNECTION = 1
XENSTORE_SERVER_FEATURE_ERROR = 2

XENSTORE_CONNECTED = 0
XENSTORE_RECONNECT = 1

# the word RING_ERROR
XENSTORE_ERROR_NONE = 0
XENSTORE_ERROR_COMM = 1  # communication problem
XENSTORE_ERROR_RINGIDX = 2  # an index is out of bounds
XENSTORE_ERROR_PROTO = 3  # a message cannot be one
