"""The commands of xl against a daemon that the first of them starts: verbs, columns, exit statuses."""

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("xenfast._core")

from xenfast import guests
from xenfast.libxl import protocol
from xenfast.xl import cmdtable
from xenfast.xl.listing import uptime_text
from xenfast.xl.main import load, main
from xenfast.xl.options import size_kib


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A directory for a daemon of this module; what it is doing at the end is ended."""
    if not guests.HELLO.exists():
        pytest.skip("the shipped guest was not built")
    directory = tmp_path_factory.mktemp("xl") / "run"
    os.environ[protocol.DIRECTORY] = str(directory)
    yield directory
    main(["daemon", "--stop", "--force"])
    del os.environ[protocol.DIRECTORY]


@pytest.fixture
def domain(daemon, guest, tmp_path, capsys):
    """A domain that sleeps, made as a user makes it."""
    (tmp_path / "one.cfg").write_text(f'name = "one"\nkernel = "{guest("pv64-sleep")}"\nmemory = 8\nmaxmem = 16\nvcpus = 2\n')
    assert main(["create", "-q", str(tmp_path / "one.cfg")]) == 0
    capsys.readouterr()
    yield "one"
    main(["destroy", "one"])
    capsys.readouterr()


def said(capsys, *arguments, status=0):
    assert main(list(arguments)) == status, capsys.readouterr().err
    return capsys.readouterr().out


def test_list(domain, capsys):
    """The columns are xl's: a name of 40, number, MiB, vcpus, six letters of state, seconds."""
    lines = said(capsys, "list").splitlines()
    assert lines[0] == "Name                                        ID   Mem VCPUs\tState\tTime(s)"
    assert re.fullmatch(r"Domain-0 {32} {5}0 +\d+ +\d+     r-----  +\d+\.\d", lines[1])
    assert re.fullmatch(r"one {37} +\d+     8     1     [r-][b-]----  +\d+\.\d", lines[2])
    info = json.loads(said(capsys, "list", "--json", "one"))[0]
    assert info["name"] == "one" and info["maxmem_kib"] == 16384
    assert json.loads(said(capsys, "list", "-l"))[0]["config"]["kernel"]
    assert info["uuid"] in said(capsys, "list", "-v") and "Pool-0" in said(capsys, "list", "-c")
    assert said(capsys, "list", "nobody", status=1) == ""


def test_names_and_numbers(domain, capsys):
    """domid, domname, vm-list, rename."""
    number = said(capsys, "domid", "one").strip()
    assert said(capsys, "domname", number) == "one\n"
    assert number in said(capsys, "vm-list")
    said(capsys, "rename", "one", "two")
    said(capsys, "rename", number, "one")


def test_pause(domain, capsys):
    """A paused domain has a p in its state."""
    said(capsys, "pause", "one")
    assert "--p---" in said(capsys, "list", "one")
    said(capsys, "unpause", "one")
    assert "--p---" not in said(capsys, "list", "one")


def test_processors_and_memory(domain, capsys):
    """vcpu-list, vcpu-pin, vcpu-set, mem-set, mem-max, sched-credit: what is set is shown."""
    said(capsys, "vcpu-pin", "one", "all", "0", "all")
    lines = said(capsys, "vcpu-list", "one").splitlines()
    assert lines[0].split() == ["Name", "ID", "VCPU", "CPU", "State", "Time(s)", "Affinity", "(Hard", "/", "Soft)"]
    assert lines[1].endswith(("0 / all", "all / all")) and len(lines) == 3
    said(capsys, "vcpu-set", "one", "1")
    assert said(capsys, "xenstore-read", f"/local/domain/{said(capsys, 'domid', 'one').strip()}/cpu/1/availability") == "offline\n"
    said(capsys, "mem-set", "one", "12m")
    assert main(["mem-set", "one", "1g"]) == main(["mem-max", "one", "4m"]) == main(["vcpu-set", "one", "3"]) == 1
    said(capsys, "sched-credit", "-d", "one", "-w", "512", "-c", "50")
    assert re.search(r"^one {30} +\d+    512   50$", said(capsys, "sched-credit"), re.M)
    said(capsys, "sched-credit", "-d", "one", "-w", "256", "-c", "0")


def test_the_host(domain, capsys):
    """info, dmesg, debug-keys, uptime, top, metrics, daemon --status."""
    text = said(capsys, "info")
    assert "xen_major              : 4\n" in text and "xen_scheduler          : credit\n" in text
    said(capsys, "debug-keys", "q")
    assert "General information for domain" in said(capsys, "dmesg", "-c") and said(capsys, "dmesg") == ""
    assert re.search(r"^one {30} +\d+  0:00:\d\d$", said(capsys, "uptime"), re.M)
    assert "one" in said(capsys, "top", "-b", "-i", "1")
    assert 'xenfast_domain_vcpus{domain="one"' in said(capsys, "metrics")
    assert json.loads(said(capsys, "daemon", "--status", "--json"))["running"]


def test_the_store(domain, capsys):
    """xenstore-write, -read, -list, -ls, -chmod, -exists, -rm."""
    said(capsys, "xenstore-write", "/own/test", "a b", "/own/other", "c")
    assert said(capsys, "xenstore-read", "-p", "/own/test") == "/own/test: a b\n"
    assert said(capsys, "xenstore-list", "/own").split() == ["test", "other"]
    said(capsys, "xenstore-chmod", "/own/test", "n0", "r3")
    assert said(capsys, "xenstore-ls", "-f", "-p", "/own").splitlines()[0] == '/own/test = "a b"  (n0,r3)'
    assert said(capsys, "xenstore-ls", "/own") == 'test = "a b"\nother = "c"\n'
    said(capsys, "xenstore-exists", "/own/test")
    said(capsys, "xenstore-rm", "/own/test")
    said(capsys, "xenstore-exists", "/own/test", status=1)
    said(capsys, "xenstore-read", "/own/test", status=1)


def test_disks(domain, capsys, tmp_path):
    """block-attach shows up in block-list; a guest without a driver loses a disk only by force."""
    (tmp_path / "disk").write_bytes(bytes(4096))
    said(capsys, "block-attach", "one", f"{tmp_path}/disk,raw,xvdb,w")
    assert re.search(r"^51728 0   51728  1 ", said(capsys, "block-list", "one"), re.M)
    assert main(["block-attach", "one", f"{tmp_path}/disk,raw,xvdb,w"]) == 1
    said(capsys, "block-detach", "-f", "one", "xvdb")
    assert len(said(capsys, "block-list", "one").splitlines()) == 1


def test_dry_run(daemon, tmp_path, capsys):
    """create -N reads and checks, prints libxl's JSON, and makes nothing; -N may stand before the command."""
    (tmp_path / "one.cfg").write_text('name = "dry"\nkernel = "/vmlinuz"\nmemory = 64\ndisk = ["a.img,raw,xvda,w"]\n')
    for arguments in (["create", "-N"], ["-N", "create"]):
        got = json.loads(said(capsys, *arguments, str(tmp_path / "one.cfg"), "vcpus=2"))
        assert got["b_info"]["target_memkb"] == 65536 and got["b_info"]["avail_vcpus"] == [0, 1]
        assert got["disks"] == [{"pdev_path": "a.img", "vdev": "xvda", "format": "raw", "readwrite": 1}]
    assert "dry" not in said(capsys, "list")
    assert main(["-N", "list"]) == 1


def test_console(daemon, guest, tmp_path):
    """create -c attaches before the first instruction; what is typed arrives; the console ends with the domain."""
    (tmp_path / "echo.cfg").write_text(f'name = "echo"\nkernel = "{guest("pv64-echo")}"\nmemory = 8\n')
    done = subprocess.run([sys.executable, "-m", "xenfast", "create", "-q", "-c", str(tmp_path / "echo.cfg")], input="hello\n",
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "say something" in done.stdout and "you said: hello" in done.stdout


def test_mistakes(daemon, capsys, tmp_path):
    """One sentence, exit status 1."""
    (tmp_path / "bad.cfg").write_text('name = "bad"\nkernel = "/nowhere"\n')
    for arguments in (["create"], ["create", str(tmp_path / "bad.cfg")], ["create", "a.cfg", "b.cfg"], ["destroy", "nobody"], ["pause"],
                      ["shutdown"], ["shutdown", "-a", "x"], ["sched-credit", "-w", "3"], ["mem-set", "x", "lots"], ["list", "--what"],
                      ["destroy", "0"], ["console", "nobody"], ["xenstore-write", "/a"], ["vcpu-pin", "0", "x", "1"]):
        assert main(arguments) == 1, arguments
        error = capsys.readouterr().err
        assert error.splitlines()[-1].startswith("xenfast: ") and "Traceback" not in error


@pytest.mark.parametrize("command", [c for c in cmdtable.COMMANDS if c.name not in ("version", "help", "completion", "run", "img")],
                         ids=lambda c: c.name)
def test_help(command, capsys):
    """Every command has a module, and explains itself by help COMMAND."""
    assert callable(load(command)) and main(["help", command.name]) == 0
    assert command.name in capsys.readouterr().out


def test_completion(capsys):
    """The script for bash names every command."""
    text = said(capsys, "completion")
    assert all(command.name in text for command in cmdtable.COMMANDS)


def test_formats():
    """Sizes and times as xl reads and prints them."""
    assert [size_kib(text) for text in ("2", "2k", "2M", "1g", "4096b")] == [2048, 2, 2048, 1 << 20, 4]
    assert uptime_text(3723, True) == " 1:02:03" and uptime_text(2 * 86400 + 60, False) == "2 days,  0:01"


def test_thin_clients_do_not_import_the_machine(daemon):
    """A command that only asks imports neither numpy nor the core, so that it is quick."""
    code = "import sys; from xenfast.xl.main import main; main(['list']); assert not {'numpy', 'xenfast._core'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0
