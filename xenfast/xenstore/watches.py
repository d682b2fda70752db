"""Who wants to hear of which changes (docs/misc/xenstore.txt, "Watches").

A watch fires for its own path and everything below it.  The table only matches; whether a domain may learn of a
change, and how it is told, is the daemon's business.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENOENT
from typing import Any

from xenfast.errors import XenError
from xenfast.xenstore.tree import parent_of


@dataclass(eq=False, slots=True)
class Watch:
    order: int  # events go out in the order the watches were set
    owner: Any  # the connection
    path: str  # absolute, or @special
    token: str
    base: str  # what an event's path is told relative to: "" for a watch on an absolute path
    deliver: Callable[[str, str], None]  # (path as told to the owner, token)
    live: bool = True  # false once it is removed: queued events die with it

    def fire(self, path: str) -> None:
        self.deliver(path[len(self.base) :], self.token)


class WatchTable:
    def __init__(self) -> None:
        self.by_path: dict[str, list[Watch]] = {}
        self.counts: dict[Any, int] = {}
        self.order = 0

    def add(self, owner: Any, path: str, token: str, base: str, deliver: Callable[[str, str], None]) -> Watch:
        if any(w.owner == owner and w.token == token for w in self.by_path.get(path, ())):
            raise XenError(EEXIST, path)
        if base and not path.startswith(base):
            raise XenError(EINVAL, path)
        self.order += 1
        watch = Watch(self.order, owner, path, token, base, deliver)
        self.by_path.setdefault(path, []).append(watch)
        self.counts[owner] = self.counts.get(owner, 0) + 1
        return watch

    def count(self, owner: Any) -> int:
        return self.counts.get(owner, 0)

    def remove(self, owner: Any, path: str, token: str) -> None:
        for watch in self.by_path.get(path, ()):
            if watch.owner == owner and watch.token == token:
                self.discard(watch)
                return
        raise XenError(ENOENT, path)

    def discard(self, watch: Watch) -> None:
        watches = self.by_path[watch.path]
        watches.remove(watch)
        watch.live = False
        if not watches:
            del self.by_path[watch.path]
        self.counts[watch.owner] -= 1
        if not self.counts[watch.owner]:
            del self.counts[watch.owner]

    def remove_owner(self, owner: Any) -> None:
        for watch in [w for watches in self.by_path.values() for w in watches if w.owner == owner]:
            self.discard(watch)

    def matching(self, path: str, exact: bool = False) -> list[Watch]:
        """The watches a change of `path` concerns; `exact` leaves out those on its ancestors."""
        found: list[Watch] = []
        for each in (path,) if exact or path.startswith("@") else ancestry(path):
            found += self.by_path.get(each, ())
        found.sort(key=lambda watch: watch.order)
        return found


def ancestry(path: str) -> Iterator[str]:
    """The path and everything above it."""
    while path != "/":
        yield path
        path = parent_of(path)
    yield path
