# An exception without a handler: Xen has no way to go on.
        .include "pv64.inc"
        PV_GUEST no-handler, _start
        .globl  _start
_start: call    console_init
        PRINT   "about to fault\n"
        mov     rax, 0x123456789abcdef
        ud2
