# Reads the console up to a newline and says it back.
        .include "pv64.inc"
        PV_GUEST echo, _start
        .set CONS_in_cons, 3072
        .set CONS_in_prod, 3076
        .globl  _start
_start: call    console_init
        PRINT   "say something\n"
        lea     r14, [rip + line]
1:      mov     rbx, [rip + console_page]
        mov     eax, [rbx + CONS_in_cons]
        cmp     eax, [rbx + CONS_in_prod]
        jne     2f
        call    console_notify                  # there is room again
        call    yield
        jmp     1b
2:      mov     ecx, eax
        and     ecx, 1023
        movzx   edx, byte ptr [rbx + rcx]
        inc     eax
        mov     [rbx + CONS_in_cons], eax
        cmp     dl, 10
        je      3f
        cmp     dl, 13
        je      3f
        mov     [r14], dl
        inc     r14
        jmp     1b
3:      PRINT   "you said: "
        lea     rdi, [rip + line]
        call    puts
        PRINT   "\n"
        SHUTDOWN 0
        .bss
line:   .skip   2048
