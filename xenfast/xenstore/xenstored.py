"""The store daemon: one tree, its watches, and a connection for each domain's ring page and for domain 0's own parts.

Specified in docs/misc/xenstore.txt.  ``XenStored.operate`` is the one entry for requests from guests: a table of the
message types, each a function of (connection, transaction, payload) that returns the reply's payload or raises
XenError.  Watch events are queued while a request is served and go out after its reply, in order; so a callback of
domain 0 runs when the store is at rest, and may use it.

Left out: CONTROL (no debugging commands), RESUME's bookkeeping (a shut down domain is never resumed here).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from errno import E2BIG, EACCES, EBUSY, EINVAL, ENOENT, ENOSYS
from typing import Any, Protocol

from xenfast.abi.io.xs_wire import XENSTORE_PAYLOAD_MAX, XENSTORE_REL_PATH_MAX, XsdSockmsgType
from xenfast.errors import XenError
from xenfast.xenstore import wire
from xenfast.xenstore.client import Client
from xenfast.xenstore.ringpage import RingPage
from xenfast.xenstore.tree import READ, SPECIALS, Perm, Quota, Tree, check_path, home_of, parent_of, parse_perm
from xenfast.xenstore.watches import Watch, WatchTable
from xenfast.xenstore.wire import Message

log = logging.getLogger("xenfast")

DOMID_FIRST_RESERVED = 0x7FF0


class Connection(Protocol):
    """Whoever asks: a domain's ring page, or domain 0."""

    domid: int

    def event(self, path: str, token: str) -> None: ...


class XenStored:
    """The store of one machine."""

    def __init__(self, hypervisor: Any, quota: Quota | None = None) -> None:
        self.hypervisor = hypervisor
        self.tree = Tree(quota)
        self.tree.on_change = self.changed
        self.watches = WatchTable()
        self.rings: dict[int, RingPage] = {}
        self.lock = threading.RLock()
        self.pending: deque[tuple[Watch, str]] = deque()
        self.draining = False

    # -- events --

    def changed(self, path: str, exact: bool, old_perms: tuple[Perm, ...] | None) -> None:
        for watch in self.watches.matching(path, exact):
            if self.may_learn(watch, path, old_perms):
                self.pending.append((watch, path))

    def may_learn(self, watch: Watch, path: str, old_perms: tuple[Perm, ...] | None) -> bool:
        """Whether the owner may know (XSA-115): it could read the node before, or can now, or can list its parent."""
        domid = watch.owner.domid
        if not domid:
            return True
        if path in SPECIALS:
            return bool(self.tree.access(domid, self.tree.specials[path]) & READ)
        if old_perms is not None and self.tree.access(domid, old_perms) & READ:
            return True
        nodes = [self.tree.nodes.get(each) for each in (path, parent_of(path))]
        return any(node is not None and self.tree.access(domid, node.perms) & READ for node in nodes)

    def drain(self) -> None:
        """Send the queued events; what the callbacks cause is queued behind them."""
        with self.lock:
            if self.draining:
                return
            self.draining = True
            try:
                while self.pending:
                    watch, path = self.pending.popleft()
                    if watch.live:
                        watch.fire(path)
            finally:
                self.draining = False

    # -- domains --

    def client(self, name: str = "domain 0") -> Client:
        """A door for a part of domain 0."""
        return Client(self, name)

    def introduce(self, domain: Any, mfn: int, port: int) -> None:
        """Begin to serve a domain: `mfn` is its ring page, `port` its unbound event channel for domain 0."""
        with self.lock:
            if domain.domid in self.rings:
                raise XenError(EBUSY, f"domain {domain.domid} is introduced")
            self.rings[domain.domid] = RingPage(self, domain, mfn, port)
            domain.on_shutdown.append(self.domain_ended)
            self.changed("@introduceDomain", False, None)
        self.drain()

    def domain_ended(self, domain: Any, code: int) -> None:
        """The domain has crashed or shut down: tell whoever waits for that (xenstored hears of it by VIRQ_DOM_EXC)."""
        with self.lock:
            self.changed("@releaseDomain", False, None)
        self.drain()

    def release(self, domid: int) -> None:
        """The domain is gone: drop its connection and all it owned."""
        with self.lock:
            ring = self.rings.pop(domid, None)
            if ring is not None:
                self.disconnect(ring)
                ring.close()
            self.tree.forget_domain(domid)
            self.changed("@releaseDomain", False, None)
        self.drain()

    def disconnect(self, connection: Connection) -> None:
        """Forget the watches and transactions of a connection (also RESET_WATCHES)."""
        self.watches.remove_owner(connection)
        if connection.domid:
            self.tree.drop_transactions(connection.domid)

    # -- requests --

    def operate(self, connection: Connection, request: Message) -> Message:
        """Serve one request.  Whatever is in it, the answer is a message."""
        function = OPERATIONS.get(request.type)
        try:
            if function is None:
                raise XenError(ENOSYS, f"message type {request.type}")
            with self.lock:
                payload = function(self, connection, request.tx_id, request.payload)
            if len(payload) > XENSTORE_PAYLOAD_MAX:
                raise XenError(E2BIG, "reply")
        except XenError as error:
            log.debug("xenstore: domain %d: type %d: %s", connection.domid, request.type, error)
            return wire.error_reply(request, error.errno)
        return Message(request.type, request.req_id, request.tx_id, payload)

    def add_watch(self, connection: Connection, path: str, token: str) -> None:
        """Set a watch; its first event comes at once."""
        absolute, base = path, ""
        if path.startswith("@"):
            if len(path) > XENSTORE_REL_PATH_MAX:
                raise XenError(EINVAL, "path")
        else:
            absolute = check_path(connection.domid, resolve(connection.domid, path))
            base = absolute[: len(absolute) - len(path)]
        if connection.domid and self.watches.count(connection) >= self.tree.quota.watches:
            raise XenError(E2BIG, "watches")
        watch = self.watches.add(connection, absolute, token, base, connection.event)
        self.pending.append((watch, absolute))


def resolve(domid: int, path: str) -> str:
    """A path that does not start with / or @ is relative to the domain's own directory."""
    return path if path.startswith(("/", "@")) else f"{home_of(domid)}/{path}"


def privileged(connection: Connection) -> None:
    if connection.domid:
        raise XenError(EACCES, "only domain 0 may")


def op_directory(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    (path,) = wire.exactly(payload, 1)
    return wire.pack_strings(*store.tree.directory(who.domid, resolve(who.domid, path), tx))


def op_directory_part(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    """As much of a long directory as fits, from an offset; one more nul marks the end."""
    path, offset = wire.exactly(payload, 2)
    node = store.tree.node(who.domid, resolve(who.domid, path), tx)
    names = wire.pack_strings(*node.children)
    generation = wire.pack_strings(str(node.generation))
    start = wire.number(offset)
    if start >= len(names):
        return generation + b"\0"
    room = XENSTORE_PAYLOAD_MAX - len(generation) - 1
    part = names[start : start + room]
    part = part[: part.rindex(b"\0") + 1] if b"\0" in part else part
    return generation + part + (b"\0" if start + len(part) == len(names) else b"")


def op_read(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    (path,) = wire.exactly(payload, 1)
    return store.tree.read(who.domid, resolve(who.domid, path), tx)


def op_get_perms(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    (path,) = wire.exactly(payload, 1)
    return wire.pack_strings(*map(str, store.tree.get_perms(who.domid, resolve(who.domid, path), tx)))


def op_set_perms(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    path, *perms = wire.at_least(payload, 2)
    store.tree.set_perms(who.domid, resolve(who.domid, path), tuple(map(parse_perm, perms)), tx)
    return wire.OK


def op_write(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    path, value = wire.path_and_value(payload)
    store.tree.write(who.domid, resolve(who.domid, path), value, tx)
    return wire.OK


def op_mkdir(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    (path,) = wire.exactly(payload, 1)
    store.tree.mkdir(who.domid, resolve(who.domid, path), tx)
    return wire.OK


def op_rm(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    (path,) = wire.exactly(payload, 1)
    store.tree.rm(who.domid, resolve(who.domid, path), tx)
    return wire.OK


def op_watch(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    path, token = wire.at_least(payload, 2)[:2]
    store.add_watch(who, path, token)
    return wire.OK


def op_unwatch(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    path, token = wire.at_least(payload, 2)[:2]
    store.watches.remove(who, resolve(who.domid, path), token)
    return wire.OK


def op_reset_watches(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    store.disconnect(who)
    return wire.OK


def op_transaction_start(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    if tx:
        raise XenError(EBUSY, "transaction within a transaction")
    return wire.pack_strings(str(store.tree.start_transaction(who.domid)))


def op_transaction_end(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    (verdict,) = wire.exactly(payload, 1)
    if verdict not in ("T", "F"):
        raise XenError(EINVAL, "neither T nor F")
    store.tree.end_transaction(who.domid, tx, verdict == "T")
    return wire.OK


def op_get_domain_path(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    (domid,) = wire.exactly(payload, 1)
    return wire.pack_strings(home_of(wire.number(domid) & 0xFFFF))


def op_is_domain_introduced(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    (domid,) = wire.exactly(payload, 1)
    number = wire.number(domid)
    return b"T\0" if not number or number in store.rings else b"F\0"


def op_introduce(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    privileged(who)
    domid, mfn, port = map(wire.number, wire.at_least(payload, 3)[:3])
    domain = store.hypervisor.domains.get(domid)
    if domain is None or not 0 < domid < DOMID_FIRST_RESERVED:
        raise XenError(EINVAL, f"domain {domid}")
    store.introduce(domain, mfn, port)
    return wire.OK


def op_release(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    privileged(who)
    (domid,) = map(wire.number, wire.exactly(payload, 1))
    if domid not in store.rings:
        raise XenError(ENOENT, f"domain {domid}")
    store.release(domid)
    return wire.OK


def op_set_target(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    privileged(who)
    domid, target = map(wire.number, wire.exactly(payload, 2))
    if domid not in store.rings or target not in store.rings:
        raise XenError(ENOENT, "domain")
    store.tree.targets[domid] = target
    return wire.OK


def op_privileged_only(store: XenStored, who: Connection, tx: int, payload: bytes) -> bytes:
    privileged(who)
    raise XenError(ENOSYS, "not implemented")


OPERATIONS: dict[int, Callable[[XenStored, Connection, int, bytes], bytes]] = {
    XsdSockmsgType.CONTROL: op_privileged_only,
    XsdSockmsgType.DIRECTORY: op_directory,
    XsdSockmsgType.READ: op_read,
    XsdSockmsgType.GET_PERMS: op_get_perms,
    XsdSockmsgType.WATCH: op_watch,
    XsdSockmsgType.UNWATCH: op_unwatch,
    XsdSockmsgType.TRANSACTION_START: op_transaction_start,
    XsdSockmsgType.TRANSACTION_END: op_transaction_end,
    XsdSockmsgType.INTRODUCE: op_introduce,
    XsdSockmsgType.RELEASE: op_release,
    XsdSockmsgType.GET_DOMAIN_PATH: op_get_domain_path,
    XsdSockmsgType.WRITE: op_write,
    XsdSockmsgType.MKDIR: op_mkdir,
    XsdSockmsgType.RM: op_rm,
    XsdSockmsgType.SET_PERMS: op_set_perms,
    XsdSockmsgType.IS_DOMAIN_INTRODUCED: op_is_domain_introduced,
    XsdSockmsgType.RESUME: op_privileged_only,
    XsdSockmsgType.SET_TARGET: op_set_target,
    XsdSockmsgType.RESET_WATCHES: op_reset_watches,
    XsdSockmsgType.DIRECTORY_PART: op_directory_part,
}
