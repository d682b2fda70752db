# Breaks the rules of page typing and passes wild pointers: each attempt is refused with an error, and the guest goes on.
        .include "pv64.inc"
        PV_GUEST wild, _start
        .set HV_mmuext_op, 26
        .set HV_update_va_mapping, 14

        .macro REFUSED what
        test    rax, rax
        js      8f
        PRINT   "ALLOWED: \what\n"
8:
        .endm

        .globl  _start
_start: mov     r12, rsi
        call    console_init
        mov     r13, [r12 + SI_mfn_list]

        mov     rax, [r12 + SI_pt_base]         # map the page directory writable
        mov     rcx, VIRT_BASE
        sub     rax, rcx
        shr     rax, 12
        mov     rsi, [r13 + rax * 8]
        shl     rsi, 12
        or      rsi, 0x63
        mov     rdi, offset page
        mov     edx, 2
        HYPERCALL HV_update_va_mapping
        REFUSED "a page table mapped writable"

        mov     rdi, offset page                # map a frame that is not ours
        mov     rsi, 0x63
        mov     edx, 2
        HYPERCALL HV_update_va_mapping
        REFUSED "a foreign frame"

        mov     rax, offset garbage - VIRT_BASE # pin garbage as a page directory
        shr     rax, 12
        mov     rax, [r13 + rax * 8]
        lea     rdi, [rip + pin]
        mov     [rdi + 8], rax
        mov     esi, 1
        xor     edx, edx
        mov     r10d, 0x7ff0
        HYPERCALL HV_mmuext_op
        REFUSED "garbage as a page directory"

        mov     rdi, 0xdead000000000000         # wild pointers
        HYPERCALL HV_set_trap_table
        REFUSED "a trap table at a non-canonical address"
        mov     rdi, 0xffff800000000000
        mov     esi, 1
        HYPERCALL HV_mmu_update
        mov     edi, EVTCHNOP_send
        mov     esi, 0x1000
        HYPERCALL HV_event_channel_op
        REFUSED "an event operation at an unmapped address"
        PRINT   "still here\n"
        SHUTDOWN 0

        .data
        .balign 8
pin:    .long   3, 0                            # MMUEXT_PIN_L4_TABLE
        .quad   0, 0
        .balign 4096
page:   .skip   4096
garbage:
        .fill   512, 8, 0x123456789abcd067
