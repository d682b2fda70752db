"""The map of vcpus that are plugged in."""

from xenfast.devices.cpu_map import EVENT, CpuMap
from xenfast.xen.hvm import bus


def test_changes_raise_the_event_and_are_read_by_bytes():
    """A bit a vcpu from AF00h on; general purpose event 2 when one changes, and only then; writes change nothing."""
    events, ports = [], bus.ports()
    cpus = CpuMap(3, events.append)
    ports.add(0xAF00, cpus.region)
    assert [ports.read(0xAF00 + n, 1) for n in (0, 1, 15)] == [7, 0, 0]
    cpus.set(3)
    assert events == []
    cpus.set(10)
    assert events == [EVENT] and (ports.read(0xAF00, 1), ports.read(0xAF01, 1), ports.read(0xAF00, 4)) == (0xFF, 3, 0x3FF)
    ports.write(0xAF00, 4, 0)
    cpus.set(1000)
    assert ports.read(0xAF0C, 4) == 0xFFFFFFFF
    state = cpus.save()
    other = CpuMap(1, events.append)
    other.load(state)
    assert other.bits == cpus.bits and len(events) == 2
