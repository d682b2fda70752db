/* Real-life mixture: an LZ77 compressor with a hash table over 32 KiB of text-like input. */
#include "kernel.h"

#define SIZE 32768
#define HASH 4096
static u8 input[SIZE + 8], output[2 * SIZE];
static u32 head[HASH];

static inline u32 load32(const u8 *p)
{
    return *(const u32 __attribute__((aligned(1), may_alias)) *)p;
}

static NOINLINE u64 compress(void)
{
    u8 *out = output;
    u32 at = 0, literal = 0;
    for (u32 i = 0; i < HASH; i++)
        head[i] = 0;
    while (at + 4 <= SIZE) {
        u32 h = load32(input + at) * 2654435761u >> 20, found = head[h];
        head[h] = at + 1;
        if (!found || load32(input + found - 1) != load32(input + at)) {
            at++;
            continue;
        }
        u32 back = found - 1, length = 4;
        while (at + length < SIZE && length < 255 && input[back + length] == input[at + length])
            length++;
        *out++ = (u8)(at - literal);
        while (literal < at)
            *out++ = input[literal++];
        *out++ = (u8)length;
        *out++ = (u8)(at - back);
        *out++ = (u8)((at - back) >> 8);
        literal = at += length;
    }
    u64 sum = (u64)(out - output);
    for (u8 *p = output; p < out; p += 16)
        sum = mix(sum, *p);
    return sum;
}

u64 run(u64 n)
{
    static const char syllable[] = "the of and to in is that for it was on are as with his they at be this from";
    u64 state = 13, sum = 0;
    for (u32 i = 0; i < SIZE;) {
        u32 from = (u32)(noise(&state) % (sizeof syllable - 12)), length = 2 + (u32)(state >> 60);
        while (length-- && i < SIZE)
            input[i++] = (u8)syllable[(from++) % (sizeof syllable - 1)];
    }
    while (n--) {
        sum = mix(sum, compress());
        input[n % SIZE] ^= 1;
    }
    return sum;
}
