/* Runs instructions on the host's own processor: the oracle of the conformance tests.
 *
 * native FILE N: FILE holds N cases (struct below, tests/conformance/native.py).  Each is loaded by returning from a signal handler
 * into its registers, runs one instruction followed by INT3, and is caught again by the next signal: SIGTRAP when the
 * instruction completed, another when it faulted.  Results replace the cases in FILE.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define DATA 0x10000000ul           /* two pages, nothing mapped around them */
#define MEM (DATA + 0xF00)          /* the 512 bytes of Case.mem, across the page boundary */
#define CODE 0x20000000ul
#define SLOT 32
#define SLOTS 4096

struct Case {
    uint8_t code[16];
    uint32_t length, mode;           /* mode: 64 or 32 */
    uint64_t gpr[16];                /* in encoding order */
    uint64_t rflags;
    uint8_t fx[512];                 /* the FXSAVE image */
    uint8_t ymmh[256];
    uint8_t mem[512];
    uint32_t vector, error;          /* 3: completed */
    uint64_t cr2, rip;               /* rip: relative to the instruction */
};

static const int GREG[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                             REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
static struct Case *cases;
static long n, at = -1;
static uint8_t *code_rw;

static uint64_t address(long i) { return CODE + (uint64_t)(i % SLOTS) * SLOT; }

static void save(struct Case *k, ucontext_t *u) {
    greg_t *g = u->uc_mcontext.gregs;
    uint8_t *fx = (uint8_t *)u->uc_mcontext.fpregs;
    for (int i = 0; i < 16; i++) k->gpr[i] = g[GREG[i]];
    k->rflags = g[REG_EFL];
    k->vector = g[REG_TRAPNO];
    k->error = g[REG_ERR];
    k->cr2 = g[REG_CR2];
    k->rip = g[REG_RIP] - address(at);
    if (k->vector == 3) k->rip -= 1;
    memcpy(k->fx, fx, 416);
    if (*(uint32_t *)(fx + 464) == 0x46505853u) memcpy(k->ymmh, fx + 576, 256);
    memcpy(k->mem, (void *)MEM, sizeof k->mem);
}

static void load(const struct Case *k, ucontext_t *u) {
    greg_t *g = u->uc_mcontext.gregs;
    uint8_t *fx = (uint8_t *)u->uc_mcontext.fpregs;
    uint8_t *code = code_rw + (at % SLOTS) * SLOT;
    memset(code, 0xCC, SLOT);
    memcpy(code, k->code, k->length);
    for (int i = 0; i < 16; i++) g[GREG[i]] = k->gpr[i];
    g[REG_EFL] = (k->rflags & 0x244CD5) | 0x202;
    g[REG_RIP] = address(at);
    g[REG_CSGSFS] = (g[REG_CSGSFS] & ~0xFFFFul) | (k->mode == 32 ? 0x23 : 0x33);
    memcpy(fx, k->fx, 416);
    if (*(uint32_t *)(fx + 464) == 0x46505853u) {
        *(uint64_t *)(fx + 512) |= 7;
        memcpy(fx + 576, k->ymmh, 256);
    }
    memcpy((void *)MEM, k->mem, sizeof k->mem);
}

static void handler(int sig, siginfo_t *info, void *context) {
    (void)sig; (void)info;
    __builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~0x40000ull);       /* AC: memcpy knows no alignment */
    if (at >= 0) save(&cases[at], context);
    if (++at == n) _exit(0);
    load(&cases[at], context);
}

int main(int argc, char **argv) {
    static uint8_t stack[65536];
    stack_t alt = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction act = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    const int signals[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    if (argc != 3) return 2;
    n = atol(argv[2]);
    int file = open(argv[1], O_RDWR), code = memfd_create("code", 0);
    if (file < 0 || code < 0 || ftruncate(code, SLOT * SLOTS)) return 2;
    cases = mmap(0, n * sizeof *cases, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    code_rw = mmap(0, SLOT * SLOTS, PROT_READ | PROT_WRITE, MAP_SHARED, code, 0);
    void *rx = mmap((void *)CODE, SLOT * SLOTS, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, code, 0);
    void *data = mmap((void *)DATA, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (cases == MAP_FAILED || code_rw == MAP_FAILED || rx != (void *)CODE || data != (void *)DATA) return 2;
    sigaltstack(&alt, 0);
    __asm__ volatile("movl %0, %%ds; movl %0, %%es" : : "r"(0x2B));      /* what 32-bit code reads and writes through */
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &act, 0);
    raise(SIGTRAP);
    return 2;
}
