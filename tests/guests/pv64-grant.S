# Grant a page to ourselves and have Xen copy it by its reference.
        .include "pv64.inc"
        PV_GUEST grant, _start
        .set HV_update_va_mapping, 14
        .set GNTTABOP_setup_table, 2
        .set GNTTABOP_copy, 5

        .globl  _start
_start: mov     r12, rsi
        call    console_init
        mov     edi, GNTTABOP_setup_table
        lea     rsi, [rip + setup]
        mov     edx, 1
        HYPERCALL HV_grant_table_op
        test    rax, rax
        jnz     fail
        cmp     word ptr [rip + setup + 8], 0   # status
        jne     fail
        mov     rdi, offset table
        mov     rsi, [rip + frame]
        shl     rsi, 12
        or      rsi, 0x63
        mov     edx, 2
        HYPERCALL HV_update_va_mapping
        test    rax, rax
        jnz     fail

        mov     r13, [r12 + SI_mfn_list]        # entry 8: DOMID 0x7ff0 does not match; our own number does
        mov     rax, offset source - VIRT_BASE
        shr     rax, 12
        mov     rax, [r13 + rax * 8]
        lea     rbx, [rip + table + 8 * 8]
        mov     [rbx + 4], eax
        mov     ecx, [rip + domid]
        mov     [rbx + 2], cx
        mov     word ptr [rbx], 1               # GTF_permit_access

        mov     dword ptr [rip + copy], 8       # source: reference 8
        mov     rax, offset target - VIRT_BASE
        shr     rax, 12
        mov     rax, [r13 + rax * 8]
        mov     [rip + copy + 16], rax          # destination: frame
        mov     edi, GNTTABOP_copy
        lea     rsi, [rip + copy]
        mov     edx, 1
        HYPERCALL HV_grant_table_op
        test    rax, rax
        jnz     fail
        PRINT   "status: "
        movsx   edi, word ptr [rip + copy + 36]
        call    putdec
        PRINT   ", copied: "
        lea     rdi, [rip + target]
        call    puts
        PRINT   "\n"
        SHUTDOWN 0
fail:   PRINT   "failed\n"
        SHUTDOWN 3

        .data
        .balign 8
setup:  .short  0x7ff0, 0                       # struct gnttab_setup_table: DOMID_SELF
        .long   1
        .short  0, 0
        .long   0
        .quad   frame
frame:  .quad   0
domid:  .long   1                               # the first domain of a host
copy:   .quad   0                               # struct gnttab_copy: source reference or frame, domid, offset
        .short  0x7ff0, 0
        .long   0
        .quad   0                               # destination
        .short  0x7ff0, 0
        .long   0
        .short  16, 1                           # length; flags: GNTCOPY_source_gref
        .short  0, 0
        .balign 4096
source: .asciz  "a granted page"
        .balign 4096
        .bss
        .balign 4096
target: .skip   4096
table:  .skip   4096
