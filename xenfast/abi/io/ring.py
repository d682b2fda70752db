"""xen/include/public/io/ring.h: the header of a shared request/response ring.

A ring is one or more pages: a header of 64 bytes, then a power of two of slots, each as large as the larger of
request and response. Indices run freely through 32 bits; the slot of index ``i`` is ``i & (slots - 1)``.  The event
fields hold notifications off: who writes ``req_event = n`` asks to be notified when ``req_prod`` passes from below
``n`` to ``n`` or beyond (RING_PUSH_*_AND_CHECK_NOTIFY).
"""

PAGE_SIZE = 4096
SRING_HEADER_SIZE = 64

# struct sring as an array of uint32_t
SRING_REQ_PROD = 0  # the front end has produced requests up to here
SRING_REQ_EVENT = 1  # the back end wants an event when req_prod reaches this
SRING_RSP_PROD = 2  # the back end has produced responses up to here
SRING_RSP_EVENT = 3  # the front end wants an event when rsp_prod reaches this

INDEX_MASK = 0xFFFFFFFF


def ring_slots(size: int, entry_size: int) -> int:
    """__RING_SIZE: how many slots fit into ``size`` bytes, rounded down to a power of two."""
    return 1 << (((size - SRING_HEADER_SIZE) // entry_size).bit_length() - 1)
