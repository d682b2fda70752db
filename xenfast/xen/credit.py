"""The credit scheduler: which vcpus run when domains have shares (weights) or limits (caps), on so many processors.

Follows xen/common/sched/credit.c in what a user sees: each domain has a weight (256) and a cap (percent of a processor, 0
for none), whose credit comes back every 30 ms.  A vcpu's thread asks to be admitted before each slice and is charged for
what it used.  While there are processors for all, and no caps, everybody is admitted at once, and the host's own scheduler
does the rest: nothing here is in use.  When there are not, the vcpu whose domain has had least for its weight comes next;
one that was asleep comes soon, but does not get back what it has missed.

Pure bookkeeping: no threads, no clock.  The caller holds the hypervisor's lock.
"""

from __future__ import annotations

from typing import Any

WEIGHT, MAX_WEIGHT = 256, 65535
PERIOD = 30_000_000             # ns: CSCHED_DEFAULT_TSLICE_MS
BOOST = 10_000_000              # ns of a domain of weight 1: how much earlier a vcpu comes that has slept


class Share:
    """What a domain may have and has had."""

    def __init__(self, weight: int = WEIGHT, cap: int = 0) -> None:
        self.weight, self.cap = weight, cap
        self.used = 0.0         # ns of processors, divided by the weight
        self.left = 0.0         # ns until the cap is reached
        self.period = -1        # number of the period that ``left`` is of

    @property
    def is_plain(self) -> bool:
        return self.weight == WEIGHT and not self.cap


class Credit:
    """The shares of all domains, and who runs and waits."""

    def __init__(self, processors: int) -> None:
        self.processors = max(1, processors)
        self.shares: dict[Any, Share] = {}          # by domain
        self.running: set[Any] = set()
        self.waiting: list[Any] = []                # for a processor
        self.active = False
        self._floor = 0.0                           # ``used`` of whoever was chosen last: time here

    def share(self, domain: Any) -> Share:
        return self.shares.get(domain) or Share()

    def set(self, domain: Any, weight: int | None = None, cap: int | None = None) -> None:
        """Change a domain's share."""
        share = self.shares.setdefault(domain, Share())
        share.weight = share.weight if weight is None else weight
        share.cap = share.cap if cap is None else cap
        share.used, share.period = max(share.used, self._floor), -1
        self._look()

    def forget(self, domain: Any) -> None:
        """The domain is gone."""
        self.shares.pop(domain, None)
        self.running = {vcpu for vcpu in self.running if vcpu.domain is not domain}
        self.waiting = [vcpu for vcpu in self.waiting if vcpu.domain is not domain]
        self._look()

    def _look(self) -> None:
        self.active = any(not share.is_plain for share in self.shares.values())
        if not self.active:
            self.running.clear()
            self.waiting.clear()

    def admit(self, vcpu: Any, now: int) -> float | None:
        """None: the vcpu runs now.  Otherwise so many seconds until it should ask again; it may be called earlier."""
        share = self.shares.setdefault(vcpu.domain, Share())
        left = self._until_credit(share, now)
        if left is not None:
            self._leave(vcpu)
            return left
        if vcpu not in self.waiting:
            share.used = max(share.used, self._floor - BOOST / share.weight)
            self.waiting.append(vcpu)
        if len(self.running) >= self.processors or self.next() is not vcpu:
            return 1.0
        self.waiting.remove(vcpu)
        self.running.add(vcpu)
        self._floor = max(self._floor, share.used)
        return None

    def _until_credit(self, share: Share, now: int) -> float | None:
        """Seconds until a domain that has reached its cap gets more; None: it has some."""
        if not share.cap:
            return None
        number, into = divmod(now, PERIOD)
        allowance = PERIOD * share.cap / 100
        if share.period != number:
            # what was used beyond the cap is owed, what was not used is lost
            periods = 1 if share.period < 0 else number - share.period
            share.left = min(allowance, share.left + allowance * periods) if share.period >= 0 else allowance
            share.period = number
        return None if share.left > 0 else (PERIOD - into) / 1e9

    def next(self) -> Any:
        """Who comes next of those that wait; None when nobody does."""
        return min(self.waiting, key=lambda vcpu: (self.shares[vcpu.domain].used, vcpu.domain.domid, vcpu.vcpu_id), default=None)

    def charge(self, vcpu: Any, spent: int) -> None:
        """The vcpu has run for so many ns, and asks again if it wants more."""
        self.running.discard(vcpu)
        share = self.shares.get(vcpu.domain)
        if share is not None:
            share.used += spent / share.weight
            share.left -= spent

    def _leave(self, vcpu: Any) -> None:
        if vcpu in self.waiting:
            self.waiting.remove(vcpu)

    def gone(self, vcpu: Any) -> None:
        """The vcpu wants to run no more, for now."""
        self.running.discard(vcpu)
        self._leave(vcpu)
