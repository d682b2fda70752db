/* Carries and wide products: 2048-bit schoolbook multiplication with MUL, ADD and ADC. */
#include "kernel.h"

#define LIMBS 32
static u64 x[LIMBS], y[LIMBS], product[2 * LIMBS];

static NOINLINE void multiply(u64 *out, const u64 *a, const u64 *b)
{
    for (int i = 0; i < 2 * LIMBS; i++)
        out[i] = 0;
    for (int i = 0; i < LIMBS; i++) {
        u64 carry = 0;
        for (int j = 0; j < LIMBS; j++) {
            unsigned __int128 t = (unsigned __int128)a[i] * b[j] + out[i + j] + carry;
            out[i + j] = (u64)t;
            carry = (u64)(t >> 64);
        }
        out[i + LIMBS] = carry;
    }
}

u64 run(u64 n)
{
    u64 state = 23, sum = 0;
    for (int i = 0; i < LIMBS; i++) {
        x[i] = noise(&state);
        y[i] = noise(&state);
    }
    while (n--) {
        multiply(product, x, y);
        for (int i = 0; i < LIMBS; i++)
            x[i] ^= product[i + LIMBS / 2];
        sum = mix(sum, product[LIMBS]);
    }
    return sum;
}
