"""Where an event channel upcall goes: HVM_PARAM_CALLBACK_IRQ taken apart.

Specified in xen/include/public/hvm/params.h; follows hvm_set_callback_via of xen/arch/x86/hvm/irq.c.  A vector is served in the
core (cpu/hvm.pxi), a line by HvmDomain.
"""

from typing import NamedTuple

from xenfast.abi.hvm import params

NONE, GSI, PCI_INTX, VECTOR = "none", "gsi", "pci", "vector"


class Via(NamedTuple):
    kind: str
    number: int = 0         # GSI, slot of the PCI device, or vector
    pin: int = 0            # 0 for INTA

    @property
    def is_line(self) -> bool:
        return self.kind in (GSI, PCI_INTX)


NOWHERE = Via(NONE)


def parse(via: int) -> Via:
    """What a value of the parameter means; one that Xen does not know means no upcalls."""
    kind = via >> params.CALLBACK_IRQ_TYPE_SHIFT
    if kind == params.HVM_PARAM_CALLBACK_TYPE_GSI and via:
        return Via(GSI, via & 0xFF)
    if kind == params.HVM_PARAM_CALLBACK_TYPE_PCI_INTX:
        return Via(PCI_INTX, via >> 11 & 0x1F, via & 3)
    if kind == params.HVM_PARAM_CALLBACK_TYPE_VECTOR and via & 0xFF >= 16:
        return Via(VECTOR, via & 0xFF)
    return NOWHERE
