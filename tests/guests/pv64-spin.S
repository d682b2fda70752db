# Spins with upcalls masked, for ever: the host must still be able to end it.
        .include "pv64.inc"
        PV_GUEST spin, _start
        .globl  _start
_start: call    console_init
        PRINT   "spinning\n"
1:      jmp     1b
