/* Page faults: touch fresh anonymous pages, give them back, begin again. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 4096 };

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 10;
    unsigned long sum = 0;
    for (long i = 0; i < rounds; i++) {
        char *p = mmap(0, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return 1;
        for (long k = 0; k < PAGES; k++)
            p[k * PAGE] = (char)k;
        sum += (unsigned char)p[(i % PAGES) * PAGE];
        munmap(p, (size_t)PAGES * PAGE);
    }
    printf("%lu\n", sum);
    return 0;
}
