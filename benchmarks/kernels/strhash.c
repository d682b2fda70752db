/* Bytes and strings: words hashed (FNV-1a), looked up in a chained table, compared. */
#include "kernel.h"

#define WORDS 1000
#define BUCKETS 512
struct word { char text[24]; struct word *next; u32 count; };
static struct word words[WORDS];
static struct word *bucket[BUCKETS];
static u32 used;

static NOINLINE u32 hash(const char *s)
{
    u32 h = 2166136261u;
    for (; *s; s++)
        h = (h ^ (u8)*s) * 16777619u;
    return h;
}

static NOINLINE int same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static NOINLINE u32 count(const char *text)
{
    struct word **at = &bucket[hash(text) % BUCKETS];
    for (struct word *w = *at; w; w = w->next)
        if (same(w->text, text))
            return ++w->count;
    if (used == WORDS)
        return 0;
    struct word *w = &words[used++];
    char *to = w->text;
    while ((*to++ = *text++))
        ;
    w->next = *at;
    w->count = 1;
    *at = w;
    return 1;
}

u64 run(u64 n)
{
    u64 state = 5, sum = 0;
    char text[24];
    used = 0;
    for (u32 i = 0; i < BUCKETS; i++)
        bucket[i] = 0;
    while (n--)
        for (u32 i = 0; i < 256; i++) {
            u64 bits = noise(&state) & 0x7F;
            u32 length = 3 + (u32)(bits % 17);
            for (u32 k = 0; k < length; k++)
                text[k] = (char)('a' + (bits * (k + 3) >> 2) % 26);
            text[length] = 0;
            sum += count(text);
        }
    return mix(sum, used);
}
