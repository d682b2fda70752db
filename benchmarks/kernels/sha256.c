/* Rotations and 32-bit arithmetic, hardly a branch: SHA-256 (FIPS 180-4) of 8 KiB. */
#include "kernel.h"

static u32 k[64];
static u8 message[8192];

static inline u32 ror(u32 x, int n)
{
    return x >> n | x << (32 - n);
}

/* The constants of FIPS 180-4, 4.2.2 and 5.3.3 are the fraction bits of roots of primes: worked out in integers. */
static u32 root_fraction(u64 prime, int cube)
{
    u64 low = 0, high = (u64)1 << 36;
    while (high - low > 1) {
        u64 mid = (low + high) / 2;
        unsigned __int128 power = (unsigned __int128)mid * mid, target = (unsigned __int128)prime << 64;
        if (cube) {
            power = (power >> 32) * mid;
        }
        if (power <= target)
            low = mid;
        else
            high = mid;
    }
    return (u32)low;
}

static NOINLINE void block(u32 *h, const u8 *p)
{
    u32 w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (u32)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3)
             + (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
    for (int i = 0; i < 8; i++)
        s[i] = h[i];
    for (int i = 0; i < 64; i++) {
        u32 e = s[4], a = s[0];
        u32 t1 = s[7] + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
        u32 t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        s[7] = s[6];
        s[6] = s[5];
        s[5] = e;
        s[4] = s[3] + t1;
        s[3] = s[2];
        s[2] = s[1];
        s[1] = a;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += s[i];
}

u64 run(u64 n)
{
    u32 start[8], h[8];
    u64 state = 19, sum = 0;
    for (u32 p = 2, found = 0; found < 64; p++) {
        u32 d = 2;
        while (d * d <= p && p % d)
            d++;
        if (d * d <= p)
            continue;
        if (found < 8)
            start[found] = root_fraction(p, 0);
        k[found++] = root_fraction(p, 1);
    }
    for (u32 i = 0; i < sizeof message; i++)
        message[i] = (u8)noise(&state);
    while (n--) {
        for (int i = 0; i < 8; i++)
            h[i] = start[i];
        for (u32 i = 0; i < sizeof message; i += 64)
            block(h, message + i);
        sum = mix(sum, (u64)h[0] << 32 | h[7]);
        message[sum % sizeof message]++;
    }
    return sum;
}
