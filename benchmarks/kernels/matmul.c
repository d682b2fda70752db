/* Regular loads and multiplications: 48 x 48 matrices of 32-bit integers. */
#include "kernel.h"

#define N 48
static u32 a[N][N], b[N][N], c[N][N];

static NOINLINE void multiply(void)
{
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            u32 s = 0;
            for (int k = 0; k < N; k++)
                s += a[i][k] * b[k][j];
            c[i][j] = s;
        }
}

u64 run(u64 n)
{
    u64 state = 3, sum = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (u32)noise(&state);
            b[i][j] = (u32)noise(&state);
        }
    while (n--) {
        multiply();
        sum = mix(sum, c[n % N][(n / N) % N]);
        a[n % N][n % 31] += (u32)sum;
    }
    return sum;
}
