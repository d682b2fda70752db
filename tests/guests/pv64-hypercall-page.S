# Hypercalls through the page of stubs give what direct SYSCALL gives; the last one, shutdown, goes through the page.
        .include "pv64.inc"
        PV_GUEST hypercall-page, _start
        NOTE 2, .quad hypercall_page

        .globl  _start
_start: call    console_init
        mov     edi, 0                          # XENVER_version
        xor     esi, esi
        HYPERCALL HV_xen_version
        mov     r12, rax
        mov     edi, 0
        xor     esi, esi
        mov     rcx, 0x1111
        mov     r11, 0x2222
        call    hypercall_page + HV_xen_version * 32
        cmp     rax, r12
        jne     1f
        cmp     rcx, 0x1111                     # the stub keeps what SYSCALL destroys
        jne     1f
        cmp     r11, 0x2222
        jne     1f
        mov     edi, 0
        call    hypercall_page + 63 * 32        # no such hypercall
        cmp     rax, -38                        # -ENOSYS
        jne     1f
        PRINT   "page and SYSCALL agree\n"
        call    console_notify
        push    0
        mov     edi, SCHEDOP_shutdown
        mov     rsi, rsp
        call    hypercall_page + HV_sched_op * 32
1:      PRINT   "they differ\n"
        SHUTDOWN 3

        .balign 4096
hypercall_page:
        .skip   4096
