/* Recursion: calls, returns and the stack. */
#include "kernel.h"

static NOINLINE u64 fib(u64 n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

u64 run(u64 n)
{
    u64 sum = 0;
    while (n--)
        sum = mix(sum, fib(18));
    return sum;
}
