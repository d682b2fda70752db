/* Indirect calls: heapsort of 5,000 records through a comparison function and a swap function. */
#include "kernel.h"

#define COUNT 5000
struct record { u32 key, value; };
static struct record records[COUNT];
typedef int compare_t(const struct record *, const struct record *);
typedef void swap_t(struct record *, struct record *);

static NOINLINE int ascending(const struct record *a, const struct record *b)
{
    return a->key < b->key ? -1 : a->key > b->key;
}

static NOINLINE int descending(const struct record *a, const struct record *b)
{
    return ascending(b, a);
}

static NOINLINE void swap(struct record *a, struct record *b)
{
    struct record t = *a;
    *a = *b;
    *b = t;
}

static NOINLINE void sift(struct record *a, u64 root, u64 n, compare_t *compare, swap_t *exchange)
{
    for (u64 child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && compare(&a[child], &a[child + 1]) < 0)
            child++;
        if (compare(&a[root], &a[child]) >= 0)
            return;
        exchange(&a[root], &a[child]);
    }
}

static NOINLINE void heapsort(struct record *a, u64 n, compare_t *compare, swap_t *exchange)
{
    for (u64 i = n / 2; i-- > 0;)
        sift(a, i, n, compare, exchange);
    while (n-- > 1) {
        exchange(&a[0], &a[n]);
        sift(a, 0, n, compare, exchange);
    }
}

u64 run(u64 n)
{
    u64 state = 17, sum = 0;
    while (n--) {
        for (u32 i = 0; i < COUNT; i++)
            records[i] = (struct record){ (u32)noise(&state) >> 8, i };
        heapsort(records, COUNT, n & 1 ? descending : ascending, swap);
        sum = mix(sum, ((u64)records[COUNT / 4].key << 32) | records[n % COUNT].value);
    }
    return sum;
}
