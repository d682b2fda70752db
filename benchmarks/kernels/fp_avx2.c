/* AVX2 and FMA: a product of float matrices, eight lanes wide, and a gather of 32-bit integers. */
#include "kernel.h"
#include <immintrin.h>

#define N 32
static float a[N][N] __attribute__((aligned(32))), b[N][N] __attribute__((aligned(32)));
static float c[N][N] __attribute__((aligned(32)));
static int numbers[1024] __attribute__((aligned(32)));

static NOINLINE void multiply(void)
{
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j += 8) {
            __m256 sum = _mm256_setzero_ps();
            for (int k = 0; k < N; k++)
                sum = _mm256_fmadd_ps(_mm256_broadcast_ss(&a[i][k]), _mm256_load_ps(&b[k][j]), sum);
            _mm256_store_ps(&c[i][j], sum);
        }
}

static NOINLINE u64 gather(void)
{
    __m256i sum = _mm256_setzero_si256(), mask = _mm256_set1_epi32(1023);
    for (int i = 0; i < 1024; i += 8) {
        __m256i at = _mm256_and_si256(_mm256_load_si256((__m256i *)(numbers + i)), mask);
        sum = _mm256_add_epi32(sum, _mm256_i32gather_epi32(numbers, at, 4));
    }
    u64 q[4];
    _mm256_storeu_si256((__m256i *)q, sum);
    return q[0] + q[1] + q[2] + q[3];
}

u64 run(u64 n)
{
    u64 state = 43, sum = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (float)(noise(&state) >> 56) / 256;
            b[i][j] = (float)(noise(&state) >> 56) / 256;
            numbers[i * N + j] = (int)state;
        }
    while (n--) {
        multiply();
        union { float f; u32 u; } x = { c[n % N][n / N % N] };
        sum = mix(sum, x.u + gather());
        numbers[n % 1024] += (int)sum;
    }
    return sum;
}
