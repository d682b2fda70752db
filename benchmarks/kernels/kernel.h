/* What every kernel shares.  A kernel is one function, uint64_t run(uint64_t n): n rounds of its work, a checksum back.
 *
 * Freestanding: no libc, no system calls, nothing but the CPU and the memory of the image, so that the very same bytes
 * run natively, under QEMU and under every other engine.  run() starts from scratch each time: its checksum depends
 * on n alone.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

#define NOINLINE __attribute__((noinline, noclone, noipa))

u64 run(u64 n);

/* Marsaglia's xorshift64: repeatable noise. */
static inline u64 noise(u64 *state)
{
    u64 x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

static inline u64 mix(u64 sum, u64 value)
{
    return (sum ^ value) * 0x9E3779B97F4A7C15u + (sum >> 29);
}

#endif
