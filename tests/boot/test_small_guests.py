"""Whole runs of small PV guests (tests/guests): builder, core, hypervisor, console and toolstack together."""

import pytest

pytest.importorskip("xenfast._core")
pytest.importorskip("xenfast.libxl.device")

import xenfast
from xenfast import guests

TIMEOUT = 30


@pytest.fixture(params=["real", "virtual"])
def host(request):
    with xenfast.Host(memory=64, clock=request.param) as machine:
        yield machine


def run(host, kernel, **settings):
    """Run a guest to its end; returns (how it ended, what it printed)."""
    domain = host.create({"kernel": kernel, "memory": 8, **settings})
    how = domain.wait(TIMEOUT)
    return how, domain.console.text.replace("\r", "")


def test_hello(host):
    """The guest that is shipped prints what it was given and powers off."""
    domain = host.create({"kernel": guests.HELLO, "memory": 16, "cmdline": "one two"})
    assert domain.wait(TIMEOUT) == "poweroff"
    text = domain.console.text
    for line in ("Hello from a PV guest.", "xen-3.0-x86_64", "16 MiB in 4096 pages", "one two", "Powering off."):
        assert line in text
    assert "0x0 + 0x1000000, type 1" in text
    counted = domain.stats()
    assert counted["hypercalls"]["console_io"] == 1
    assert 0 < counted["instructions"] < 1_000_000


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pv64-hypercall-page", "page and SYSCALL agree\n"),
        ("pv64-evtchn", "upcalls: 101\n"),
        ("pv64-grant", "status: 0, copied: a granted page\n"),
        ("pv64-wild", "still here\n"),
    ],
)
def test_guests_that_check_themselves(host, guest, name, says):
    """Each guest's first lines say what it checks; it powers off when all was as it should be."""
    assert run(host, guest(name)) == ("poweroff", says)


def test_smp(host, guest):
    """A guest brings up its other vcpus by VCPUOP_initialise and VCPUOP_up."""
    assert run(host, guest("pv64-smp"), vcpus=4) == ("poweroff", "all vcpus are up\n")


def test_reboot(host, guest):
    """A guest that asks to be rebooted has ended so."""
    assert run(host, guest("pv64-reboot")) == ("reboot", "rebooting\n")


def test_console_input(host, guest):
    """What is sent to the console reaches the guest, also when it is more than the ring holds."""
    domain = host.create({"kernel": guest("pv64-echo"), "memory": 8})
    domain.console.expect("say something", TIMEOUT)
    domain.console.sendline("abc" * 500)
    match = domain.console.expect(r"you said: (\w*)\r?\n", TIMEOUT)
    assert match[1] == "abc" * 500
    assert domain.wait(TIMEOUT) == "poweroff"


@pytest.mark.parametrize("name", ["pv64-no-handler", "pv64-bad-stack"])
def test_crash(host, guest, name):
    """A guest that leaves Xen no way to go on is crashed with a readable register dump; the host runs the next one."""
    domain = host.create({"kernel": guest(name), "memory": 8})
    assert domain.wait(TIMEOUT) == "crash"
    assert "about to" in domain.console.text
    assert domain.crash_reason
    for word in ("rip", "rsp", "rax"):
        assert word in domain.crash_dump.lower()
    domain.destroy()
    assert run(host, guest("pv64-reboot"))[0] == "reboot"


def test_spinning_guest_can_be_ended(host, guest):
    """A guest that spins with upcalls masked does not keep the host from timing out, destroying it and going on."""
    domain = host.create({"kernel": guest("pv64-spin"), "memory": 8})
    domain.console.expect("spinning", TIMEOUT)
    with pytest.raises(TimeoutError):
        domain.wait(0.05)
    domain.destroy()
    assert run(host, guest("pv64-reboot"))[0] == "reboot"


def test_waiting_for_ever(guest):
    """Under virtual time a guest that waits for what will never come is found out, and does not hang the caller."""
    with xenfast.Host(memory=64, clock="virtual") as host:
        domain = host.create({"kernel": guest("pv64-sleep"), "memory": 8})
        with pytest.raises(xenfast.XenfastError, match="every domain waits"):
            domain.wait()


def test_virtual_time_repeats(guest):
    """Under virtual time two runs retire the same number of instructions and end at the same time."""
    ends = []
    for _ in range(2):
        with xenfast.Host(memory=64, clock="virtual", seed=5) as host:
            domain = host.create({"kernel": guest("pv64-smp"), "memory": 8, "vcpus": 4})
            domain.wait(TIMEOUT)
            counted = domain.stats()
            ends.append((counted["instructions"], counted["guest_seconds"], counted["hypercalls"]))
    assert ends[0] == ends[1]


def test_two_hosts_in_one_process(guest):
    """Two machines share nothing: each has a domain 1, both run."""
    with xenfast.Host(memory=64) as one, xenfast.Host(memory=64, clock="virtual") as two:
        first = one.create({"kernel": guest("pv64-echo"), "memory": 8})
        second = two.create({"kernel": guests.HELLO, "memory": 8})
        first.console.expect("say something", TIMEOUT)
        assert second.wait(TIMEOUT) == "poweroff"
        first.console.sendline("x")
        assert first.wait(TIMEOUT) == "poweroff"
        assert first.domid == second.domid == 1


def test_a_domain_that_cannot_be_made_leaves_nothing_behind(host, tmp_path):
    """When a kernel does not fit or a disk is in use, memory, disks and the name are free again."""
    free = host.hypervisor.memory.free_pages
    (tmp_path / "disk").write_bytes(bytes(4096))
    disk = [f"{tmp_path}/disk,raw,xvda,w"]
    with pytest.raises(xenfast.XenfastError, match="too small"):
        host.create({"kernel": guests.HELLO, "memory": 1, "name": "one", "disk": disk})
    assert host.hypervisor.memory.free_pages == free
    with host.create({"kernel": guests.HELLO, "memory": 8, "name": "one", "disk": disk}):
        for settings in ({"name": "two", "disk": disk}, {"name": "one"}):
            with pytest.raises(xenfast.XenfastError, match=r"in use|already"):
                host.create({"kernel": guests.HELLO, "memory": 8, **settings})
    assert host.hypervisor.memory.free_pages == free


def test_memory_is_given_back(host):
    """A domain that is destroyed gives back all its memory."""
    free = host.hypervisor.memory.free_pages
    with host.create({"kernel": guests.HELLO, "memory": 16}) as domain:
        domain.wait(TIMEOUT)
        assert host.hypervisor.memory.free_pages < free
    assert host.hypervisor.memory.free_pages == free
