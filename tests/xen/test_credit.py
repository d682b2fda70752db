"""The credit scheduler: shares by weight, caps, and nothing at all while nobody has either."""

import pytest

from xenfast.xen.credit import PERIOD, Credit


class Domain:
    def __init__(self, domid):
        self.domid = domid


class Vcpu:
    def __init__(self, domain, vcpu_id=0):
        self.domain, self.vcpu_id = domain, vcpu_id


def simulate(credit, vcpus, slices, length=1_000_000):
    """Time that each vcpu gets when all want to run all the time; a slice at a time on each processor."""
    got, now, running = dict.fromkeys(vcpus, 0), 0, []
    for _ in range(slices):
        for vcpu in running + vcpus:                    # who has just run asks again at once
            if vcpu not in credit.waiting:
                credit.admit(vcpu, now)
        running = list(credit.running)
        running += [vcpu for _ in vcpus for vcpu in vcpus if vcpu not in credit.running and credit.admit(vcpu, now) is None]
        now += length
        for vcpu in running:
            got[vcpu] += length
            credit.charge(vcpu, length)
    return got, now


def test_weights():
    """On one processor domains get time as their weights say."""
    credit = Credit(1)
    vcpus = [Vcpu(Domain(i)) for i in (1, 2, 3)]
    for vcpu, weight in zip(vcpus, (256, 512, 1024), strict=True):
        credit.set(vcpu.domain, weight=weight)
    got, now = simulate(credit, vcpus, 700)
    assert [round(got[vcpu] / now, 2) for vcpu in vcpus] == [0.14, 0.29, 0.57]


def test_a_domain_with_more_vcpus_gets_no_more():
    """A weight is the domain's, not its vcpus'."""
    credit = Credit(1)
    one, two = Domain(1), Domain(2)
    vcpus = [Vcpu(one), Vcpu(two, 0), Vcpu(two, 1), Vcpu(two, 2)]
    credit.set(one, weight=257)
    got, now = simulate(credit, vcpus, 600)
    assert got[vcpus[0]] / now == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("cap", "share"), [(10, 0.1), (50, 0.5), (100, 1.0)])
def test_caps(cap, share):
    """A domain with a cap gets no more than that, also on an idle host."""
    credit = Credit(4)
    vcpu = Vcpu(Domain(1))
    credit.set(vcpu.domain, cap=cap)
    got, now = simulate(credit, [vcpu], 3000)
    assert got[vcpu] / now == pytest.approx(share, abs=0.02)


def test_a_cap_says_when_to_come_back():
    """A domain without credit is told how long its period lasts."""
    credit = Credit(1)
    vcpu = Vcpu(Domain(1))
    credit.set(vcpu.domain, cap=10)
    assert credit.admit(vcpu, 0) is None
    credit.charge(vcpu, PERIOD // 10)
    assert credit.admit(vcpu, PERIOD // 2) == pytest.approx(PERIOD / 2e9)
    assert credit.admit(vcpu, PERIOD) is None


def test_not_in_use():
    """While all weights are as they are by themselves and there are no caps, nobody is asked; a domain that goes is forgotten."""
    credit = Credit(1)
    domain = Domain(1)
    assert not credit.active
    credit.set(domain, weight=512)
    assert credit.active
    credit.set(domain, weight=256)
    assert not credit.active
    credit.set(domain, cap=1)
    credit.forget(domain)
    assert not credit.active and not credit.shares


def test_a_sleeper_does_not_get_back_what_it_missed():
    """Who wakes up comes soon, and then shares like the others."""
    credit = Credit(1)
    busy, sleeper = Vcpu(Domain(1)), Vcpu(Domain(2))
    credit.set(busy.domain, weight=512)
    credit.set(sleeper.domain, weight=512)
    simulate(credit, [busy], 1000)
    got, now = simulate(credit, [busy, sleeper], 200)
    assert got[sleeper] / now == pytest.approx(0.5, abs=0.06)
