"""python -m tests.fuzz [--seed N] [--first N] [--cases N | --seconds S] [--limit S]: random machines in a child process.

Of eight cases one is a PV guest, four are bare machines that are played three times (by decoded blocks, one instruction at
a time, and translated, which must agree), three are played once.

The child writes the number of each case before it plays it; a child that dies, or takes longer than the limit over one
case, is reported with that number, and the next one starts behind it.  Every case is a function of seed, number and the
table of opcodes: --first N --cases 1 plays it again.  For AddressSanitizer: make fuzz, or docs/support.md, "Proof".
"""

from __future__ import annotations

import argparse
import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time

CHUNK = 1 << 40


def child(path: str, seed: int, first: int, last: int, seconds: float) -> int:
    """Play cases; the shared page holds: number of the case, cases done, instructions, disagreements."""
    from tests.fuzz import cases, play, pv

    with open(path, "r+b") as file:
        page = mmap.mmap(file.fileno(), 4096)
    board = play.Board()
    end = time.monotonic() + seconds
    done, instructions, wrong = struct.unpack_from("<3Q", page, 8)
    for number in range(first, last):
        if time.monotonic() > end:
            break
        struct.pack_into("<4Q", page, 0, number, done, instructions, wrong)
        if number % 8 == 7:
            instructions += pv.play(seed, number)
            done += 1
            continue
        case = cases.make(seed, number)
        if number % 2:
            log, _ = play.play(case, board, play.WAYS[-1], exact=False)
            instructions += sum(entry[2] for entry in log)
        else:
            lines = play.differences(case, board)
            instructions += len(lines)
            if lines:
                wrong += 1
                print(f"seed {seed}, case {number} ({case.mode}): the ways to run it disagree", *lines, sep="\n    ", flush=True)
        done += 1
    struct.pack_into("<4Q", page, 0, number, done, instructions, wrong)
    return 0


def supervise(seed: int, first: int, count: int, seconds: float, limit: float) -> tuple[int, int]:
    """Run children until the cases or the time are used up; returns (cases, failures)."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(4096))
        file.flush()
        page = mmap.mmap(file.fileno(), 4096)
        start, failures, last = time.monotonic(), 0, first + count
        while first < last and time.monotonic() - start < seconds:
            left = seconds - (time.monotonic() - start)
            command = [sys.executable, "-m", "tests.fuzz", "--child", file.name, "--seed", str(seed), "--first", str(first), "--cases",
                       str(last - first), "--seconds", str(left)]
            process = subprocess.Popen(command)
            seen, since, hung = -1, time.monotonic(), False
            while process.poll() is None:
                time.sleep(0.05)
                done = struct.unpack_from("<Q", page, 8)[0]
                if done != seen:
                    seen, since = done, time.monotonic()
                elif time.monotonic() - since > limit:
                    hung = True
                    process.send_signal(signal.SIGKILL)
                    process.wait()
            number, done, instructions, wrong = struct.unpack_from("<4Q", page)
            if process.returncode == 0:
                break
            failures += 1
            what = f"hangs (more than {limit:g} s)" if hung else f"ends the process ({process.returncode})"
            print(f"seed {seed}, case {number} {what}; again with: --seed {seed} --first {number} --cases 1", flush=True)
            first = number + 1
        number, done, instructions, wrong = struct.unpack_from("<4Q", page)
        took = time.monotonic() - start
        print(f"seed {seed}: {done:,} cases in {took:.0f} s, {failures} ended or hung, {wrong} disagreements", flush=True)
        return done, failures + wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=CHUNK)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--limit", type=float, default=20)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        return child(a.child, a.seed, a.first, a.first + a.cases, a.seconds)
    os.nice(19)
    return 1 if supervise(a.seed, a.first, a.cases, a.seconds, a.limit)[1] else 0


if __name__ == "__main__":
    sys.exit(main())
