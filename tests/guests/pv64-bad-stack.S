# A handler is there, but the kernel stack is not mapped: a PV guest's triple fault.
        .include "pv64.inc"
        PV_GUEST bad-stack, _start
        .globl  _start
_start: call    console_init
        PRINT   "about to lose the stack\n"
        lea     rdi, [rip + traps]
        HYPERCALL HV_set_trap_table
        mov     rsp, 0x7000
        ud2
handler:
        ud2
        .data
        .balign 8
traps:  .byte   6, 0                            # struct trap_info: vector, flags, cs, address
        .short  0xe033
        .long   0
        .quad   handler
        .byte   14, 0
        .short  0xe033
        .long   0
        .quad   handler
        .quad   0, 0
