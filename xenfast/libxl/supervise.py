"""What is done when a domain ends: on_poweroff, on_reboot, on_crash, on_watchdog and on_soft_reset of xl.cfg(5).

xl leaves a process behind for each domain, which waits for its end; here a host that stays has one ``Supervisor``.  A
domain is destroyed, made again from its configuration (``restart``), kept for a look at it (``preserve``), or kept under
another name and made again (``rename-restart``); ``coredump-*`` writes its memory to a file first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xenfast.errors import XenfastError
from xenfast.libxl import dumpcore
from xenfast.libxl.config import DomainConfig
from xenfast.libxl.domain import Domain
from xenfast.libxl.events import Event
from xenfast.libxl.host import Host

log = logging.getLogger("xenfast")

ACTIONS = {"poweroff": "on_poweroff", "reboot": "on_reboot", "crash": "on_crash", "watchdog": "on_watchdog",
           "soft_reset": "on_soft_reset"}
SHORT_LIFE = 1.0        # s: a domain that lives shorter than that is made again only after such a pause


class Supervisor:
    """Watches the domains of a host that runs by itself."""

    def __init__(self, host: Host, dumps: Path) -> None:
        self.host, self.dumps = host, dumps
        self.unattended: set[int] = set()           # domids that nobody looks after (xl create -e)
        self.configs: dict[int, DomainConfig] = {}  # what config-update has set: counts from the next restart on
        self.closing = threading.Event()
        self.leaving: Callable[[Domain], Any] = lambda domain: None                 # before a domain is made again
        self.arrived: Callable[[int, Domain | None], Any] = lambda domid, new: None     # and after
        self._stop = host.events.listen(self._event)

    def close(self) -> None:
        """Domains that end from now on are left alone."""
        self.closing.set()
        self._stop()

    def _event(self, event: Event) -> None:
        if event.kind == "destroyed":
            self.unattended.discard(event.domid)
            self.configs.pop(event.domid, None)
        elif event.kind == "ended" and event.domid not in self.unattended:
            try:
                domain = self.host.find(event.domid)
            except XenfastError:
                return
            threading.Thread(target=self._act, args=(domain,), name=f"end of d{event.domid}", daemon=True).start()

    def _act(self, domain: Domain) -> None:
        how = domain.ended or ""
        if how not in ACTIONS or self.closing.is_set():
            return
        action = getattr(domain.config, ACTIONS[how])
        log.info("domain %d (%s) has ended (%s): %s", domain.domid, domain.name, how, action)
        try:
            self.perform(domain, action)
        except XenfastError as error:
            log.error("domain %d (%s): %s: %s", domain.domid, domain.name, action, error)
        except Exception:
            log.exception("domain %d (%s): %s failed", domain.domid, domain.name, action)

    def perform(self, domain: Domain, action: str) -> Domain | None:
        """Do it; returns the domain that has taken its place, if any."""
        if action.startswith("coredump-"):
            action = action.removeprefix("coredump-")
            self._dump(domain)
        if action == "preserve":
            return None
        if action == "soft-reset":
            log.warning("domain %d (%s): a soft reset is not supported, the domain is destroyed", domain.domid, domain.name)
            action = "destroy"
        config = self.configs.get(domain.domid, domain.config)
        if action == "destroy":
            domain.destroy()
            return None
        return self._replace(domain, config, keep=action == "rename-restart")

    def _replace(self, domain: Domain, config: DomainConfig, keep: bool) -> Domain | None:
        """Make the domain again; the old one goes, or gets another name."""
        config.name = domain.name
        lived = time.time() - domain.created
        domain.drain()
        self.leaving(domain)
        successor = None
        try:
            if keep:
                domain.rename(f"{domain.name}-{time.strftime('%Y%m%dT%H%MZ', time.gmtime())}")
            else:
                domain.destroy()
            if lived < SHORT_LIFE and self.closing.wait(SHORT_LIFE):
                return None
            successor = self.host.create(config, paused=True)
        finally:
            self.arrived(domain.domid, successor)
        successor.unpause()
        return successor

    def _dump(self, domain: Domain) -> None:
        """As xl does: a file with the domain's name, where dumps are; the domain's end does not depend on it."""
        path = self.dumps / domain.name
        try:
            self.dumps.mkdir(mode=0o700, parents=True, exist_ok=True)
            dumpcore.dump(domain, path)
            log.info("domain %d (%s): its memory is in %s", domain.domid, domain.name, path)
        except (OSError, XenfastError) as error:
            log.error("domain %d (%s): its memory could not be written to %s: %s", domain.domid, domain.name, path, error)
