/* Indirect jumps: an interpreter of a stack machine, one switch through a jump table. */
#include "kernel.h"

enum op { PUSH, LOAD, STORE, ADD, SUB, MUL, AND, XOR, SHR, DUP, SWAP, DROP, LESS, JZ, JMP, HALT };

/* for (x = 1, i = 0; i < limit; i++) { x = x * 13 + i; if (x & 64) x ^= x >> 7; else x -= 3; } */
static const i32 program[] = {
    PUSH, 1, STORE, 0, PUSH, 0, STORE, 1,
    /* 8 */ LOAD, 1, LOAD, 2, LESS, JZ, 57,
    /* 15 */ LOAD, 0, PUSH, 13, MUL, LOAD, 1, ADD, DUP, STORE, 0,
    /* 26 */ PUSH, 64, AND, JZ, 42,
    /* 31 */ LOAD, 0, DUP, PUSH, 7, SHR, XOR, STORE, 0, JMP, 48,
    /* 42 */ LOAD, 0, PUSH, 3, SUB, SWAP,
    /* 48 */ PUSH, 1, LOAD, 1, ADD, STORE, 1, JMP, 8,
    /* 57 */ LOAD, 0, HALT,
};

static NOINLINE u32 interpret(const i32 *code, u32 limit)
{
    u32 stack[16] = { 0 }, slot[4] = { 0, 0, limit, 0 };
    u32 *sp = stack + 2, t;
    const i32 *pc = code;
    for (;;) {
        switch (*pc++) {
        case PUSH: *sp++ = (u32)*pc++; break;
        case LOAD: *sp++ = slot[*pc++ & 3]; break;
        case STORE: slot[*pc++ & 3] = *--sp; break;
        case ADD: sp--; sp[-1] += *sp; break;
        case SUB: sp--; sp[-1] -= *sp; break;
        case MUL: sp--; sp[-1] *= *sp; break;
        case AND: sp--; sp[-1] &= *sp; break;
        case XOR: sp--; sp[-1] ^= *sp; break;
        case SHR: sp--; sp[-1] >>= *sp & 31; break;
        case DUP: *sp = sp[-1]; sp++; break;
        case SWAP: t = *--sp; slot[0] = t; break;
        case DROP: sp--; break;
        case LESS: sp--; sp[-1] = sp[-1] < *sp; break;
        case JZ: pc = *--sp ? pc + 1 : code + *pc; break;
        case JMP: pc = code + *pc; break;
        default: return sp[-1];
        }
    }
}

u64 run(u64 n)
{
    u64 sum = 0;
    while (n--)
        sum = mix(sum, interpret(program, 1000 + (n & 7)));
    return sum;
}
