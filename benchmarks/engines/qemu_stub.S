# A guest for qemu-system-x86_64 -kernel: enters long mode with 4 KiB pages and calls kernels when it is told to.
#
# Booted through the PVH entry (XEN_ELFNOTE_PHYS32_ENTRY): 32-bit protected mode, flat, no paging.  Then, on COM1:
#   reads "ENTRY N\n" (hexadecimal), sends "S", calls ENTRY(N), sends "E", the checksum in 16 hexadecimal digits, "\n"
#   reads "q" and leaves QEMU through the isa-debug-exit device at port 0xf4
# Mapped one to one: 0 .. 2 MiB and TABLES times 2 MiB from BASE, all of it in 4 KiB pages.  BASE, STACK_TOP and TABLES are
# given on the command line (qemu.py).

#define COM1 0x3f8

    .section .note.pvh, "a", @note
    .align 4
    .long 4, 8, 18                      # name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad start32

    .text
    .code32
    .globl start32
start32:
    cli
    movl $stack_end, %esp
    # page tables: the PML4's and the PDPT's first entry, a page table for the first 2 MiB and those from BASE
    movl $pdpt + 3, pml4
    movl $pd + 3, pdpt
    movl $pt + 3, pd
    movl $pd + 8 * (BASE >> 21), %edi
    movl $pt + 0x1000 + 3, %eax
    movl $TABLES, %ecx
    call fill
    movl $pt, %edi
    movl $3, %eax                       # present, writable
    movl $512, %ecx
    call fill
    movl $BASE + 3, %eax
    movl $TABLES * 512, %ecx
    call fill

    movl $1, %eax
    cpuid
    movl $0x620, %edx                   # CR4: PAE, OSFXSR, OSXMMEXCPT
    btl $26, %ecx                       # XSAVE there?
    jnc 1f
    orl $1 << 18, %edx                  # OSXSAVE
1:  movl %edx, %cr4
    testl $1 << 18, %edx                # (MOV to CR4 leaves the flags undefined)
    jz 2f
    movl $7, %eax                       # x87, SSE, AVX
    xorl %edx, %edx
    xorl %ecx, %ecx
    xsetbv
2:  movl $0xc0000080, %ecx              # EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl $pml4, %eax
    movl %eax, %cr3
    movl $0x80010033, %eax              # PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    lgdt gdt_pointer
    ljmp $8, $start64

fill:                                   # %ecx entries from %edi, the first one %eax
    movl %eax, (%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop fill
    ret

    .code64
start64:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
command:
    movl $STACK_TOP, %esp
    fninit
    call read_number
    movq %rax, %rbx
    call read_number
    movq %rax, %rdi
    movb $'S', %al
    call send
    call *%rbx
    movq %rax, %rbx
    movb $'E', %al
    call send
    movl $16, %ecx
1:  rolq $4, %rbx
    movl %ebx, %eax
    andl $15, %eax
    movb digits(%rax), %al
    call send
    loop 1b
    movb $'\n', %al
    call send
    jmp command

read_number:                            # %rax: hexadecimal, up to the first blank or end of line
    xorl %esi, %esi
1:  movw $COM1 + 5, %dx
2:  inb %dx, %al
    testb $1, %al
    jz 2b
    movw $COM1, %dx
    inb %dx, %al
    cmpb $'q', %al
    je leave_qemu
    cmpb $' ', %al
    jbe 3f
    subb $'0', %al
    cmpb $9, %al
    jbe 4f
    subb $'a' - '0' - 10, %al
4:  movzbl %al, %eax
    shlq $4, %rsi
    orq %rax, %rsi
    jmp 1b
3:  movq %rsi, %rax
    ret

send:                                   # %al
    movb %al, %ah
    movw $COM1 + 5, %dx
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    movb %ah, %al
    movw $COM1, %dx
    outb %al, %dx
    ret

leave_qemu:
    xorl %eax, %eax
    movw $0xf4, %dx
    outl %eax, %dx
    hlt

    .section .rodata
digits:
    .ascii "0123456789abcdef"
    .align 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word . - gdt - 1
    .long gdt

    .bss
    .align 4096
pml4:
    .skip 4096
pdpt:
    .skip 4096
pd:
    .skip 4096
pt:
    .skip (1 + TABLES) * 4096
    .skip 4096
stack_end:
