/* Branches that cannot be foreseen: Hoare's quicksort of 20,000 integers. */
#include "kernel.h"

#define COUNT 20000
static u32 items[COUNT];

static NOINLINE void quicksort(u32 *a, i64 low, i64 high)
{
    while (low < high) {
        u32 pivot = a[(low + high) >> 1];
        i64 i = low, j = high;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                u32 t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        quicksort(a, low, j);
        low = i;
    }
}

u64 run(u64 n)
{
    u64 state = 7, sum = 0;
    while (n--) {
        for (u32 i = 0; i < COUNT; i++)
            items[i] = (u32)noise(&state);
        quicksort(items, 0, COUNT - 1);
        for (u32 i = 1; i < COUNT; i++)
            sum += items[i - 1] <= items[i];
        sum = mix(sum, items[COUNT / 3]);
    }
    return sum;
}
