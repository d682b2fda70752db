/* Floating point: the motion of five bodies under gravity, and a spectral norm. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { BODIES = 5, N = 200 };

static double at[BODIES][3], speed[BODIES][3], mass[BODIES];

static void step(double dt)
{
    for (int i = 0; i < BODIES; i++)
        for (int j = i + 1; j < BODIES; j++) {
            double d[3], r2 = 0, f;
            for (int k = 0; k < 3; k++) {
                d[k] = at[i][k] - at[j][k];
                r2 += d[k] * d[k];
            }
            f = dt / (r2 * sqrt(r2) + 0.01);
            for (int k = 0; k < 3; k++) {
                speed[i][k] -= d[k] * mass[j] * f;
                speed[j][k] += d[k] * mass[i] * f;
            }
        }
    for (int i = 0; i < BODIES; i++)
        for (int k = 0; k < 3; k++)
            at[i][k] += dt * speed[i][k];
}

static double entry(int i, int j) { return 1.0 / ((i + j) * (i + j + 1) / 2 + i + 1); }

static double norm(void)
{
    static double u[N], v[N];
    double vv = 0, uv = 0;
    for (int i = 0; i < N; i++)
        u[i] = 1;
    for (int k = 0; k < 4; k++) {
        for (int i = 0; i < N; i++) {
            v[i] = 0;
            for (int j = 0; j < N; j++)
                v[i] += entry(i, j) * u[j];
        }
        for (int i = 0; i < N; i++) {
            u[i] = 0;
            for (int j = 0; j < N; j++)
                u[i] += entry(j, i) * v[j];
        }
    }
    for (int i = 0; i < N; i++) {
        uv += u[i] * v[i];
        vv += v[i] * v[i];
    }
    return sqrt(uv / vv);
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 10;
    double sum = 0;
    for (int i = 0; i < BODIES; i++) {
        mass[i] = 1 + i;
        for (int k = 0; k < 3; k++) {
            at[i][k] = sin(1.7 * i + k);
            speed[i][k] = cos(2.3 * i - k);
        }
    }
    for (long i = 0; i < rounds; i++) {
        for (int k = 0; k < 20000; k++)
            step(1e-4);
        sum += norm();
    }
    printf("%.9f %.9f\n", sum, at[0][0]);
    return 0;
}
