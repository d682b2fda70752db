"""A host that runs by itself: calls from any thread, waiting, asyncio, events; and a host that stands still between calls."""

import asyncio
import threading

import pytest

pytest.importorskip("xenfast._core")

import xenfast
from xenfast import guests

TIMEOUT = 30


@pytest.fixture
def host():
    if not guests.HELLO.exists():
        pytest.skip("the shipped guest was not built")
    with xenfast.Host(memory=128) as machine:
        yield machine.start()


def settings(kernel, name="one", **more):
    return {"kernel": kernel, "memory": 8, "name": name, **more}


def test_guests_run_while_nobody_waits(host, guest):
    """A domain of a host that was started goes on by itself."""
    over = threading.Event()
    host.events.listen(lambda event: over.set() if event.kind == "ended" else None)
    domain = host.create(settings(guest("pv64-reboot")))
    assert over.wait(TIMEOUT) and domain.ended == "reboot"
    assert domain.wait(0) == "reboot" and domain.console.text == "rebooting\r\n"


def test_domains_come_and_go_from_many_threads(host):
    """Threads create, wait for and destroy domains at the same time; nothing is left behind."""
    free = host.hypervisor.memory.free_pages
    failures = []

    def work(number):
        try:
            for turn in range(3):
                with host.create(settings(guests.HELLO, f"d{number}-{turn}")) as domain:
                    domain.console.expect("Powering off", TIMEOUT)
                    assert domain.wait(TIMEOUT) == "poweroff"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and not host.domains and host.hypervisor.memory.free_pages == free
    for thread in list(host.hypervisor.scheduler.threads.values()):
        thread.join(TIMEOUT)
    assert not host.hypervisor.scheduler.threads


def test_typing_and_expecting(host, guest):
    """The console works as it does in a host that stands still."""
    with host.create(settings(guest("pv64-echo"))) as domain:
        assert domain.console.expect(["nothing", "say something"], TIMEOUT) == 1
        domain.console.sendline("hello")
        assert domain.console.expect(r"you said: (\w+)", TIMEOUT)[1] == "hello"


def test_paused_domains_stand_still(host):
    """A domain created paused does not run until it is unpaused."""
    domain = host.create(settings(guests.HELLO), paused=True)
    assert domain.run(timeout=0.05) == "timeout" and domain.xen.instructions == 0 and domain.paused
    domain.unpause()
    assert domain.wait(TIMEOUT) == "poweroff"


def test_waiting_in_vain(host, guest):
    """TimedOut when nothing happens; the host goes on."""
    domain = host.create(settings(guest("pv64-echo")))
    with pytest.raises(TimeoutError):
        domain.wait(0.02)
    with pytest.raises(TimeoutError):
        domain.console.expect("never", 0.02)


def test_stop_and_start_again(host, guest):
    """Between stop() and start() no vcpu runs; a call that waits runs the host itself then."""
    domain = host.create(settings(guest("pv64-spin")))
    domain.console.expect("spinning", TIMEOUT)
    host.stop()
    before = domain.xen.instructions
    assert domain.run(timeout=0.02) == "timeout" and domain.xen.instructions > before
    before = domain.xen.instructions
    host.start()
    assert domain.run(timeout=0.05) == "timeout" and domain.xen.instructions > before


def test_asyncio(guest):
    """Several domains are waited for at once; the host starts by itself."""

    async def main():
        async with xenfast.Host(memory=64) as host:
            one, two = (host.create(settings(guests.HELLO, name)) for name in ("one", "two"))
            echo = host.create(settings(guest("pv64-echo"), "echo"))
            assert await asyncio.gather(one.wait_async(TIMEOUT), two.wait_async(TIMEOUT)) == ["poweroff"] * 2
            await echo.console.expect_async("say something", TIMEOUT)
            echo.console.sendline("x")
            assert await echo.console.expect_async(["a", "you said: x"], TIMEOUT) == 1
            with pytest.raises(TimeoutError):
                await one.host.create(settings(guest("pv64-sleep"), "sleep")).wait_async(0.02)

    asyncio.run(main())


def test_events(host):
    """Every step of a domain's life is told, in order, to each queue; a listener that fails disturbs nobody."""

    def fails(event):
        raise ValueError

    host.events.listen(fails)
    with host.events.queue() as queue:
        domain = host.create(settings(guests.HELLO))
        domain.wait(TIMEOUT)
        domain.rename("other")
        domain.destroy()
        kinds = [queue.get(TIMEOUT) for _ in range(5)]
    assert [event.kind for event in kinds] == ["created", "unpaused", "ended", "renamed", "destroyed"]
    assert kinds[2].details["how"] == "poweroff" and kinds[3].as_dict()["old"] == "one"
    assert queue.get(0) is None


def test_find_and_rename(host, guest):
    """A domain is found by name and by number; a name that is taken is refused."""
    one, two = (host.create(settings(guest("pv64-sleep"), name)) for name in ("one", "two"))
    assert host.find("one") is one and host.find(str(two.domid)) is two and host.find(two.domid) is two
    one.rename("three")
    assert host.find("three") is one and host.store.client().read(f"{one.path}/name") == "three"
    for bad in ("two", "", "7", "a/b"):
        with pytest.raises(xenfast.XenfastError):
            one.rename(bad)
    for missing in ("one", "99", 0, "Domain-0"):
        with pytest.raises(xenfast.XenfastError):
            host.find(missing)
    with pytest.raises(xenfast.XenfastError, match="already"):
        host.create(settings(guests.HELLO, "three"))


def test_virtual_time_cannot_run_by_itself():
    """Virtual time passes only while somebody waits."""
    with xenfast.Host(memory=16, clock="virtual") as host, pytest.raises(xenfast.XenfastError, match="virtual time"):
        host.start()
