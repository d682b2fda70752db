"""Event channels.  Specified in xen/include/public/event_channel.h."""

from xenfast.abi.layout import Layout

EVTCHNOP_bind_interdomain = 0
EVTCHNOP_bind_virq = 1
EVTCHNOP_bind_pirq = 2
EVTCHNOP_close = 3
EVTCHNOP_send = 4
EVTCHNOP_status = 5
EVTCHNOP_alloc_unbound = 6
EVTCHNOP_bind_ipi = 7
EVTCHNOP_bind_vcpu = 8
EVTCHNOP_unmask = 9
EVTCHNOP_reset = 10
EVTCHNOP_init_control = 11
EVTCHNOP_expand_array = 12
EVTCHNOP_set_priority = 13
EVTCHNOP_reset_cont = 14        # Xen's own continuation of reset; guests may not use it

EVTCHNSTAT_closed = 0
EVTCHNSTAT_unbound = 1
EVTCHNSTAT_interdomain = 2
EVTCHNSTAT_pirq = 3
EVTCHNSTAT_virq = 4
EVTCHNSTAT_ipi = 5

alloc_unbound = Layout("evtchn_alloc_unbound", ("dom", "H"), ("remote_dom", "H"), ("port", "I"))
bind_interdomain = Layout("evtchn_bind_interdomain", ("remote_dom", "H"), ("remote_port", "I"), ("local_port", "I"))
bind_virq = Layout("evtchn_bind_virq", ("virq", "I"), ("vcpu", "I"), ("port", "I"))
bind_pirq = Layout("evtchn_bind_pirq", ("pirq", "I"), ("flags", "I"), ("port", "I"))
bind_ipi = Layout("evtchn_bind_ipi", ("vcpu", "I"), ("port", "I"))
close = Layout("evtchn_close", ("port", "I"))
send = Layout("evtchn_send", ("port", "I"))
# The union after vcpu: unbound.dom (u16), interdomain {dom u16, port u32}, pirq u32, virq u32.
status = Layout("evtchn_status", ("dom", "H"), ("port", "I"), ("status", "I"), ("vcpu", "I"), ("u0", "I"), ("u1", "I"))
bind_vcpu = Layout("evtchn_bind_vcpu", ("port", "I"), ("vcpu", "I"))
unmask = Layout("evtchn_unmask", ("port", "I"))
reset = Layout("evtchn_reset", ("dom", "H"))
init_control = Layout("evtchn_init_control", ("control_gfn", "Q"), ("offset", "I"), ("vcpu", "I"), ("link_bits", "B"),
                      ("_pad", "7x"))
expand_array = Layout("evtchn_expand_array", ("array_gfn", "Q"))
set_priority = Layout("evtchn_set_priority", ("port", "I"), ("priority", "I"))

# --- FIFO ABI --------------------------------------------------------------------------------------------------------
EVTCHN_FIFO_PRIORITY_MAX = 0
EVTCHN_FIFO_PRIORITY_DEFAULT = 7
EVTCHN_FIFO_PRIORITY_MIN = 15
EVTCHN_FIFO_MAX_QUEUES = EVTCHN_FIFO_PRIORITY_MIN + 1

# Bits of an event word; LINK is bits 0 .. EVTCHN_FIFO_LINK_BITS - 1.
EVTCHN_FIFO_PENDING = 31
EVTCHN_FIFO_MASKED = 30
EVTCHN_FIFO_LINKED = 29
EVTCHN_FIFO_BUSY = 28
EVTCHN_FIFO_LINK_BITS = 17
EVTCHN_FIFO_LINK_MASK = (1 << EVTCHN_FIFO_LINK_BITS) - 1
EVTCHN_FIFO_NR_CHANNELS = 1 << EVTCHN_FIFO_LINK_BITS

control_block = Layout(
    "evtchn_fifo_control_block", ("ready", "I"), ("_rsvd", "I"), ("head", f"{EVTCHN_FIFO_MAX_QUEUES}I")
)
CONTROL_READY = 0
CONTROL_HEAD = control_block.offset["head"]
