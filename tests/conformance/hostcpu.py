"""The host CPU as an oracle for sequences of integer instructions (docs/decisions/0009): run them natively, in a
child process, and report registers, flags and memory.

Everything lives at fixed addresses below 2 GiB (``BASE``), so that the same code bytes and register values mean the
same natively and in the emulator: a control page, a trampoline that loads all registers and flags and saves them
again, a page for the code under test, and a data window. A fault (SIGFPE, SIGSEGV, SIGILL, SIGBUS, SIGTRAP) is caught
on an alternate stack by a machine-code handler that resumes at the saving half. 32-bit code runs in compatibility
mode through the kernel's selector 23h, where the host has one.

Run as a program it reads pickled cases from stdin and writes pickled results to stdout.
"""

from __future__ import annotations

import ctypes
import mmap
import pickle
import platform
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass

BASE = 0x30000000
CODE = BASE + 0x2000
DATA, DATA_SIZE = BASE + 0x4000, 0x2000
WINDOW_SIZE = 512                # what the data operands and the stack point into; nothing is mapped behind it
WINDOW = DATA + DATA_SIZE - WINDOW_SIZE
SIZE = 0x6000

IN, OUT, HOST_RSP, SIG, SIG_RIP, FAR32 = BASE, BASE + 0x100, BASE + 0x200, BASE + 0x208, BASE + 0x210, BASE + 0x218
ENTER, ENTER32, EXIT, HANDLER = BASE + 0x1000, BASE + 0x1200, BASE + 0x1400, BASE + 0x1600

ARITH = 0x8D5
VECTORS = {8: 0, 11: 13, 4: 6, 7: 17, 5: 3}        # signal -> exception (SIGSEGV may also be #PF or #SS)
ENDLESS = signal.SIGVTALRM         # the code did not come to an end


@dataclass
class Case:
    code: bytes
    regs: list[int]
    flags: int = 0x202
    data: bytes = bytes(WINDOW_SIZE)
    mode: int = 64
    undefined: int = 0           # flags not to compare
    text: str = ""


@dataclass
class Result:
    regs: list[int]
    flags: int
    data: bytes
    signal: int = 0
    rip: int = 0


def available() -> bool:
    return platform.machine() == "x86_64" and sys.platform == "linux"


# -- machine code -----------------------------------------------------------------------------------------------------
def _mov(load: bool, reg: int, address: int) -> bytes:
    """mov reg, [address] or back."""
    opcode = [0x48 | (4 if reg > 7 else 0), 0x8B if load else 0x89, 0x04 | (reg & 7) << 3, 0x25]
    return bytes(opcode) + struct.pack("<I", address)


def _jmp(at: int, to: int) -> bytes:
    return b"\xe9" + struct.pack("<i", to - at - 5)


def _trampoline() -> dict[int, bytes]:
    abs32 = struct.Struct("<I").pack
    save = bytes.fromhex("53554154415541564157")                           # push rbx rbp r12-r15
    restore = bytes.fromhex("415f415e415d415c5d5bc3")
    enter = save + _mov(False, 4, HOST_RSP) + b"\xff\x34\x25" + abs32(IN + 128) + b"\x9d"
    enter32 = save + _mov(False, 4, HOST_RSP) + bytes.fromhex("b82b0000008ed88ec0")           # ds = es = 2Bh
    enter32 += b"\xff\x34\x25" + abs32(IN + 128) + b"\x9d"
    load = b"".join(_mov(True, r, IN + 8 * r) for r in range(16) if r != 4) + _mov(True, 4, IN + 32)
    enter += load
    enter += _jmp(ENTER + len(enter), CODE)
    enter32 += load + b"\xff\x2c\x25" + abs32(FAR32)                       # jmp far [FAR32]
    leave = b"".join(_mov(False, r, OUT + 8 * r) for r in range(16)) + _mov(True, 4, HOST_RSP)
    leave += b"\x9c\x8f\x04\x25" + abs32(OUT + 128) + b"\xfc" + restore    # pushfq; pop [OUT.flags]; cld
    # An alarm that comes while no case runs is ignored; the next one is 50 ms of processor time later.
    handler = bytes.fromhex("83ff1a7516488b82a8000000482d") + abs32(CODE) + b"\x48\x3d" + abs32(BASE + SIZE - CODE)
    handler += bytes.fromhex("7201c3")                                     # cmp edi, SIGVTALRM; rip - CODE >= ...: ret
    handler += _mov(False, 7, SIG) + bytes.fromhex("488b82a8000000") + _mov(False, 0, SIG_RIP)
    handler += b"\x48\xc7\xc0" + abs32(EXIT)
    handler += bytes.fromhex("488982a800000066c782b80000003300c3")         # in the ucontext: rip = EXIT, cs = 33h
    return {ENTER: enter, ENTER32: enter32, EXIT: leave, HANDLER: handler}


class Native:
    """The oracle itself; make one in a process of its own."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100000            # MAP_FIXED_NOREPLACE
        if self.libc.mmap(BASE, SIZE, 7, flags, -1, 0) != BASE:
            raise OSError(ctypes.get_errno(), "cannot map the oracle's pages")
        for address, code in _trampoline().items():
            ctypes.memmove(address, code, len(code))
        ctypes.memmove(FAR32, struct.pack("<IH", CODE, 0x23), 6)
        self._signals()
        self.enter = {64: ctypes.CFUNCTYPE(None)(ENTER), 32: ctypes.CFUNCTYPE(None)(ENTER32)}

    def _signals(self) -> None:
        class Stack(ctypes.Structure):
            _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

        class Action(ctypes.Structure):
            _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16), ("flags", ctypes.c_int),
                        ("restorer", ctypes.c_void_p)]

        self.stack = ctypes.create_string_buffer(1 << 16)
        assert self.libc.sigaltstack(ctypes.byref(Stack(ctypes.addressof(self.stack), 0, 1 << 16)), None) == 0
        for number in (*VECTORS, ENDLESS):
            action = Action(HANDLER, (ctypes.c_ulong * 16)(), 0x48000004)         # SA_NODEFER, SA_ONSTACK, SA_SIGINFO
            assert self.libc.sigaction(number, ctypes.byref(action), None) == 0

    def run(self, case: Case) -> Result:
        back = _jmp(CODE + len(case.code), EXIT) if case.mode == 64 else b"\xea" + struct.pack("<IH", EXIT, 0x33)
        code = case.code + back
        ctypes.memmove(CODE, code, len(code))
        ctypes.memmove(WINDOW, case.data, WINDOW_SIZE)
        ctypes.memmove(IN, struct.pack("<17Q", *case.regs, case.flags), 136)
        ctypes.memmove(SIG, bytes(16), 16)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.05, 0.05)
        self.enter[case.mode]()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        out = struct.unpack("<17Q", ctypes.string_at(OUT, 136))
        caught, rip = struct.unpack("<QQ", ctypes.string_at(SIG, 16))
        return Result(list(out[:16]), out[16], ctypes.string_at(WINDOW, WINDOW_SIZE), caught, rip)


def run_all(cases: list[Case], timeout: float = 120) -> list[Result]:
    """Run the cases in a child process."""
    work = pickle.dumps([(c.code, c.regs, c.flags, c.data, c.mode) for c in cases])
    child = subprocess.run([sys.executable, __file__], input=work, capture_output=True, timeout=timeout, check=False)
    if child.returncode:
        raise RuntimeError(f"the native oracle ended with {child.returncode}: {child.stderr.decode()[-2000:]}")
    return [Result(*fields) for fields in pickle.loads(child.stdout)]


def _main() -> None:
    native = Native()
    results = [native.run(Case(*fields)) for fields in pickle.loads(sys.stdin.buffer.read())]
    sys.stdout.buffer.write(pickle.dumps([(r.regs, r.flags, r.data, r.signal, r.rip) for r in results]))


if __name__ == "__main__":
    _main()
