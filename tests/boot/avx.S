# A program for the initramfs of tests/boot/test_debian_avx.py: keeps a pattern of its own in all 32 bytes of 16 registers while it
# gives the processor away, and exits with 0 if it still has it, 1 if not, 2 if the kernel has not enabled AVX.
        .intel_syntax noprefix
        .globl _start
_start: xor     ecx, ecx
        xgetbv
        and     eax, 6
        cmp     eax, 6
        mov     edi, 2
        jne     exit
        mov     eax, 39                 # getpid
        syscall
        vmovd   xmm0, eax
        vpbroadcastd ymm0, xmm0
        vpaddd  ymm1, ymm0, ymm0
        vpaddd  ymm2, ymm1, ymm0
        vpaddd  ymm3, ymm2, ymm0
        vpaddd  ymm4, ymm3, ymm0
        vpaddd  ymm5, ymm4, ymm0
        vpaddd  ymm6, ymm5, ymm0
        vpaddd  ymm7, ymm6, ymm0
        vpaddd  ymm8, ymm7, ymm0
        vpaddd  ymm9, ymm8, ymm0
        vpaddd  ymm10, ymm9, ymm0
        vpaddd  ymm11, ymm10, ymm0
        vpaddd  ymm12, ymm11, ymm0
        vpaddd  ymm13, ymm12, ymm0
        vpaddd  ymm14, ymm13, ymm0
        vpaddd  ymm15, ymm14, ymm0
        lea     rdi, [rip + before]
        call    store
        mov     ebx, 2000
again:  mov     eax, 24                 # sched_yield
        syscall
        lea     rdi, [rip + after]
        call    store
        lea     rdi, [rip + after]
        lea     rsi, [rip + before]
        mov     ecx, 512
        repe cmpsb
        mov     edi, 1
        jne     exit
        dec     ebx
        jnz     again
        xor     edi, edi
exit:   mov     eax, 60
        syscall

store:  vmovdqu [rdi], ymm0
        vmovdqu [rdi + 32], ymm1
        vmovdqu [rdi + 64], ymm2
        vmovdqu [rdi + 96], ymm3
        vmovdqu [rdi + 128], ymm4
        vmovdqu [rdi + 160], ymm5
        vmovdqu [rdi + 192], ymm6
        vmovdqu [rdi + 224], ymm7
        vmovdqu [rdi + 256], ymm8
        vmovdqu [rdi + 288], ymm9
        vmovdqu [rdi + 320], ymm10
        vmovdqu [rdi + 352], ymm11
        vmovdqu [rdi + 384], ymm12
        vmovdqu [rdi + 416], ymm13
        vmovdqu [rdi + 448], ymm14
        vmovdqu [rdi + 480], ymm15
        ret

        .bss
before: .skip   512
after:  .skip   512
