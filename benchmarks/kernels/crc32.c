/* Table look-ups that depend on each other: CRC-32 (IEEE 802.3) of 64 KiB. */
#include "kernel.h"

static u32 table[256];
static u8 data[65536];

u64 run(u64 n)
{
    u64 state = 1, sum = 0;
    for (u32 i = 0; i < 256; i++) {
        u32 c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
        table[i] = c;
    }
    for (u32 i = 0; i < sizeof data; i++)
        data[i] = (u8)noise(&state);
    while (n--) {
        u32 c = ~0u;
        for (u32 i = 0; i < sizeof data; i++)
            c = table[(u8)c ^ data[i]] ^ (c >> 8);
        data[c & 0xFFFF]++;
        sum = mix(sum, ~c);
    }
    return sum;
}
