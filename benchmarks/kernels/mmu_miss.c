/* TLB misses: a load from each of 4,096 pages in turn, more than the software TLBs of emulators hold by default. */
#include "kernel.h"

static volatile u64 pages[4096][512];

u64 run(u64 n)
{
    u64 sum = 0;
    while (n--)
        for (u32 i = 0; i < 4096; i++)
            sum += pages[i][i * 64 & 511];
    return sum;
}
