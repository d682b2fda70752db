"""Domain 0's door to the store: the same operations as on the wire, as calls, with text for values.

``Client.transaction()`` is for code that may have to run again: ``Client.retry(function)`` runs it in a transaction
until it commits. Callbacks of watches run when the operation that caused them is done, on the thread that did it, one
after the other.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EAGAIN, ENOENT
from typing import TYPE_CHECKING, TypeVar

from xenfast.errors import XenError
from xenfast.xenstore.tree import home_of, parse_perm

if TYPE_CHECKING:
    from xenfast.xenstore.xenstored import XenStored

T = TypeVar("T")
Value = str | bytes | int


class Client:
    """One part of domain 0, with its watches.  ``tx`` is the transaction its operations belong to, 0 for none."""

    domid = 0

    def __init__(self, store: "XenStored", name: str = "domain 0", tx: int = 0) -> None:
        self.store = store
        self.name = name
        self.tx = tx

    # -- nodes; paths are absolute, or relative to /local/domain/0 --

    def read_bytes(self, path: str) -> bytes:
        with self.store.lock:
            return self.store.tree.read(0, absolute(path), self.tx)

    def read(self, path: str, default: str | None = None) -> str:
        """The node's value as text; ENOENT, or `default` if there is one, when there is no such node."""
        try:
            return self.read_bytes(path).decode("latin-1")
        except XenError as error:
            if default is None or error.errno != ENOENT:
                raise
            return default

    def read_int(self, path: str, default: int = 0) -> int:
        """The node's value as a number; `default` if it is missing or not one (xenbus_read_unsigned)."""
        try:
            return int(self.read(path, str(default)))
        except ValueError:
            return default

    def exists(self, path: str) -> bool:
        with self.store.lock:
            return self.store.tree.view(0, self.tx).get(absolute(path)) is not None

    def ls(self, path: str) -> list[str]:
        """The names of a node's children; none if it does not exist."""
        with self.store.lock:
            node = self.store.tree.view(0, self.tx).get(absolute(path))
        return list(node.children) if node else []

    def write(self, path: str, value: Value) -> None:
        data = value if isinstance(value, bytes) else str(value).encode("latin-1")
        with self.store.lock:
            self.store.tree.write(0, absolute(path), data, self.tx)
        self.store.drain()

    def mkdir(self, path: str) -> None:
        with self.store.lock:
            self.store.tree.mkdir(0, absolute(path), self.tx)
        self.store.drain()

    def rm(self, path: str) -> None:
        """Remove a node and all below; no error if it does not exist."""
        with self.store.lock:
            if self.exists(path):
                self.store.tree.rm(0, absolute(path), self.tx)
        self.store.drain()

    def get_perms(self, path: str) -> list[str]:
        with self.store.lock:
            return [str(perm) for perm in self.store.tree.get_perms(0, absolute(path), self.tx)]

    def set_perms(self, path: str, perms: list[str]) -> None:
        """Permissions as on the wire: ``["n3", "r0"]``; the first names the owner and what all others may."""
        with self.store.lock:
            self.store.tree.set_perms(0, absolute(path), tuple(map(parse_perm, perms)), self.tx)
        self.store.drain()

    def write_tree(self, path: str, values: dict[str, Value], perms: list[str] | None = None) -> None:
        """A directory with these leaves (names may hold slashes), all with these permissions."""
        for name, value in values.items():
            self.write(f"{path}/{name}", value)
        if perms is not None:
            for each in [path, *(f"{path}/{name}" for name in values)]:
                self.set_perms(each, perms)

    # -- watches --

    def watch(self, path: str, token: str, callback: Callable[[str, str], None]) -> None:
        """Call `callback(path, token)` for each change at or below `path`, and once at the start."""
        with self.store.lock:
            watch = self.store.watches.add(self, absolute(path), token, "", callback)
            self.store.pending.append((watch, watch.path))
        self.store.drain()

    def unwatch(self, path: str, token: str) -> None:
        with self.store.lock:
            self.store.watches.remove(self, absolute(path), token)

    # -- transactions --

    @contextmanager
    def transaction(self) -> Iterator["Client"]:
        """``with store.transaction() as t:`` commits at the end, EAGAIN if something got in between; an exception
        aborts."""
        with self.store.lock:
            number = self.store.tree.start_transaction(0)
        try:
            yield Client(self.store, self.name, number)
        except BaseException:
            with self.store.lock:
                self.store.tree.end_transaction(0, number, False)
            raise
        with self.store.lock:
            self.store.tree.end_transaction(0, number, True)
        self.store.drain()

    def retry(self, function: Callable[["Client"], T]) -> T:
        """Run `function(client)` in a transaction, again while others get in between."""
        while True:
            try:
                with self.transaction() as client:
                    return function(client)
            except XenError as error:
                if error.errno != EAGAIN:
                    raise

    def close(self) -> None:
        with self.store.lock:
            self.store.watches.remove_owner(self)


def absolute(path: str) -> str:
    return path if path.startswith(("/", "@")) else f"{home_of(0)}/{path}"

