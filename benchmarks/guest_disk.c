// Reads and writes a disk with O_DIRECT, one request at a time, and prints requests and bytes a second.  Runs in a guest.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static const struct { const char *name; int size, random, write, count; } tests[] = {
    {"seq-read-4k", 4096, 0, 0, 3000},    {"rand-read-4k", 4096, 1, 0, 3000},
    {"seq-write-4k", 4096, 0, 1, 3000},   {"rand-write-4k", 4096, 1, 1, 3000},
    {"seq-read-1m", 1 << 20, 0, 0, 200},  {"seq-write-1m", 1 << 20, 0, 1, 200},
};

int main(int argc, char **argv)
{
    int fd = open(argv[argc - 1], O_RDWR | O_DIRECT);
    unsigned long x = 88172645463325252ul;
    char *buffer;
    long end = lseek(fd, 0, SEEK_END);
    if (fd < 0 || posix_memalign((void **)&buffer, 4096, 1 << 20))
        return 1;
    memset(buffer, 0x5a, 1 << 20);
    for (unsigned t = 0; t < sizeof tests / sizeof *tests; t++) {
        int size = tests[t].size;
        double start = now();
        for (int i = 0; i < tests[t].count; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            long at = (tests[t].random ? x % (end / size) : (unsigned long)i % (end / size)) * size;
            if ((tests[t].write ? pwrite(fd, buffer, size, at) : pread(fd, buffer, size, at)) != size) {
                perror(tests[t].name);
                return 1;
            }
        }
        start = now() - start;
        printf("%s %.0f/s %.1f MB/s\n", tests[t].name, tests[t].count / start, tests[t].count * (double)size / start / 1e6);
        fflush(stdout);
    }
    return 0;
}
