/* TLB flushes: CR3 loaded with what it holds, then 16 pages read, which must all be looked up again.  Ring 0. */
#include "kernel.h"

static volatile u64 pages[16][512];

u64 run(u64 n)
{
    u64 sum = 0, cr3;
    while (n--) {
        __asm__ volatile("mov %%cr3, %0\n\tmov %0, %%cr3" : "=r"(cr3) : : "memory");
        for (u32 i = 0; i < 16; i++)
            sum += pages[i][i * 8];
    }
    return sum;
}
