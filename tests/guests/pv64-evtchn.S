# An event channel bound to an IPI of our own: the upcall comes when it is sent, not while upcalls are masked, and once per send.
        .include "pv64.inc"
        PV_GUEST evtchn, _start
        .set HV_update_va_mapping, 14
        .set EVTCHNOP_bind_ipi, 7
        .set CALLBACKOP_register, 0
        .set CALLBACKTYPE_event, 0
        .set SI_evtchn_pending, 2048            # struct shared_info
        .set SI_evtchn_mask, 2560

        .globl  _start
_start: mov     r12, rsi
        call    console_init
        mov     rdi, offset shared              # map shared_info
        mov     rsi, [r12 + SI_shared_info]
        or      rsi, 0x63
        mov     edx, 2                          # UVMF_INVLPG
        HYPERCALL HV_update_va_mapping
        test    rax, rax
        jnz     fail
        mov     edi, CALLBACKOP_register
        lea     rsi, [rip + callback]
        HYPERCALL HV_callback_op
        test    rax, rax
        jnz     fail
        mov     edi, EVTCHNOP_bind_ipi
        lea     rsi, [rip + bind]
        HYPERCALL HV_event_channel_op
        test    rax, rax
        jnz     fail
        mov     ebx, [rip + bind + 4]           # the port
        lea     r13, [rip + shared]
        lock btr qword ptr [r13 + SI_evtchn_mask], rbx

        mov     [rip + port], ebx               # masked: nothing happens
        mov     edi, EVTCHNOP_send
        lea     rsi, [rip + port]
        HYPERCALL HV_event_channel_op
        cmp     dword ptr [rip + upcalls], 0
        jne     fail
        cmp     byte ptr [r13], 1               # but it is pending
        jne     fail
        mov     byte ptr [r13 + 1], 0           # unmask; a pending event needs a hypercall to come at once
        xor     edi, edi                        # XENVER_version
        xor     esi, esi
        HYPERCALL HV_xen_version
        cmp     dword ptr [rip + upcalls], 1
        jne     fail

        mov     r14d, 100
1:      mov     edi, EVTCHNOP_send
        lea     rsi, [rip + port]
        HYPERCALL HV_event_channel_op
        dec     r14d
        jnz     1b
        PRINT   "upcalls: "
        mov     edi, [rip + upcalls]
        call    putdec
        PRINT   "\n"
        SHUTDOWN 0

fail:   PRINT   "failed\n"
        SHUTDOWN 3

# The upcall.  Xen has pushed SS RSP RFLAGS CS RIP R11 RCX, and masked upcalls.
upcall: push    rax
        push    rdx
        lea     rdx, [rip + shared]
        inc     dword ptr [rip + upcalls]
        mov     byte ptr [rdx], 0               # evtchn_upcall_pending
        mov     qword ptr [rdx + 8], 0          # evtchn_pending_sel
        mov     eax, [rip + bind + 4]
        lock btr qword ptr [rdx + SI_evtchn_pending], rax
        pop     rdx
        pop     rax
        pop     rcx
        pop     r11
        push    0                               # flags of struct iret_context
        push    rcx
        push    r11
        push    rax
        mov     eax, HV_iret
        syscall

        .data
        .balign 8
callback:
        .short  CALLBACKTYPE_event, 0
        .long   0
        .quad   upcall
bind:   .long   0, 0                            # vcpu, port
port:   .long   0
upcalls:
        .long   0
        .bss
        .balign 4096
shared: .skip   4096
