/* Packed SSE2: pictures blended in 8-bit channels, and dot products of floats four at a time. */
#include "kernel.h"
#include <emmintrin.h>

#define PIXELS 1024
static u32 front[PIXELS] __attribute__((aligned(16))), back[PIXELS] __attribute__((aligned(16)));
static float u[PIXELS] __attribute__((aligned(16))), v[PIXELS] __attribute__((aligned(16)));

static NOINLINE void blend(u32 alpha)
{
    __m128i zero = _mm_setzero_si128(), a = _mm_set1_epi16((short)alpha), b = _mm_set1_epi16((short)(256 - alpha));
    for (int i = 0; i < PIXELS; i += 4) {
        __m128i f = _mm_load_si128((__m128i *)(front + i)), g = _mm_load_si128((__m128i *)(back + i));
        __m128i low = _mm_add_epi16(_mm_mullo_epi16(_mm_unpacklo_epi8(f, zero), a),
                                    _mm_mullo_epi16(_mm_unpacklo_epi8(g, zero), b));
        __m128i high = _mm_add_epi16(_mm_mullo_epi16(_mm_unpackhi_epi8(f, zero), a),
                                     _mm_mullo_epi16(_mm_unpackhi_epi8(g, zero), b));
        _mm_store_si128((__m128i *)(back + i), _mm_packus_epi16(_mm_srli_epi16(low, 8), _mm_srli_epi16(high, 8)));
    }
}

static NOINLINE float dot(void)
{
    __m128 sum = _mm_setzero_ps();
    for (int i = 0; i < PIXELS; i += 4)
        sum = _mm_add_ps(sum, _mm_mul_ps(_mm_load_ps(u + i), _mm_load_ps(v + i)));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps(sum, sum, 1)));
}

u64 run(u64 n)
{
    u64 state = 41, sum = 0;
    for (int i = 0; i < PIXELS; i++) {
        front[i] = (u32)noise(&state);
        back[i] = (u32)noise(&state);
        u[i] = (float)(state >> 60);
        v[i] = (float)(state >> 52 & 15) / 16;
    }
    while (n--) {
        blend((u32)n & 255);
        union { float f; u32 u; } x = { dot() };
        sum = mix(sum, (u64)x.u << 32 | back[n % PIXELS]);
        front[n % PIXELS] += (u32)sum;
        u[n % PIXELS] = (float)(sum >> 58);
    }
    return sum;
}
