# Brings up all other vcpus it was given; each adds itself to a counter.
        .include "pv64.inc"
        PV_GUEST smp, _start
        .set VCPUOP_initialise, 0
        .set VCPUOP_up, 1
        .set CTX_flags, 512                     # struct vcpu_guest_context
        .set CTX_rdi, 520 + 14 * 8
        .set CTX_rip, 520 + 16 * 8
        .set CTX_cs, CTX_rip + 8
        .set CTX_rflags, CTX_rip + 16
        .set CTX_rsp, CTX_rip + 24
        .set CTX_ss, CTX_rip + 32
        .set CTX_kernel_ss, 4968
        .set CTX_kernel_sp, 4976
        .set CTX_cr3, 4984 + 3 * 8
        .set OTHERS, 3

        .globl  _start
_start: mov     r12, rsi
        call    console_init
        mov     rax, [r12 + SI_pt_base]         # machine address of the page directory
        mov     rcx, VIRT_BASE
        sub     rax, rcx
        shr     rax, 12
        mov     rcx, [r12 + SI_mfn_list]
        mov     rax, [rcx + rax * 8]
        shl     rax, 12
        lea     rbx, [rip + context]
        mov     [rbx + CTX_cr3], rax
        mov     qword ptr [rbx + CTX_flags], 4  # VGCF_in_kernel
        lea     rax, [rip + other]
        mov     [rbx + CTX_rip], rax
        mov     word ptr [rbx + CTX_cs], 0xe033
        mov     word ptr [rbx + CTX_ss], 0xe02b
        mov     qword ptr [rbx + CTX_rflags], 0x200
        mov     qword ptr [rbx + CTX_kernel_ss], 0xe02b
        mov     r13d, 1
1:      lea     rax, [rip + stacks]
        mov     ecx, r13d
        shl     rcx, 12
        add     rax, rcx
        mov     [rbx + CTX_rsp], rax
        mov     [rbx + CTX_kernel_sp], rax
        mov     [rbx + CTX_rdi], r13
        mov     edi, VCPUOP_initialise
        mov     esi, r13d
        mov     rdx, rbx
        HYPERCALL HV_vcpu_op
        test    rax, rax
        jnz     fail
        mov     edi, VCPUOP_up
        mov     esi, r13d
        xor     edx, edx
        HYPERCALL HV_vcpu_op
        test    rax, rax
        jnz     fail
        inc     r13d
        cmp     r13d, OTHERS
        jbe     1b
2:      call    yield
        cmp     dword ptr [rip + count], 1 + 2 + 3
        jne     2b
        PRINT   "all vcpus are up\n"
        SHUTDOWN 0
fail:   PRINT   "failed\n"
        SHUTDOWN 3

other:  lock add [rip + count], edi
1:      mov     edi, SCHEDOP_block
        xor     esi, esi
        HYPERCALL HV_sched_op
        jmp     1b

        .bss
        .balign 4096
count:  .skip   8
        .balign 16
context:
        .skip   5168
        .balign 4096
stacks: .skip   4096 * (OTHERS + 1)
