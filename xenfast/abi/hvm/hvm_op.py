"""HVM operations.  Specified in xen/include/public/hvm/hvm_op.h."""

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
