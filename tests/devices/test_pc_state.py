"""The state of a whole PC that firmware has set up: plain values, which another PC takes over exactly."""

import marshal

import pytest

from xenfast.devices.machine import PC
from xenfast.firmware import hvmloader
from xenfast.libxl import config
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import VirtualClock

CLOCKS = {"/functions/11/timer/seen"}       # when the PM timer was looked at last, on clocks that show different times


def machine(**settings):
    settings = config.from_dict({"type": "hvm", "name": "guest", "memory": 16, "serial": "pty", **settings})
    hv = Hypervisor(64, clock=VirtualClock())
    domain = hv.create_domain("guest", kind="hvm", vcpus=settings.maxvcpus, max_pages=8192 + 4096)
    domain.hvm.populate_ram(16 << 8)
    sent = bytearray()
    pc = PC(domain, settings, serial=[sent.extend])
    return hv, domain, pc, settings


def differences(a, b, where=""):
    """Paths at which two states differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in {**a, **b} for d in differences(a.get(key), b.get(key), f"{where}/{key}")]
    return [] if a == b else [where]


@pytest.mark.parametrize("settings", [{}, {"usbdevice": ["tablet"], "maxvcpus": 2, "hpet": 0}], ids=["plain", "usb"])
def test_a_pc_that_has_been_set_up_is_taken_over(settings):
    """After power-on and some time: save() has nothing but plain values, and load() of another PC leads to the same save()."""
    hv, domain, pc, chosen = machine(**settings)
    with hv:
        hvmloader.load(domain, pc, chosen)
        domain.start_hvm()
        hv.run(lambda: domain.instructions > 200_000, timeout=5)
        with hv.lock:
            state = pc.save()
    packed = marshal.dumps(state)           # fails for anything but plain values
    other_hv, _, other, _ = machine(**settings)
    with other_hv, other_hv.lock:
        other.load(marshal.loads(packed))
        left = [where for where in differences(other.save(), state) if where not in CLOCKS]
        assert left == []
