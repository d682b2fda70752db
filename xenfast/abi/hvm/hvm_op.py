"""HVM operations.  Specified in xen/include/public/hvm/hvm_op.h."""

from xenfast.abi.layout import Layout

HVMOP_set_param = 0
HVMOP_get_param = 1
HVMOP_set_pci_intx_level = 2
HVMOP_set_isa_irq_level = 3
HVMOP_set_pci_link_route = 4
HVMOP_flush_tlbs = 5
HVMOP_pagetable_dying = 9
HVMOP_get_time = 10
HVMOP_guest_request_vm_event = 24
HVMOP_altp2m = 25
HVMOP_set_evtchn_upcall_vector = 23

param = Layout("xen_hvm_param", ("domid", "H"), ("pad", "H"), ("index", "I"), ("value", "Q"))
get_time = Layout("xen_hvm_get_time", ("now", "Q"))
evtchn_upcall_vector = Layout("xen_hvm_evtchn_upcall_vector", ("vcpu", "I"), ("vector", "B"))
