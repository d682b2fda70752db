"""xen/include/public/io/netif.h: the network protocol's rings, flags, extra slots and control ring.

A packet from the guest is a chain of transmit slots: the first one's size is that of the whole packet, and extra slots
follow it; every slot gets an answer, an extra slot ``NETIF_RSP_NULL``.  A packet to the guest fills posted pages in
their order, and extra slots take the place of a page.
"""

import struct

# netif_tx_request: gref, offset, flags, id, size; netif_tx_response: id, status
TX_REQUEST = struct.Struct("<IHHHH")
TX_RESPONSE = struct.Struct("<Hh")
TX_SLOT_SIZE = 12

# netif_rx_request: id, pad, gref; netif_rx_response: id, offset, flags, size or status
RX_REQUEST = struct.Struct("<HxxI")
RX_RESPONSE = struct.Struct("<HHHh")
RX_SLOT_SIZE = 8

# netif_extra_info: type, flags, then 6 bytes by type
EXTRA = struct.Struct("<BB6s")
EXTRA_GSO = struct.Struct("<HBxH")              # size, type, features

NETTXF_csum_blank = 1
NETTXF_data_validated = 2
NETTXF_more_data = 4
NETTXF_extra_info = 8

NETRXF_data_validated = 1
NETRXF_csum_blank = 2
NETRXF_more_data = 4
NETRXF_extra_info = 8
NETRXF_gso_prefix = 16

XEN_NETIF_EXTRA_TYPE_NONE = 0
XEN_NETIF_EXTRA_TYPE_GSO = 1
XEN_NETIF_EXTRA_TYPE_MCAST_ADD = 2
XEN_NETIF_EXTRA_TYPE_MCAST_DEL = 3
XEN_NETIF_EXTRA_TYPE_HASH = 4
XEN_NETIF_EXTRA_TYPE_XDP = 5
XEN_NETIF_EXTRA_TYPE_MAX = 6
XEN_NETIF_EXTRA_FLAG_MORE = 1

XEN_NETIF_GSO_TYPE_NONE = 0
XEN_NETIF_GSO_TYPE_TCPV4 = 1
XEN_NETIF_GSO_TYPE_TCPV6 = 2

NETIF_RSP_DROPPED = -2
NETIF_RSP_ERROR = -1
NETIF_RSP_OKAY = 0
NETIF_RSP_NULL = 1

XEN_NETIF_NR_SLOTS_MIN = 18                     # a packet may use so many slots, whatever the back end is
XEN_NETIF_MAX_TX_SIZE = 0xFFFF
