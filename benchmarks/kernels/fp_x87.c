/* x87: a Mandelbrot set and a series in 80-bit long double. */
#include "kernel.h"

static NOINLINE u64 mandelbrot(void)
{
    u64 inside = 0;
    for (int py = 0; py < 16; py++)
        for (int px = 0; px < 16; px++) {
            long double cx = px / 8.0L - 1.5L, cy = py / 8.0L - 1.0L, x = 0, y = 0;
            int i = 0;
            for (; i < 50 && x * x + y * y < 4; i++) {
                long double t = x * x - y * y + cx;
                y = 2 * x * y + cy;
                x = t;
            }
            inside += (u64)i;
        }
    return inside;
}

static NOINLINE u64 pi_over_four(int terms)
{
    long double sum = 0, sign = 1;
    for (int i = 0; i < terms; i++) {
        sum += sign / (2 * i + 1);
        sign = -sign;
    }
    return (u64)(i64)(sum * 4611686018427387904.0L);
}

u64 run(u64 n)
{
    u64 sum = 0;
    while (n--)
        sum = mix(sum, mandelbrot() + pi_over_four(200 + (int)(n & 7)));
    return sum;
}
