/* Scalar double precision (SSE2): five bodies under gravity, and a Mandelbrot set.  No libm: the root is SQRTSD. */
#include "kernel.h"

#define BODIES 5
static double position[BODIES][3], velocity[BODIES][3], mass[BODIES];

static inline double root(double x)
{
    __asm__("sqrtsd %1, %0" : "=x"(x) : "x"(x));
    return x;
}

static NOINLINE void advance(double dt)
{
    for (int i = 0; i < BODIES; i++)
        for (int j = i + 1; j < BODIES; j++) {
            double d[3], square = 0.01;
            for (int k = 0; k < 3; k++) {
                d[k] = position[i][k] - position[j][k];
                square += d[k] * d[k];
            }
            double pull = dt / (square * root(square));
            for (int k = 0; k < 3; k++) {
                velocity[i][k] -= d[k] * mass[j] * pull;
                velocity[j][k] += d[k] * mass[i] * pull;
            }
        }
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++)
            position[i][k] += dt * velocity[i][k];
}

static NOINLINE u64 mandelbrot(void)
{
    u64 inside = 0;
    for (int py = 0; py < 16; py++)
        for (int px = 0; px < 16; px++) {
            double cx = px / 8.0 - 1.5, cy = py / 8.0 - 1.0, x = 0, y = 0;
            int i = 0;
            for (; i < 50 && x * x + y * y < 4; i++) {
                double t = x * x - y * y + cx;
                y = 2 * x * y + cy;
                x = t;
            }
            inside += (u64)i;
        }
    return inside;
}

u64 run(u64 n)
{
    u64 state = 37, sum = 0;
    for (int i = 0; i < BODIES; i++) {
        mass[i] = (double)(noise(&state) >> 54);
        for (int k = 0; k < 3; k++) {
            position[i][k] = (double)(i64)(noise(&state) >> 32) / 1e9;
            velocity[i][k] = (double)(i64)(noise(&state) >> 32) / 1e10;
        }
    }
    while (n--) {
        for (int i = 0; i < 40; i++)
            advance(0.001);
        union { double d; u64 u; } x = { position[n % BODIES][n % 3] };
        sum = mix(sum, x.u + mandelbrot());
    }
    return sum;
}
