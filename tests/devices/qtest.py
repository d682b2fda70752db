"""QEMU's ``pc`` machine, stopped, as an oracle for registers: its qtest interface reads and writes ports and raises lines."""

import contextlib
import shutil
import subprocess

import pytest

COMMAND = "qemu-system-x86_64 -machine pc,accel=tcg -nodefaults -display none -S -qtest stdio -qtest-log /dev/null"


class Qtest:
    def __init__(self, *options):
        self.process = subprocess.Popen([*COMMAND.split(), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        status, *rest = self.process.stdout.readline().split()
        assert status == "OK", line
        return int(rest[0], 16) if rest else None

    def read(self, port, size):
        return self.ask(f"in{'_bw_l'[size]} {port:#x}")

    def write(self, port, size, value):
        self.ask(f"out{'_bw_l'[size]} {port:#x} {value:#x}")

    def mem_read(self, address, size):
        return self.ask(f"read{'_bw_l___q'[size]} {address:#x}")

    def mem_write(self, address, size, value):
        self.ask(f"write{'_bw_l___q'[size]} {address:#x} {value:#x}")

    def line(self, path, number, level):
        self.ask(f"set_irq_in {path} unnamed-gpio-in {number} {int(level)}")

    def close(self):
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()


@contextlib.contextmanager
def qemu(*options):
    """A stopped QEMU for the length of a test, which is skipped where there is none."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("qemu-system-x86_64 is not installed")
    machine = Qtest(*options)
    try:
        yield machine
    finally:
        machine.close()
