"""The daemon in this process: its methods, streams, several clients at once, and clients that keep to no protocol."""

import json
import os
import random
import socket
import struct
import threading
import time

import pytest

pytest.importorskip("xenfast._core")

from xenfast import guests
from xenfast.errors import XenfastError
from xenfast.libxl import daemon, daemon_calls, protocol
from xenfast.xl.client import Client

TIMEOUT = 30


@pytest.fixture
def service(tmp_path, monkeypatch):
    """A daemon on a thread of its own."""
    if not guests.HELLO.exists():
        pytest.skip("the shipped guest was not built")
    directory = tmp_path / "run"
    monkeypatch.setenv(protocol.DIRECTORY, str(directory))
    served = daemon.Daemon(protocol.run_directory(create=True), memory=256)
    ready = threading.Event()
    thread = threading.Thread(target=served.run, args=(ready.set,))
    thread.start()
    assert ready.wait(TIMEOUT)
    yield served
    served.stop()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def config(kernel, name="one", **more):
    lines = {"name": name, "kernel": str(kernel), "memory": 8, **more}
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items())


def test_a_life(service, guest):
    """A domain is created, listed, renamed, paused, asked about and destroyed by name and by number."""
    with Client(start=False) as client:
        made = client.call("domain.create", text=config(guest("pv64-sleep")))
        assert made["name"] == "one"
        client.call("domain.rename", domain="one", name="two")
        client.call("domain.pause", domain="two")
        (info,) = client.call("domain.list", domain=str(made["domid"]))
        assert (info["name"], info["paused"], info["vcpus"], info["memory_kib"]) == ("two", True, 1, 8192)
        client.call("domain.unpause", domain="two")
        assert [each["name"] for each in client.call("domain.list")] == ["Domain-0", "two"]
        assert client.call("vcpu.list")[0]["hard"] == "all"
        assert client.call("domain.config", domain="two")["config"]["name"] == "two"
        assert client.call("store.read", path=f"/local/domain/{made['domid']}/name") == "two"
        client.call("domain.destroy", domain="two")
        with pytest.raises(XenfastError, match="there is no domain 'two'"):
            client.call("domain.destroy", domain="two")


@pytest.mark.parametrize(
    ("kernel", "settings", "left"),
    [
        ("pv64-reboot", {"on_reboot": "destroy"}, []),
        ("pv64-reboot", {"on_reboot": "preserve"}, ["one"]),
        ("pv64-no-handler", {"on_crash": "coredump-destroy"}, []),
    ],
)
def test_what_is_done_at_the_end(service, guest, kernel, settings, left):
    """on_reboot and on_crash: destroy, preserve, write the memory to a file first."""
    with Client(start=False) as client:
        made = client.call("domain.create", text=config(guest(kernel), **settings), paused=True)
        waiting = threading.Timer(0.05, lambda: Client(start=False).call("domain.unpause", domain="one"))
        waiting.start()
        assert client.call("domain.wait", domain=str(made["domid"]), death=not left, timeout=TIMEOUT)["over"]
        assert [each["name"] for each in client.call("domain.list") if each["domid"]] == left
    if "coredump" in str(settings):
        core = (service.directory / "dump" / "one").read_bytes()
        assert core[:4] == b"\x7fELF" and b".xen_p2m" in core and len(core) > 8 << 20


def test_restart_and_a_console_that_follows(service, guest, monkeypatch):
    """on_reboot = "restart" makes the domain again; a viewer that follows sees the next one, too."""
    monkeypatch.setattr("xenfast.libxl.supervise.SHORT_LIFE", 0.0)
    with Client(start=False) as client:
        made = client.call("domain.create", text=config(guest("pv64-reboot")), paused=True)
        viewer = Client(start=False)
        viewer.call("console.attach", domain="one", follow=True)
        client.call("domain.unpause", domain="one")
        shown = b""
        viewer.sock.settimeout(TIMEOUT)
        while shown.count(b"rebooting") < 3:
            shown += viewer.sock.recv(4096)
        viewer.close()
        service.supervisor.close()
        end = time.monotonic() + TIMEOUT
        while all(each["domid"] in (0, made["domid"]) for each in client.call("domain.list")):
            assert time.monotonic() < end


def test_consoles(service, guest):
    """What was printed before somebody looks is shown to the first; two viewers see the same; both can type."""
    with Client(start=False) as client:
        client.call("domain.create", text=config(guest("pv64-echo")))
        viewers = [Client(start=False) for _ in range(2)]
        shown = [b"", b""]

        def read_until(i, text):
            viewers[i].sock.settimeout(TIMEOUT)
            while text not in shown[i]:
                shown[i] += viewers[i].sock.recv(4096)

        viewers[0].call("console.attach", domain="one")
        read_until(0, b"say something")
        viewers[1].call("console.attach", domain="one")
        viewers[1].sock.sendall(b"hello\n")
        read_until(0, b"you said: hello")
        read_until(1, b"you said: hello")
        assert viewers[0].sock.recv(4096) is not None
        for viewer in viewers:
            viewer.close()


def test_a_long_call_holds_nobody_up(service, guest):
    """While one client waits for a domain's end, others are served."""
    done = []
    with Client(start=False) as client:
        client.call("domain.create", text=config(guest("pv64-sleep")))
        other = Client(start=False)
        thread = threading.Thread(target=lambda: done.append(other.call("domain.wait", domain="one", death=True)))
        thread.start()
        for _ in range(20):
            client.call("domain.list")
        assert not done
        client.call("domain.destroy", domain="one")
        thread.join(TIMEOUT)
    assert done[0]["over"]


def test_events_and_watches(service):
    """Streams of messages: what happens to domains, what changes in the store."""
    with Client(start=False) as client, Client(start=False) as listener, Client(start=False) as watcher:
        listener.call("events")
        watcher.call("store.watch", paths=["/tool"])
        client.call("domain.create", text=config(guests.HELLO, on_poweroff="destroy"))
        kinds = []
        for message in listener.messages():
            kinds.append(message["event"])
            if kinds[-1] == "destroyed":
                break
        assert kinds == ["created", "unpaused", "ended", "destroyed"]
        client.call("store.write", path="/tool/x", value="1")
        assert [next(watcher.messages())["path"] for _ in range(1)] == ["/tool"]
        assert any(message["path"] == "/tool/x" for message in watcher.messages())


def test_parameters_are_checked():
    """A parameter that is missing, unknown, or of another type is refused before anything happens."""
    for method, params in (("domain.pause", {}), ("domain.pause", {"domain": 3}), ("domain.list", {"x": 1}), ("no.such", {}),
                           ("mem.set", {"domain": "a", "kib": True}), ("domain.wait", {"domain": "a", "timeout": "1"})):
        with pytest.raises(XenfastError):
            daemon_calls.call(None, method, params)


def test_metrics_and_debug_keys(service, guest):
    """Prometheus' text format, with a sample for each domain; debug keys print to the hypervisor's console."""
    with Client(start=False) as client:
        client.call("domain.create", text=config(guest("pv64-sleep")))
        text = client.call("host.metrics")
        assert 'xenfast_domain_memory_bytes{domain="one",domid="1"} 8388608' in text
        assert all(line.startswith(("#", "xenfast_")) for line in text.splitlines())
        client.call("host.debug_keys", keys="hemqr0")
        lines = client.call("host.dmesg", clear=True)
        assert any("dom1: weight=256 cap=0" in line for line in lines) and not client.call("host.dmesg")
        with pytest.raises(XenfastError, match="no debug key"):
            client.call("host.debug_keys", keys="?")


def test_the_lock(service):
    """A second daemon in the same directory is refused."""
    with pytest.raises(daemon.AlreadyRuns):
        daemon.Daemon(service.directory)


# --- hostile clients -------------------------------------------------------------------------------------------------
def bad_bytes(rng):
    """Something that is no request."""
    greeting = protocol.pack(protocol.greeting())
    kind = rng.randrange(10)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 200))
    if kind == 1:
        return struct.pack(">I", rng.choice([0, 1, protocol.MAX_REQUEST + 1, 0xFFFFFFFF]))
    if kind == 2:
        return greeting + struct.pack(">I", rng.choice([0, 1, 1 << 31]))
    if kind == 3:
        return greeting + struct.pack(">I", 6) + rng.randbytes(6)
    if kind == 4:
        return protocol.pack({"hello": rng.choice(["xen", None, 3]), "protocol": 1})
    if kind == 5:
        return protocol.pack({"hello": "xenfast", "protocol": rng.choice([0, 2, "1", None, [1]])})
    if kind == 6:
        text = b"[" * 5000 + b"]" * 5000
        return greeting + struct.pack(">I", len(text)) + text
    if kind == 7:
        return greeting + protocol.pack({"id": rng.choice([None, "1", []]), "method": "domain.list"})
    if kind == 8:
        return greeting + protocol.pack({"id": 1, "method": rng.choice([None, 3, {}]), "params": {}})
    method = rng.choice(sorted(set(daemon_calls.METHODS) - {"daemon.stop", "domain.create"}))
    values = [None, -1, 1 << 70, "", "x" * 300, "no such", [], {}, True, 0.5]
    params = {name: rng.choice(values) for name in [*daemon_calls.METHODS[method].params, "odd"]}
    return greeting + protocol.pack({"id": 1, "method": method, "params": params})


def send_and_see(directory, data):
    """One connection that sends this and closes; whatever comes back is read to its end."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(str(directory / protocol.SOCKET))
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass


def refused(service, guest, count):
    rng = random.Random(7)
    with Client(start=False) as client:
        client.call("domain.create", text=config(guest("pv64-echo")))
        handles = len(os.listdir("/proc/self/fd"))
        for _ in range(count):
            send_and_see(service.directory, bad_bytes(rng))
        assert [each["name"] for each in client.call("domain.list")] == ["Domain-0", "one"]
        domain = service.host.find("one")
        domain.console.sendline("still here")
        assert domain.console.expect("you said: still here", TIMEOUT)
    end = time.monotonic() + TIMEOUT
    while len(os.listdir("/proc/self/fd")) > handles:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert service.host.hypervisor.loop.failures == 0


def test_bad_requests_are_refused(service, guest):
    """Whatever a client sends, the daemon and its domains go on, and no file handle is lost."""
    refused(service, guest, 300)


@pytest.mark.slow
def test_twenty_thousand_bad_requests(service, guest):
    """The same, 20,000 times."""
    refused(service, guest, 20_000)


# --- where it is -----------------------------------------------------------------------------------------------------
def test_directories_of_others_are_refused(tmp_path, monkeypatch):
    """The directory must be ours alone: not another user's, not open to others, not a link."""
    monkeypatch.setenv(protocol.DIRECTORY, str(tmp_path / "run"))
    assert protocol.run_directory(create=True).stat().st_mode & 0o777 == 0o700
    (tmp_path / "run").chmod(0o755)
    with pytest.raises(XenfastError, match="open to others"):
        protocol.run_directory()
    (tmp_path / "run").chmod(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(XenfastError, match="not a directory"):
        protocol.check_directory(tmp_path / "link")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(XenfastError, match="belongs to another user"):
        protocol.run_directory()
    monkeypatch.delenv(protocol.DIRECTORY)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(XenfastError, match="belongs to another user"):
        (tmp_path / "xenfast").mkdir(mode=0o700)
        protocol.run_directory()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    assert str(protocol.run_directory()) == "/tmp/xenfast-12345"
