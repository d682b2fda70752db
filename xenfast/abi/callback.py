"""Callbacks into a PV kernel (the call itself is answered in the core).  Specified in xen/include/public/callback.h."""

CALLBACKTYPE_event = 0
CALLBACKTYPE_failsafe = 1
CALLBACKTYPE_syscall = 2
CALLBACKTYPE_nmi = 4
CALLBACKTYPE_sysenter = 5
CALLBACKTYPE_syscall32 = 7

CALLBACKF_mask_events = 1 << 0

CALLBACKOP_register = 0
CALLBACKOP_unregister = 1

XENNMI_register_callback = 0    # xen/include/public/nmi.h
XENNMI_unregister_callback = 1
