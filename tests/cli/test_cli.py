"""The command line: what it prints, its exit status, and one clear sentence for everything a user can get wrong."""

import json
import os
import signal
import subprocess
import sys
import termios
import time

import pytest

from tests.libxl.elfmaker import PV_NOTES, make
from xenfast.abi import elfnote
from xenfast.xl.cmdtable import COMMANDS
from xenfast.xl.main import load, main

TRACE = ["trace", "trace-file", "trace-start", "trace-count"]


def xenfast(*arguments: str, **options) -> subprocess.CompletedProcess:
    """The command in a process of its own, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "xenfast", *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


def read_until(fd: int, text: bytes) -> bytes:
    """Read from a terminal until the text has come."""
    shown, end = b"", time.monotonic() + 60
    while text not in shown:
        assert time.monotonic() < end, shown
        shown += os.read(fd, 4096)
    return shown


def test_table_of_commands(capsys):
    """Every command in the table has its function, and help lists it."""
    assert main(["help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert callable(load(command)) and command.help in text


@pytest.mark.parametrize("arguments", [["version"], ["--version"], ["-V"], ["ver"]])
def test_version(arguments, capsys):
    """The version is said by command or option, and a command may be shortened."""
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("xenfast 0.")


def test_help_of_run(capsys):
    """``help run`` and ``run --help`` explain every option."""
    for arguments in (["help", "run"], ["run", "--help"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        for option in "kernel ramdisk cmdline memory vcpus disk expect timeout json clock seed engine cpu".split() + TRACE:
            assert f"--{option}" in text


@pytest.fixture
def files(tmp_path):
    """Kernels and disks, good and bad, by name."""
    kernel = make(PV_NOTES)
    contents = {
        "good.elf": kernel,
        "truncated.elf": kernel[:150],
        "pvh.elf": make({elfnote.XEN_ELFNOTE_PHYS32_ENTRY: 0x100000}),
        "plain.elf": make({}),
        "arm.elf": make({}, machine=183),
        "script.sh": b"#!/bin/sh\necho hello\n" * 50,
        "empty": b"",
        "odd.img": bytes(1000),
        "disk.img": bytes(1 << 20),
        "wrong.cfg": b'kernel = "x"\nmemory = "much"\n',
        "binary.cfg": bytes(range(256)),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


BAD = [
    (["frobnicate"], "there is no command 'frobnicate'"),
    (["rum"], "did you mean 'run'"),
    (["run", "--frobnicate"], "unrecognized arguments: --frobnicate"),
    (["run", "--kernel"], "expected one argument"),
    (["run", "--kernel", "missing"], "cannot read the kernel missing: No such file"),
    (["run", "--kernel", "."], "cannot read the kernel .: Is a directory"),
    (["run", "--kernel", "truncated.elf"], "truncated"),
    (["run", "--kernel", "pvh.elf"], "no PV entry point; it has a PVH entry and could run as a PVH guest"),
    (["run", "--kernel", "plain.elf"], "could only run as an HVM guest"),
    (["run", "--kernel", "arm.elf"], "for AArch64, not for x86"),
    (["run", "--kernel", "script.sh"], "neither an ELF image nor a bzImage"),
    (["run", "--kernel", "empty"], "neither an ELF image nor a bzImage"),
    (["run", "--kernel", "good.elf", "--ramdisk", "missing"], "cannot read the ramdisk missing"),
    (["run", "--kernel", "good.elf", "--memory", "0"], "cannot have 0 MiB"),
    (["run", "--kernel", "good.elf", "--memory", "-5"], "cannot be -5"),
    (["run", "--kernel", "good.elf", "--memory", "lots"], "needs a number, not 'lots'"),
    (["run", "--kernel", "good.elf", "--memory", "99999999999"], "this machine has"),
    (["run", "--kernel", "good.elf", "--memory", "1"], "too small"),
    (["run", "--kernel", "good.elf", "--vcpus", "1000"], "more than the 32"),
    (["run", "--kernel", "good.elf", "--disk", "missing.img,raw,xvda,w"], "missing.img"),
    (["run", "--kernel", "good.elf", "--disk", "disk.img,qed,xvda,w"], "is not supported"),
    (["run", "--kernel", "good.elf", "--disk", "disk.img,raw,floppy,w"], "no device called 'floppy'"),
    (["run", "--kernel", "good.elf", "--expect", "("], "not a regular expression"),
    (["run", "--kernel", "good.elf", "--timeout", "soon"], "needs a number"),
    (["run", "--kernel", "good.elf", "--clock", "sundial"], "invalid choice"),
    (["run", "wrong.cfg"], "wrong.cfg: 'memory' must be a number, not 'much'"),
    (["run", "binary.cfg"], "is not"),
    (["run", "missing.cfg"], "cannot read the configuration missing.cfg"),
    (["run", "wrong.cfg", "binary.cfg"], "one configuration file is enough"),
    (["run", "vcpus=many", "--kernel", "good.elf"], "neither a string in quotes, a number nor a list"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input(arguments, says, files, capsys, monkeypatch):
    """Whatever is wrong, the command says so in one line, without a traceback, and its exit status is 1."""
    if any(argument in arguments for argument in ("--memory", "--disk", "--ramdisk")) or "good.elf" not in arguments:
        pytest.importorskip("xenfast.libxl.device")
    monkeypatch.chdir(files)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("xenfast: ") and error.count("\n") == 1


def test_internal_errors_say_so(capsys, monkeypatch):
    """A bug of ours is one sentence too, and says how to see where."""
    monkeypatch.setattr("xenfast.xl.version.main", lambda arguments: 1 // 0)
    assert main(["version"]) == 1
    assert "internal error: ZeroDivisionError" in capsys.readouterr().err


def test_keys_override_the_file(tmp_path):
    """KEY=VALUE and options override what the configuration file says."""
    from xenfast.xl import run

    path = tmp_path / "guest.cfg"
    path.write_text('kernel = "k"\nmemory = 64\nvcpus = 1\ndisk = ["a,raw,xvda,w"]\n')
    arguments = [str(path), "memory=128", "extra='quiet'", "--vcpus", "2", "--disk", "b,raw,xvdb,r"]
    options = run.parser().parse_args(arguments)
    got = run.configuration(options)
    assert (got.memory, got.vcpus, got.cmdline, got.name) == (128, 2, "quiet", "guest")
    assert [disk.vdev for disk in got.disks] == ["xvda", "xvdb"]


def test_import_is_cheap():
    """``import xenfast`` imports neither numpy nor the core."""
    code = "import xenfast, sys; print(sorted({'numpy', 'xenfast._core', 'argparse'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


class TestRunning:
    """``xenfast run`` with guests that run."""

    @pytest.fixture(autouse=True)
    def _needs(self):
        pytest.importorskip("xenfast._core")
        pytest.importorskip("xenfast.libxl.device")

    def test_shipped_guest(self, tmp_path):
        """Without arguments the shipped guest runs, console on standard output; the JSON file says what was counted."""
        report = tmp_path / "report.json"
        result = xenfast("run", "--json", report)
        assert result.returncode == 0, result.stderr
        assert "Hello from a PV guest." in result.stdout
        assert result.stderr == "xenfast: the domain ended (poweroff)\n"
        counted = json.loads(report.read_text())
        assert counted["ended"] == "poweroff" and counted["exit_status"] == 0
        assert counted["instructions"] > 1000 and counted["hypercalls"]["sched_op"] >= 1
        assert counted["wall_seconds"] > 0 and "guest_seconds" in counted and counted["disks"] == {}
        assert counted["engine"] in ("translator", "interpreter")

    def test_interpreter_only(self, tmp_path):
        """--engine interp translates nothing, and the guest says the same."""
        report = tmp_path / "report.json"
        result = xenfast("run", "--engine", "interp", "--json", report)
        assert result.returncode == 0 and "Hello from a PV guest." in result.stdout
        counted = json.loads(report.read_text())
        assert counted["engine"] == "interpreter" and counted["blocks_translated"] == 0

    def test_expect(self, tmp_path):
        """--expect: status 0 when the text is seen, 1 when the guest ends without."""
        assert xenfast("run", "--expect", "Hello from .* guest").returncode == 0
        result = xenfast("run", "--expect", "Hello from the moon")
        assert result.returncode == 1
        assert "ended (poweroff) before 'Hello from the moon' was seen" in result.stderr

    def test_timeout(self, guest):
        """--timeout: status 1, with what did not happen."""
        result = xenfast("run", "--kernel", guest("pv64-spin"), "--memory", "8", "--timeout", "0.5")
        assert result.returncode == 1
        assert "0.5 seconds have passed and the domain has not ended" in result.stderr

    def test_crash(self, guest):
        """A crash: status 1, the registers on standard error, and the reason in the last line."""
        result = xenfast("run", "--kernel", guest("pv64-no-handler"), "--memory", "8")
        assert result.returncode == 1
        assert "rip" in result.stderr.lower()
        assert result.stderr.splitlines()[-1].startswith("xenfast: the domain crashed")

    def test_reboot(self, guest, tmp_path):
        """A reboot starts the guest again, unless on_reboot says otherwise."""
        kernel = guest("pv64-reboot")
        once = xenfast("run", "--kernel", kernel, "--memory", "8", "on_reboot='destroy'")
        assert once.returncode == 0 and once.stdout.count("rebooting") == 1
        again = xenfast("run", "--kernel", kernel, "--memory", "8", "--timeout", "20")
        assert again.returncode == 1 and again.stdout.count("rebooting") > 1

    def test_virtual_clock_repeats(self, guest):
        """--clock virtual --seed: two runs give the same numbers."""
        reports = []
        for _ in range(2):
            result = xenfast("run", "-q", "--clock", "virtual", "--seed", "3", "--json", "-")
            report = json.loads(result.stdout[result.stdout.index("{") :])
            reports.append([report[key] for key in ("instructions", "guest_seconds", "hypercalls", "console_bytes")])
        assert reports[0] == reports[1]

    def test_json_says_what_was_wrong(self, tmp_path):
        """The JSON file is written for bad input too."""
        report = tmp_path / "report.json"
        assert xenfast("run", "--kernel", "missing", "--json", report).returncode == 1
        assert "cannot read the kernel" in json.loads(report.read_text())["reason"]

    def test_terminal(self, guest):
        """On a terminal what is typed reaches the guest, Ctrl-] leaves, and the terminal is as it was."""
        master, slave = os.openpty()
        before = termios.tcgetattr(slave)
        kernel = guest("pv64-echo")
        command = [sys.executable, "-m", "xenfast", "run", "--memory", "8", "--kernel", str(kernel)]
        for typed, says, status in ((b"hello\r", b"you said: hello", 0), (b"\x1d", b"Ctrl-]", 1)):
            with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave) as process:
                shown = read_until(master, b"say something")
                os.write(master, typed)
                shown += read_until(master, says)
                assert process.wait(30) == status
        assert termios.tcgetattr(slave) == before
        os.close(slave)
        os.close(master)

    def test_interrupt(self, guest):
        """Ctrl-C without a terminal: one sentence, status 1."""
        command = [sys.executable, "-m", "xenfast", "run", "--memory", "8", "--kernel", str(guest("pv64-spin"))]
        with subprocess.Popen(
            [*command, "--timeout", "60"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),    # background jobs ignore it
        ) as process:  # fmt: skip
            assert process.stdout is not None and process.stderr is not None
            assert "spinning" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.stderr.read() == "xenfast: interrupted\n"
        assert process.returncode == 1

    def test_closed_output(self):
        """Output into a closed pipe ends the command without a traceback."""
        read, write = os.pipe()
        os.close(read)
        result = subprocess.run(
            [sys.executable, "-m", "xenfast", "run"],
            stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
        os.close(write)
        assert result.returncode == 1 and "Traceback" not in result.stderr
