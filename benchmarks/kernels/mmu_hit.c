/* Loads that hit the TLB: what mmu_miss.c is compared with. */
#include "kernel.h"

static volatile u64 page[512];

u64 run(u64 n)
{
    u64 sum = 0;
    while (n--)
        for (u32 i = 0; i < 4096; i++)
            sum += page[i * 64 & 511];
    return sum;
}
