/* Copies: REP MOVSQ, a loop of quadwords and a loop of bytes, over 16 KiB each. */
#include "kernel.h"

#define SIZE 16384
static u64 from[SIZE / 8 + 8], to[SIZE / 8 + 8];

static NOINLINE void copy_string(void *d, const void *s, u64 quads)
{
    __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(quads) : : "memory");
}

static NOINLINE void copy_quads(u64 *d, const u64 *s, u64 quads)
{
    for (u64 i = 0; i < quads; i++)
        d[i] = s[i];
}

static NOINLINE void copy_bytes(u8 *d, const u8 *s, u64 bytes)
{
    for (u64 i = 0; i < bytes; i++)
        d[i] = s[i];
}

u64 run(u64 n)
{
    u64 state = 9, sum = 0;
    for (u32 i = 0; i < SIZE / 8; i++)
        from[i] = noise(&state);
    while (n--) {
        copy_string(to, from, SIZE / 8);
        copy_quads(from, to, SIZE / 8);
        copy_bytes((u8 *)to + (n & 7), (u8 *)from, SIZE);
        from[n % (SIZE / 8)] ^= to[(n * 7) % (SIZE / 8)] + n;
        sum = mix(sum, to[n % (SIZE / 8)]);
    }
    return sum;
}
