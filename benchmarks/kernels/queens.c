/* Bits, shifts and recursion: the ways to place queens on a 8 x 8 board; and Euclid's divisions. */
#include "kernel.h"

static NOINLINE u32 place(u32 full, u32 columns, u32 left, u32 right)
{
    u32 ways = 0, free = full & ~(columns | left | right);
    if (columns == full)
        return 1;
    while (free) {
        u32 bit = free & -free;
        free ^= bit;
        ways += place(full, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return ways;
}

static NOINLINE u64 gcd(u64 a, u64 b)
{
    while (b) {
        u64 t = a % b;
        a = b;
        b = t;
    }
    return a;
}

u64 run(u64 n)
{
    u64 state = 29, sum = 0;
    while (n--) {
        sum = mix(sum, place(0xFF, 0, 0, 0));
        for (int i = 0; i < 100; i++)
            sum += gcd(noise(&state) >> 24, noise(&state) >> 32 | 1);
    }
    return sum;
}
