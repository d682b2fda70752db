"""xl-network-configuration(5): specifications of network interfaces; lists of processors; framebuffers."""

import pytest

from xenfast.errors import XenfastError
from xenfast.libxl import cpulist, framebuffer, network


def test_a_whole_spec():
    """Keys come in any order; ``netdev`` is gatewaydev; the address is written out in full."""
    got = network.parse("model=e1000, mac=0:16:3E:a:b:C,type=ioemu,bridge=br1,vifname=v0,mtu=9000,untrusted,netdev=eth0,ip=10.0.0.1")
    assert (got.mac, got.model, got.kind, got.bridge) == ("00:16:3e:0a:0b:0c", "e1000", "ioemu", "br1")
    assert (got.vifname, got.mtu, got.trusted, got.gatewaydev, got.ip) == ("v0", 9000, False, "eth0", "10.0.0.1")
    assert got.emulated and not network.parse("type=vif").emulated


@pytest.mark.parametrize(
    ("text", "bytes_", "interval"),
    [
        ("10Mb/s", 62_500, 50_000), ("250KB/s", 12_500, 50_000), ("1MB/s@20ms", 20_000, 20_000), ("8b/s@1s", 1, 1_000_000),
        ("1GB/s@1us", 1000, 1), ("5B/s@1000000", 5, 1_000_000),
    ],
)  # fmt: skip
def test_rates(text, bytes_, interval):
    """A rate is credit for an interval, as xl-network-configuration(5) explains."""
    got = network.parse(f"rate={text}")
    assert (got.rate_bytes, got.rate_interval_us) == (bytes_, interval)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mac=00:16:3e", "not a MAC address"), ("mac=01:00:00:00:00:00", "multicast"), ("bridgexenbr0", "not an option"),
        ("colour=red", "'colour' is not an option"), ("type=bus", "neither ioemu nor vif"), ("rate=fast", "not a rate"),
        ("devid=x", "not a number"), ("mtu=3", "out of range"), ("backend=driver", "domain 0 only"), ("rate=1B/s@0s", "interval"),
    ],
)  # fmt: skip
def test_mistakes(spec, says):
    """A wrong specification is refused in one sentence."""
    with pytest.raises(XenfastError, match=says) as error:
        network.parse(spec)
    assert "\n" not in str(error.value)


def test_settle():
    """Interfaces get the lowest numbers that are free, and addresses of Xen's that stay the same for a domain."""
    specs = [network.parse(text) for text in ("", "devid=0", "")]
    one, two = network.settle(specs, "a"), network.settle(specs, "a")
    assert [spec.devid for spec in one] == [1, 0, 2] and one == two != network.settle(specs, "b")
    with pytest.raises(XenfastError, match="same devid"):
        network.settle([network.parse("devid=1")] * 2, "a")


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("all", {0, 1, 2, 3}), ("0-2,^1", {0, 2}), ("^0", {1, 2, 3}), ("all,^1-2", {0, 3}), ("nodes:0", {0, 1, 2, 3}),
        ("node:1", set()), ("1,node:0,^3", {0, 1, 2}), ("7", set()), ("all,^nodes:0", set()),
    ],
)  # fmt: skip
def test_cpu_lists(text, members):
    """Ranges, exclusions, ``all`` and nodes, as ``cpus`` has them."""
    assert cpulist.members(text, 4) == members


def test_cpu_lists_as_text():
    """As xl prints them."""
    assert [cpulist.text_of(cpus, 4) for cpus in ({0, 1, 2, 3}, {0, 1, 3}, {2})] == ["all", "0-1,3", "2"]
    for bad in ("", "a", "3-1", "0--1"):
        with pytest.raises(XenfastError):
            cpulist.parse(bad)


def test_framebuffers():
    """VNC address, display, password; what is about a window is passed over."""
    got = framebuffer.parse("vnc=1,vnclisten=0.0.0.0:5,vncpasswd=secret,display=:0")
    assert (got.vnclisten, got.vncdisplay, got.vncpasswd) == ("0.0.0.0", 5, "secret")
    for bad in ("vnc", "colour=1", "vncdisplay=x", "vnclisten=[::1", "vncdisplay=70000"):
        with pytest.raises(XenfastError):
            framebuffer.parse(bad)
