/* Byte stores with a stride: Eratosthenes over 200,000 numbers. */
#include "kernel.h"

#define LIMIT 200000
static u8 composite[LIMIT];

static NOINLINE u64 sieve(void)
{
    u64 primes = 0;
    for (u32 i = 0; i < LIMIT; i++)
        composite[i] = 0;
    for (u32 i = 2; i < LIMIT; i++) {
        if (composite[i])
            continue;
        primes++;
        for (u32 j = 2 * i; j < LIMIT; j += i)
            composite[j] = 1;
    }
    return primes;
}

u64 run(u64 n)
{
    u64 sum = 0;
    while (n--)
        sum = mix(sum, sieve());
    return sum;
}
