"""The oracle for single instructions with floating-point and vector state: the same cases on the host's processor and on the emulator.

(Sequences of integer instructions: hostcpu.py; docs/decisions/0009 says why there are two.)

A case is one instruction with all the state it may see: 16 general registers, RFLAGS, the FXSAVE image, the upper
halves of the YMM registers and 512 bytes of memory around ``MEM``.  ``native()`` and ``emulated()`` take an array
of cases and return an array of results of the same shape; ``differences()`` says where they disagree.  The native
half is native.c, compiled once a test run; tests are skipped where there is no compiler or the host is not x86-64.
"""

import mmap
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from xenfast import _core

DATA = 0x10000000                    # two pages, nothing mapped around them
MEM = DATA + 0xF00                   # Case.mem: 512 bytes across the page boundary
CODE = 0x20000000
SLOT, SLOTS = 32, 4096
COMPLETED = 3                        # Case.vector of an instruction that did not fault

FXSAVE = np.dtype({
    "names": ["fcw", "fsw", "ftw", "fop", "fip", "fdp", "mxcsr", "mxcsr_mask", "st", "xmm"],
    "formats": ["u2", "u2", "u1", "u2", "u8", "u8", "u4", "u4", ("u1", (8, 16)), ("u1", (16, 16))],
    "offsets": [0, 2, 4, 6, 8, 16, 24, 28, 32, 160],
    "itemsize": 512,
})
CASE = np.dtype([
    ("code", "u1", 16), ("length", "u4"), ("mode", "u4"), ("gpr", "u8", 16), ("rflags", "u8"), ("fx", FXSAVE),
    ("ymmh", "u1", (16, 16)), ("mem", "u1", 512), ("vector", "u4"), ("error", "u4"), ("cr2", "u8"), ("rip", "u8"),
])
ARITH = 0x8D5                        # CF PF AF ZF SF OF
GPR = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()


@cache
def oracle() -> Path:
    """The compiled native.c."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if platform.machine() != "x86_64" or compiler is None:
        pytest.skip("the oracle needs an x86-64 host and a C compiler")
    program = Path(tempfile.mkdtemp(prefix="xenfast-oracle-")) / "native"
    subprocess.run([compiler, "-O1", "-o", program, Path(__file__).with_name("native.c")], check=True)
    return program


@cache
def host_has(*flags: str) -> bool:
    """Whether /proc/cpuinfo lists all of these features."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    present = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return all(flag in present for flag in flags)


def blank(n: int) -> np.ndarray:
    """n cases with a clean state: no flags, FNINIT, MXCSR default, registers zero but RSP, which points into memory."""
    cases = np.zeros(n, CASE)
    cases["mode"] = 64
    cases["gpr"][:, 4] = MEM + 256
    cases["rflags"] = 2
    cases["fx"]["fcw"] = 0x37F
    cases["fx"]["mxcsr"] = 0x1F80
    cases["fx"]["mxcsr_mask"] = 0xFFFF
    return cases


def set_code(cases: np.ndarray, index: int, code: bytes) -> None:
    cases["code"][index, : len(code)] = np.frombuffer(code, "u1")
    cases["length"][index] = len(code)


def native(cases: np.ndarray) -> np.ndarray:
    """Results of the host's processor."""
    program = oracle()
    directory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        file.write(cases.tobytes())
        file.flush()
        done = subprocess.run([program, file.name, str(len(cases))], timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"the oracle ended with {done.returncode}")
        with mmap.mmap(file.fileno(), 0) as view:
            return np.frombuffer(bytes(view), CASE).copy()


class Emulator:
    """A bare machine in ring 3 of 64-bit or compatibility mode, with the oracle's memory map.

    Instructions run one at a time, by their exec function, or (blocks) as decoded blocks of threaded handlers.
    """

    TABLES = 0x1000                  # PML4, PDPT, PD, two page tables

    def __init__(self, blocks: bool = False) -> None:
        self.blocks = blocks
        self.memory = _core.Memory(256)
        physmap = _core.GuestPhysMap(0x20100)
        self.view = {}               # guest physical address -> its frames
        self.code_mfn = 0
        for base, pages in ((self.TABLES, 5), (DATA, 2), (CODE, SLOT * SLOTS // 4096)):
            mfns = self.memory.alloc(1, pages, contiguous=True)
            physmap.set(base >> 12, mfns)
            self.view[base] = self.memory.view(int(mfns[0]), pages)
            self.code_mfn = int(mfns[0])
        self.vcpu = v = _core.Vcpu(self.memory, physmap)
        tables = np.frombuffer(self.view[self.TABLES], "u8")
        pml4, pdpt, pd, pt_data, pt_code = (self.TABLES + 4096 * i for i in range(5))
        tables[0], tables[512] = pdpt | 7, pd | 7
        tables[1024 + (DATA >> 21)], tables[1024 + (CODE >> 21)] = pt_data | 7, pt_code | 7
        tables[1536:1538] = [DATA + 4096 * i | 7 for i in range(2)]
        tables[2048 : 2048 + SLOT * SLOTS // 4096] = [CODE + 4096 * i | 5 for i in range(SLOT * SLOTS // 4096)]
        v.cr3, v.cr4, v.efer, v.cr0, v.xcr0 = pml4, 0x40620, 0xD01, 0x80000033, 7
        v.set_table("idtr", 0, 0)    # no IDT: exceptions end run()
        for name in ("ss", "ds", "es"):
            v.set_segment(name, 0x2B, 0, 0xFFFFFFFF, 0xC0F3)
        v.cpl = 3
        v.exact = not blocks         # a block ends with the INT3 behind the instruction
        self.mode = 0

    def load(self, cases: np.ndarray) -> list[tuple]:
        """What set_* want of each case, worked out for all of them at once."""
        fx = cases["fx"]
        top = fx["fsw"] >> 11 & 7
        order = (np.arange(8) - top[:, None]) & 7               # physical register -> ST(i)
        st = fx["st"][np.arange(len(cases))[:, None], order]
        se = st[:, :, 8:10].copy().view("u2")[:, :, 0].tolist()
        man = st[:, :, :8].copy().view("u8")[:, :, 0].tolist()
        vectors = np.concatenate([fx["xmm"], cases["ymmh"]], axis=2).reshape(-1, 512)
        general = cases["gpr"].copy().view("u1")
        rflags = cases["rflags"] & 0x244CD5 | 0x202
        fcw, fsw, ftw, mxcsr = (fx[name].tolist() for name in ("fcw", "fsw", "ftw", "mxcsr"))
        return list(zip(cases["mode"].tolist(), general, rflags.tolist(), mxcsr, vectors, fcw, fsw, ftw, se, man,
                        cases["mem"], strict=True))

    def step(self, rip: int, mode, general, rflags, mxcsr, vectors, fcw, fsw, ftw, se, man, mem) -> tuple:
        v = self.vcpu
        if mode != self.mode:
            self.mode = mode
            v.set_segment("cs", *((0x33, 0, 0xFFFFFFFF, 0xA0FB) if mode == 64 else (0x23, 0, 0xFFFFFFFF, 0xC0FB)))
        v.set_general(general)
        v.rip, v.rflags, v.mxcsr = rip, rflags, mxcsr
        v.set_vectors(vectors)
        v.set_x87(fcw, fsw, ftw, list(zip(se, man, strict=True)))
        window = self.view[DATA][0xF00:0x1100]
        window[:] = mem
        reason = v.run(2 if self.blocks else 1)
        vector, error, cr2 = COMPLETED, 0, 0
        if reason == _core.ExitReason.EXIT_EXCEPTION:
            vector, error, cr2 = v.exit_nr, v.exit_code, v.cr2
            if vector == COMPLETED:
                v.rip -= 1
        elif reason != _core.ExitReason.EXIT_BUDGET:
            vector = 1000 + reason
        ran = (v.rip - rip) & 0xFFFFFFFFFFFFFFFF
        return v.general(), v.rflags, ran, v.mxcsr, v.vectors(), v.x87(), bytes(window), vector, error, cr2

    def save(self, out: np.ndarray, results: list[tuple]) -> None:
        general, rflags, rip, mxcsr, vectors, x87, mem, vector, error, cr2 = zip(*results, strict=True)
        n, fx = len(out), out["fx"]
        out["gpr"] = np.frombuffer(b"".join(general), "u8").reshape(n, 16)
        for name, values in (("rflags", rflags), ("rip", rip), ("vector", vector), ("error", error), ("cr2", cr2)):
            out[name] = values
        both = np.frombuffer(b"".join(vectors), "u1").reshape(n, 16, 32)
        fx["mxcsr"], fx["xmm"], out["ymmh"] = mxcsr, both[:, :, :16], both[:, :, 16:]
        fx["fcw"], fx["fsw"], fx["ftw"] = ([x[i] for x in x87] for i in range(3))
        registers = np.array([[(man, se) for se, man in x[3]] for x in x87], "u8").view("u1").reshape(n, 8, 16)
        order = (np.arange(8) + (fx["fsw"] >> 11 & 7)[:, None]) & 7
        fx["st"] = registers[np.arange(n)[:, None], order]
        out["mem"] = np.frombuffer(b"".join(mem), "u1").reshape(n, 512)

    def run(self, cases: np.ndarray) -> np.ndarray:
        out = cases.copy()
        for start in range(0, len(cases), SLOTS):
            part = cases[start : start + SLOTS]
            code = np.full((len(part), SLOT), 0xCC, "u1")
            code[:, :16] = np.where(np.arange(16) < part["length"][:, None], part["code"], 0xCC)
            self.view[CODE][: code.size] = code.tobytes()
            self.memory.wrote(self.code_mfn, SLOT * SLOTS // 4096)
            results = [self.step(CODE + i * SLOT, *x) for i, x in enumerate(self.load(part))]
            self.save(out[start : start + SLOTS], results)
        return out


def emulated(cases: np.ndarray, blocks: bool = False) -> np.ndarray:
    """Results of xenfast: of the exec functions, or (blocks) of threaded handlers."""
    return Emulator(blocks).run(cases)


def image(case: np.void, name: str) -> object:
    """A field of a case as the comparison sees it: a number or bytes."""
    value = case["fx"][name] if name in FXSAVE.names else case[name]
    return value.tobytes() if value.ndim else int(value)


def differences(cases, want, got, fields, *, flags=ARITH, fsw=0xFFFF) -> list[str]:
    """Readable lines for the cases whose results disagree in a field; flags and fsw: the bits that are defined."""
    flags, fsw = (np.broadcast_to(np.asarray(x, "u8"), len(cases)) for x in (flags, fsw))
    out = []
    bad = np.zeros(len(cases), bool)
    for name in fields:
        a, b = ((r["fx"][name] if name in FXSAVE.names else r[name]) for r in (want, got))
        if name == "rflags":
            a, b = a & flags, b & flags
        elif name == "fsw":
            a, b = a & fsw, b & fsw
        bad |= (a != b).reshape(len(cases), -1).any(axis=1)
    for i in np.flatnonzero(bad):
        case = cases[i]
        fx, code = case["fx"], bytes(case["code"][: case["length"]]).hex(" ")
        out.append(f"#{i} {code} (mode {case['mode']}, mxcsr {fx['mxcsr']:#x}, fcw {fx['fcw']:#x}, fsw {fx['fsw']:#x}, "
                   f"ftw {fx['ftw']:#x})")
        for name in fields:
            a, b = image(want[i], name), image(got[i], name)
            if name in ("gpr", "xmm", "ymmh", "st", "mem"):
                step = {"gpr": 8, "mem": 16}.get(name, 16)
                before = image(case, name)
                for k in range(0, len(a), step):
                    if a[k : k + step] != b[k : k + step]:
                        out.append(f"    {name}[{k // step}] was {before[k:k + step][::-1].hex()} "
                                   f"host {a[k:k + step][::-1].hex()} xenfast {b[k:k + step][::-1].hex()}")
            elif a != b:
                out.append(f"    {name} was {image(case, name):#x} host {a:#x} xenfast {b:#x}")
    return out
