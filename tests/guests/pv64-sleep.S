# Polls for ever on the store's port, which nobody will signal; there is no timer either.
        .include "pv64.inc"
        PV_GUEST sleep, _start
        .set VCPUOP_stop_periodic_timer, 7
        .set SCHEDOP_poll, 3
        .set SI_store_evtchn, 64
        .globl  _start
_start: mov     eax, [rsi + SI_store_evtchn]
        mov     [rip + port], eax
        call    console_init
        mov     edi, VCPUOP_stop_periodic_timer
        xor     esi, esi
        xor     edx, edx
        HYPERCALL HV_vcpu_op
        PRINT   "sleeping\n"
1:      mov     edi, SCHEDOP_poll
        lea     rsi, [rip + poll]
        HYPERCALL HV_sched_op
        jmp     1b
        .data
        .balign 8
poll:   .quad   port                            # struct sched_poll: ports, number, timeout
        .long   1, 0
        .quad   0
port:   .long   0
