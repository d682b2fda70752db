# hello: the PV kernel that is shipped with xenfast.  It says what it was given, and powers off.
#
# Prints through the console ring, and one line through the hypercall console_io; asks Xen for its version and the memory map.

        .include "pv64.inc"
        PV_GUEST hello, _start

        .set XENVER_version, 0
        .set XENVER_extraversion, 1
        .set XENMEM_memory_map, 9
        .set CONSOLEIO_write, 0

        .globl  _start
_start: mov     r12, rsi                        # start_info
        call    console_init

        lea     rdx, [rip + emergency]
        mov     esi, offset emergency_end - emergency
        mov     edi, CONSOLEIO_write
        HYPERCALL HV_console_io

        PRINT   "Hello from a PV guest.\n"
        PRINT   "  start info   "
        mov     rdi, r12
        call    puts                            # its magic string
        PRINT   "\n  Xen          "
        mov     edi, XENVER_version
        xor     esi, esi
        HYPERCALL HV_xen_version
        mov     r13, rax
        mov     edi, eax
        shr     edi, 16
        call    putdec
        PRINT   "."
        movzx   edi, r13w
        call    putdec
        mov     edi, XENVER_extraversion
        lea     rsi, [rip + extraversion]
        HYPERCALL HV_xen_version
        lea     rdi, [rip + extraversion]
        call    puts

        PRINT   "\n  memory       "
        mov     rdi, [r12 + SI_nr_pages]
        shr     rdi, 8
        call    putdec
        PRINT   " MiB in "
        mov     rdi, [r12 + SI_nr_pages]
        call    putdec
        PRINT   " pages\n"

        mov     edi, XENMEM_memory_map
        lea     rsi, [rip + memory_map]
        HYPERCALL HV_memory_op
        test    rax, rax
        jnz     3f
        lea     r14, [rip + e820]
        mov     r13d, [rip + memory_map]        # number of entries
2:      test    r13d, r13d
        jz      3f
        PRINT   "  memory map   "
        mov     rdi, [r14]
        call    puthex
        PRINT   " + "
        mov     rdi, [r14 + 8]
        call    puthex
        PRINT   ", type "
        mov     edi, [r14 + 16]
        call    putdec
        PRINT   "\n"
        add     r14, 20
        dec     r13d
        jmp     2b

3:      PRINT   "  kernel at    "
        lea     rdi, [rip + _start]
        call    puthex
        PRINT   ", page tables at "
        mov     rdi, [r12 + SI_pt_base]
        call    puthex
        PRINT   "\n  command line "
        lea     rdi, [r12 + SI_cmd_line]
        call    puts
        PRINT   "\nPowering off.\n"
        SHUTDOWN 0

        .section .rodata
emergency:
        .ascii  "hello: started\n"
emergency_end:

        .data
        .balign 8
memory_map:                                     # struct xen_memory_map
        .long   (e820_end - e820) / 20, 0
        .quad   e820

        .bss
        .balign 8
e820:   .skip   20 * 16
e820_end:
extraversion:
        .skip   16
