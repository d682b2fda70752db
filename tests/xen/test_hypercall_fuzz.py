"""Hostile guests: wild arguments to every hypercall that is answered in Python leave the host alive and lose no memory.

XENFAST_FUZZ_CALLS sets how many calls (the default is what CI runs); XENFAST_FUZZ_SEED where to begin.
"""

import functools
import logging
import os
import random
import struct

import pytest

from tests.xen.hvmguest import HvmGuest
from tests.xen.pvguest import BASE, DATA, NR, PvGuest
from xenfast.abi import event_channel, grant_table, memory, physdev, sched, vcpu, version, xen
from xenfast.abi.hvm import hvm_op
from xenfast.xen.hypercall import TABLE
from xenfast.xen.hypervisor import Hypervisor
from xenfast.xen.time import VirtualClock

CALLS = int(os.environ.get("XENFAST_FUZZ_CALLS", "40000"))
SEED = int(os.environ.get("XENFAST_FUZZ_SEED", "1"))
ROUNDS = 4
EDGES = (
    0,
    1,
    2,
    7,
    8,
    31,
    32,
    63,
    64,
    4095,
    4096,
    0x7FF0,
    0x7FF2,
    0xFFFF,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 47,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)


def operations(module, prefix, default=None, **layouts):
    """{operation: layout of its argument}"""
    names = [name for name in vars(module) if name.startswith(prefix)]
    return {
        getattr(module, name): layouts.get(name) or getattr(module, name.removeprefix(prefix), default)
        for name in names
    }


# Hypercall: its operations, with what they take.
CALLS_WITH_OPS = {
    "memory_op": operations(memory, "XENMEM_", memory.reservation, XENMEM_increase_reservation=memory.reservation),
    "event_channel_op": operations(event_channel, "EVTCHNOP_", event_channel.reset),
    "grant_table_op": operations(grant_table, "GNTTABOP_"),
    "vcpu_op": operations(vcpu, "VCPUOP_", vcpu.register_memory_area),
    "sched_op": operations(sched, "SCHEDOP_", sched.shutdown),
    "xen_version": operations(version, "XENVER_", version.feature_info),
    "physdev_op": operations(physdev, "PHYSDEVOP_", physdev.set_iopl),
    "hvm_op": operations(hvm_op, "HVMOP_", hvm_op.param),
    "multicall": {0: xen.multicall_entry},
    "console_io": {0: version.feature_info, 1: version.feature_info},
}
LAYOUTS = [layout for ops in CALLS_WITH_OPS.values() for layout in ops.values()]
OTHERS = [nr for nr in TABLE if nr not in {NR[name] for name in CALLS_WITH_OPS}] + [
    38,
    39,
    40,
    41,
    42,
    55,
    63,
    64,
    (1 << 64) - 1,
]


@functools.cache
def bits(layout, name):
    """How many bits of a field can be set to anything."""
    for n in (64, 32, 16, 8):
        try:
            layout.pack(**{name: (1 << n) - 1})
            return n
        except struct.error:
            continue
    return 7


class Fuzzer:
    """Three domains that grant, map and signal each other, one of which makes wild hypercalls at a time."""

    def __init__(self, seed, hvm=False):
        self.rng = random.Random(seed)
        self.hvm = hvm
        self.hv = Hypervisor(2, clock=VirtualClock(), seed=seed)
        self.baseline = self.hv.memory.free_pages
        self.guests = []
        self.calls = 0

    def guest(self):
        while len(self.guests) < 3:
            kind = PvGuest if len(self.guests) == 1 else HvmGuest if self.hvm else PvGuest
            guest = kind(self.hv, n=48, vcpus=2, max_grant_frames=4, max_evtchns=100)
            for i in range(6):
                self.grant(guest, i)
            for domid in self.hv.domains:
                guest.domain.evtchn.alloc_unbound(domid)
            self.guests.append(guest)
        return self.rng.choice(self.guests)

    def grant(self, guest, ref):
        view = self.hv.memory.view(guest.domain.gnttab.frames[0])
        flags = self.rng.choice((1, 1, 1, 5, 0, 2, 3, 0x101))
        domid = self.rng.choice(list(self.hv.domains))
        if guest.domain.gnttab.version == 1:
            struct.pack_into("<HHI", view, 8 * ref, flags, domid, self.frame(guest) & 0xFFFFFFFF)
        else:
            struct.pack_into("<HHIQ", view, 16 * ref, flags, domid, 0, self.frame(guest))

    # --- values ------------------------------------------------------------------------------------------------------
    def frame(self, guest):
        r = self.rng
        if r.random() < 0.8:
            return r.choice(guest.mfn)
        return r.choice(
            (
                guest.domain.shared_info_mfn,
                guest.domain.gnttab.frames[0],
                r.randrange(self.hv.memory.frames + 2),
                *EDGES,
            )
        )

    def address(self, guest):
        r = self.rng
        if r.random() < 0.8:
            return guest.va(r.randrange(DATA, guest.n)) + r.choice((0, 8, 16, 64, r.randrange(4096), 4088, 4095))
        return r.choice(
            (0, 4, BASE - 8, xen.HYPERVISOR_VIRT_START, guest.va(r.randrange(512)), r.getrandbits(64), *EDGES)
        )

    def value(self, guest, name=""):
        r = self.rng
        if name in ("dom", "domid", "remote_dom", "source_domid", "dest_domid", "domain_id"):
            return r.choice((xen.DOMID_SELF, xen.DOMID_SELF, *self.hv.domains, r.getrandbits(16)))
        if name in (
            "port",
            "remote_port",
            "ref",
            "ref_a",
            "ref_b",
            "handle",
            "vcpu",
            "nr_ports",
            "nr_frames",
            "nr_extents",
            "virq",
            "id",
        ):
            return r.choice((r.randrange(3), r.randrange(12), r.randrange(130), r.choice(EDGES)))
        if name in ("flags", "version", "extent_order", "cmd", "status"):
            return r.choice((0, 1, 2, 3, r.randrange(32), r.choice(EDGES)))
        if name in ("offset", "source_offset", "dest_offset", "len"):
            return r.choice((0, 8, 64, r.randrange(4096), 4096, r.choice(EDGES)))
        if "mfn" in name or "gfn" in name:
            return self.frame(guest)
        kind = r.randrange(5)
        if kind < 2:
            return (self.address, self.frame)[kind](guest)
        return (r.choice(EDGES), r.getrandbits(64), r.randrange(64))[kind - 2]

    def struct(self, guest, layout):
        """A struct whose fields nearly make sense."""
        if layout is version.compile_info or layout is vcpu.runstate_info:
            return self.rng.randbytes(layout.size)
        fields = {}
        for name in layout.fields:
            if name in ("in_", "out"):
                fields[name] = self.struct(guest, memory.reservation)
            elif layout is xen.multicall_entry:
                fields[name] = [self.value(guest) for _ in range(6)] if name == "args" else self.rng.choice((*NR.values(), *EDGES))
            elif name not in ("status", "time") or layout is event_channel.status:
                fields[name] = self.value(guest, name) & (1 << bits(layout, name)) - 1
        return layout.pack(**fields)

    # --- calls -------------------------------------------------------------------------------------------------------
    def step(self):
        guest, r = self.guest(), self.rng
        guest.vcpu = r.choice([v for v in guest.domain.vcpus if v.core.cr3])
        guest.core = guest.vcpu.core
        if r.random() < 0.05:
            self.grant(guest, r.randrange(64))
        if r.random() < 0.93:
            name = r.choice(list(CALLS_WITH_OPS))
            ops = CALLS_WITH_OPS[name]
            args = self.arguments(guest, name, r.choice(list(ops)) if r.random() < 0.97 else r.choice(EDGES), ops)
        else:
            name, args = r.choice(OTHERS), [self.value(guest) for _ in range(6)]
        if name == "sched_op" and args[0] == sched.SCHEDOP_shutdown and r.random() < 0.98:
            return
        guest.call(name, *args)
        self.calls += 1
        self.look_after(guest)

    def arguments(self, guest, name, cmd, ops):
        r = self.rng
        at = guest.va(r.randrange(DATA, guest.n - 2)) + 8 * r.randrange(100)
        count = r.choice((1, 1, 1, 0, 2, 3))
        for i in range(count):
            layout = ops.get(cmd) if r.random() < 0.9 else None
            layout = layout or r.choice(LAYOUTS)
            self.poke(guest, at + i * layout.size, self.struct(guest, layout))
        if r.random() < 0.1:
            at = self.address(guest)
        if name == "grant_table_op":
            return cmd, at, count if r.random() < 0.95 else r.choice(EDGES)
        if name == "vcpu_op":
            if cmd == vcpu.VCPUOP_send_nmi:
                at = r.choice((0, 0, at))
            if cmd == vcpu.VCPUOP_initialise and r.random() < 0.5:
                at = guest.va(guest.FREE)
                self.poke(guest, at, self.spoil(guest.context(5)))
            return cmd, r.choice((0, 1, 1, 2, r.getrandbits(32))), at
        if name == "multicall":
            return at, count if r.random() < 0.95 else r.choice(EDGES)
        if name == "console_io":
            return cmd, r.choice((5, 100, 5000, *EDGES)), at
        return cmd, at

    def spoil(self, data):
        data = bytearray(data)
        for _ in range(self.rng.choice((0, 0, 1, 4))):
            data[self.rng.randrange(len(data))] = self.rng.getrandbits(8)
        return bytes(data)

    def poke(self, guest, address, data):
        try:
            guest.write(address, data)
        except Exception:
            pass  # the guest has given that page away

    def look_after(self, guest):
        """Wake who waits, replace who has ended, and let domain 0 do its part."""
        self.hv.loop.run_ready()
        for v in guest.domain.vcpus:
            if v.blocked:
                v.wake()
        if not guest.domain.is_running or self.rng.random() < 0.002 or self.lost(guest):
            guest.domain.destroy()
            self.guests.remove(guest)

    def lost(self, guest):
        """Has it given away the pages its arguments are in?"""
        return guest.domain.tot_pages < guest.n - 12

    def finish(self):
        for domid in [domid for domid in self.hv.domains if domid]:
            self.hv.domains[domid].destroy()
        left = self.baseline - self.hv.memory.free_pages
        self.hv.close()
        return left


@pytest.mark.parametrize("number", range(ROUNDS))
def test_wild_arguments(number, caplog):
    """No call raises, none is reported as a bug of the hypervisor, and with the domains all memory comes back."""
    fuzzer = Fuzzer(SEED + number, hvm=number % 2 == 1)
    with caplog.at_level(logging.ERROR):
        while fuzzer.calls < CALLS // ROUNDS:
            fuzzer.step()
    assert [record.getMessage() for record in caplog.records] == []
    assert fuzzer.hv.loop.failures == 0
    assert fuzzer.finish() == 0
