/* Latency and TLB reach: a random cycle of pointers through 256 KiB, each step on another page. */
#include "kernel.h"

#define SLOTS 32768
static u64 *ring[SLOTS];
static u32 order[SLOTS];

u64 run(u64 n)
{
    u64 state = 11, sum = 0;
    for (u32 i = 0; i < SLOTS; i++)
        order[i] = i;
    for (u32 i = SLOTS - 1; i > 0; i--) {
        u32 j = (u32)(noise(&state) % (i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (u32 i = 0; i < SLOTS; i++)
        ring[order[i]] = (u64 *)&ring[order[(i + 1) % SLOTS]];
    u64 *p = (u64 *)&ring[0];
    while (n--) {
        for (int i = 0; i < 10000; i++)
            p = (u64 *)*p;
        sum = mix(sum, (u64)p);
    }
    return sum;
}
