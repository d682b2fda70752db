"""The store itself: nodes, permissions, quotas and transactions.  No transport, no watches, no hypervisor.

Specified in docs/misc/xenstore.txt of Xen.  Nodes are immutable and replaced whole; each replacement takes a new
generation number. A transaction keeps its own copies and remembers the generation of everything it touched, and
commits only if none of that changed meanwhile: two transactions that touch different nodes never disturb each other,
as in xenstored since Xen 4.9.

Operations raise ``XenError(errno)``.  What changed is handed to ``Tree.on_change(path, exact, old_perms)``, after the
fact.
"""

import re
from collections.abc import Callable
from errno import EACCES, EAGAIN, EINVAL, ENOENT, ENOSPC, EPERM
from typing import NamedTuple

from xenfast.abi.io.xs_wire import XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX
from xenfast.errors import XenError

NONE, READ, WRITE, BOTH = 0, 1, 2, 3
LETTERS = {NONE: "n", READ: "r", WRITE: "w", BOTH: "b"}
ACCESSES = {letter: access for access, letter in LETTERS.items()}

PATH = re.compile(r"/|(/[A-Za-z0-9_@-]+)+")
PERM = re.compile(r"([nrwb])(\d{1,5})")

SPECIALS = ("@introduceDomain", "@releaseDomain")


class Quota(NamedTuple):
    """What an unprivileged domain may have (xenstored's -N, --quota-*, -S, -t, -T)."""

    nodes: int = 1000
    watches: int = 128
    entry_size: int = 2048
    transactions: int = 10
    transaction_nodes: int = 1024
    permissions: int = 5


class Perm(NamedTuple):
    access: int
    domid: int

    def __str__(self) -> str:
        return f"{LETTERS[self.access]}{self.domid}"


def parse_perm(text: str) -> Perm:
    match = PERM.fullmatch(text)
    if not match:
        raise XenError(EINVAL, f"permission {text!r}")
    return Perm(ACCESSES[match[1]], int(match[2]))


class Node(NamedTuple):
    value: bytes
    perms: tuple[Perm, ...]  # the first names the owner, and what everybody not listed may do
    children: tuple[str, ...]
    generation: int

    @property
    def owner(self) -> int:
        return self.perms[0].domid

    def entry_size(self) -> int:
        """What the node counts against Quota.entry_size: the record xenstored would keep."""
        return 24 + 8 * len(self.perms) + len(self.value) + sum(len(name) + 1 for name in self.children)


def parent_of(path: str) -> str:
    return path[: path.rindex("/")] or "/"


def child_of(path: str, name: str) -> str:
    return f"/{name}" if path == "/" else f"{path}/{name}"


def home_of(domid: int) -> str:
    """A domain's own directory, to which its relative paths refer."""
    return f"/local/domain/{domid}"


def check_path(domid: int, path: str) -> str:
    """`path` if it is one.  Guests' paths relative to a domain's directory are kept shorter, so that every domain can
    reach them."""
    if len(path) > XENSTORE_ABS_PATH_MAX or not PATH.fullmatch(path):
        raise XenError(EINVAL, "path")
    if domid and path.startswith("/local/domain/"):
        relative = path.split("/", 4)[4:]
        if relative and len(relative[0]) > XENSTORE_REL_PATH_MAX:
            raise XenError(EINVAL, "path")
    return path


class View:
    """The store as outside of any transaction."""

    def __init__(self, tree: "Tree") -> None:
        self.tree = tree

    def get(self, path: str) -> Node | None:
        return self.tree.nodes.get(path)

    def put(self, path: str, node: Node | None) -> None:
        self.tree.replace(path, node)

    def changed(self, path: str, exact: bool, old: tuple[Perm, ...] | None) -> None:
        self.tree.on_change(path, exact, old)

    def owned(self, domid: int) -> int:
        """How many nodes the domain owns."""
        return self.tree.owned.get(domid, 0)


class Transaction(View):
    """The store as one transaction sees it."""

    def __init__(self, tree: "Tree", domid: int) -> None:
        super().__init__(tree)
        self.domid = domid
        self.seen: dict[str, Node | None] = {}  # as they were at the first access
        self.written: dict[str, Node | None] = {}
        self.changes: dict[str, tuple[bool, tuple[Perm, ...] | None]] = {}
        self.growth: dict[int, int] = {}

    def get(self, path: str) -> Node | None:
        if path in self.written:
            return self.written[path]
        if path not in self.seen:
            if self.domid and len(self.seen) >= self.tree.quota.transaction_nodes:
                raise XenError(ENOSPC, "nodes in a transaction")
            self.seen[path] = self.tree.nodes.get(path)
        return self.seen[path]

    def put(self, path: str, node: Node | None) -> None:
        for other, step in ((self.get(path), -1), (node, 1)):
            if other is not None:
                self.growth[other.owner] = self.growth.get(other.owner, 0) + step
        self.written[path] = node

    def changed(self, path: str, exact: bool, old: tuple[Perm, ...] | None) -> None:
        before = self.changes.get(path)
        self.changes[path] = (exact and before[0], before[1]) if before else (exact, old)

    def owned(self, domid: int) -> int:
        return super().owned(domid) + self.growth.get(domid, 0)

    def commit(self) -> None:
        """Apply everything, or EAGAIN if a node that was touched is no longer the one that was seen."""
        nodes = self.tree.nodes
        for path, node in self.seen.items():
            if nodes.get(path) is not node:
                raise XenError(EAGAIN, path)
        limit = self.tree.quota.nodes
        if self.domid and self.growth.get(self.domid, 0) > 0 and self.owned(self.domid) > limit:
            raise XenError(ENOSPC, "nodes")
        for path, node in self.written.items():
            if node is not None or path in nodes:
                self.tree.replace(path, node)
        for path, (exact, old) in self.changes.items():
            self.tree.on_change(path, exact, old)


class Tree:
    """All nodes, and every operation a domain may ask for.  Domain 0 is privileged: it passes all checks and has no
    quota."""

    def __init__(self, quota: Quota | None = None) -> None:
        self.quota = quota or Quota()
        self.generation = 0
        self.nodes: dict[str, Node] = {}
        self.owned: dict[int, int] = {}
        self.targets: dict[int, int] = {}  # SET_TARGET: a device model's domain acts for its guest
        self.specials: dict[str, tuple[Perm, ...]] = {name: (Perm(NONE, 0),) for name in SPECIALS}
        self.transactions: dict[int, dict[int, Transaction]] = {}
        self.next_transaction = 0
        self.on_change: Callable[[str, bool, tuple[Perm, ...] | None], None] = lambda path, exact, old: None
        self.direct = View(self)
        self.replace("/", Node(b"", (Perm(NONE, 0),), (), 0))
        for path in ("/tool/xenstored", "/local/domain", "/vm", "/libxl"):
            self.mkdir(0, path)

    def replace(self, path: str, node: Node | None) -> None:
        """The one place where the store changes."""
        old = self.nodes.pop(path, None) if node is None else self.nodes.get(path)
        if old is not None:
            self.owned[old.owner] -= 1
        if node is not None:
            self.generation += 1
            self.owned[node.owner] = self.owned.get(node.owner, 0) + 1
            self.nodes[path] = node._replace(generation=self.generation)

    # -- permissions --

    def access(self, domid: int, perms: tuple[Perm, ...]) -> int:
        """What a domain may do to a node with these permissions."""
        who = (domid, self.targets.get(domid, domid))
        if not domid or perms[0].domid in who:
            return BOTH
        return next((perm.access for perm in perms[1:] if perm.domid in who), perms[0].access)

    def permitted(self, view: View, domid: int, path: str, need: int) -> Node:
        """The node, if the domain may do that to it; it does not learn what is missing below what it may not read."""
        node = view.get(path)
        if node is not None:
            if self.access(domid, node.perms) & need != need:
                raise XenError(EACCES, path)
            return node
        while node is None:
            path = parent_of(path)
            node = view.get(path)
        raise XenError(ENOENT if self.access(domid, node.perms) & READ else EACCES, path)

    # -- operations --

    def view(self, domid: int, transaction: int) -> View:
        if not transaction:
            return self.direct
        try:
            return self.transactions[domid][transaction]
        except KeyError:
            raise XenError(ENOENT, f"transaction {transaction}") from None

    def node(self, domid: int, path: str, transaction: int = 0) -> Node:
        """The node, for reading: its value, children, generation and permissions."""
        return self.permitted(self.view(domid, transaction), domid, check_path(domid, path), READ)

    def read(self, domid: int, path: str, transaction: int = 0) -> bytes:
        return self.node(domid, path, transaction).value

    def directory(self, domid: int, path: str, transaction: int = 0) -> tuple[str, ...]:
        return self.node(domid, path, transaction).children

    def exists(self, path: str) -> bool:
        return path in self.nodes

    def get_perms(self, domid: int, path: str, transaction: int = 0) -> tuple[Perm, ...]:
        if path in self.specials and not domid:
            return self.specials[path]
        return self.node(domid, path, transaction).perms

    def write(self, domid: int, path: str, value: bytes, transaction: int = 0) -> None:
        view = self.view(domid, transaction)
        node = view.get(check_path(domid, path))
        if node is None:
            self.create(view, domid, path, value)
        else:
            self.permitted(view, domid, path, WRITE)
            self.put(view, domid, path, node._replace(value=value))
        view.changed(path, False, node.perms if node else None)

    def mkdir(self, domid: int, path: str, transaction: int = 0) -> None:
        view = self.view(domid, transaction)
        node = view.get(check_path(domid, path))
        if node is not None:  # no error to whoever could have made it
            self.permitted(view, domid, path, WRITE)
            return
        self.create(view, domid, path, b"")
        view.changed(path, False, None)

    def create(self, view: View, domid: int, path: str, value: bytes) -> None:
        """Make a node and its missing ancestors; they inherit their parent's permissions and belong to the domain
        that makes them."""
        missing = [path]
        while (parent := view.get(parent_of(missing[-1]))) is None:
            missing.append(parent_of(missing[-1]))
        if not self.access(domid, parent.perms) & WRITE:
            raise XenError(EACCES, path)
        perms = parent.perms
        if domid:
            perms = (Perm(perms[0].access, domid), *perms[1:])
            if view.owned(domid) + len(missing) > self.quota.nodes:
                raise XenError(ENOSPC, "nodes")
        missing.reverse()
        above = parent_of(missing[0])
        names = [each[each.rindex("/") + 1 :] for each in missing]
        added = [(above, parent._replace(children=(*parent.children, names[0])))]
        for i, each in enumerate(missing):
            added.append((each, Node(value if each == path else b"", perms, tuple(names[i + 1 : i + 2]), 0)))
        for _, node in added:
            self.check_size(domid, node)
        for each, node in added:
            view.put(each, node)

    def put(self, view: View, domid: int, path: str, node: Node) -> None:
        self.check_size(domid, node)
        view.put(path, node)

    def check_size(self, domid: int, node: Node) -> None:
        if domid and node.entry_size() > self.quota.entry_size:
            raise XenError(ENOSPC, "entry size")

    def rm(self, domid: int, path: str, transaction: int = 0) -> None:
        view = self.view(domid, transaction)
        if check_path(domid, path) == "/":
            raise XenError(EINVAL, path)
        above = parent_of(path)
        node = view.get(path)
        if node is None:
            self.permitted(view, domid, above, READ)
            return
        self.permitted(view, domid, path, WRITE)
        parent = view.get(above)
        assert parent is not None
        name = path[path.rindex("/") + 1 :]
        view.put(above, parent._replace(children=tuple(each for each in parent.children if each != name)))
        self.remove(view, path, node)
        view.changed(path, False, node.perms)

    def remove(self, view: View, path: str, node: Node) -> None:
        """Delete a subtree.  Watches on exactly a node below are told; those above hear of the top node only."""
        for name in node.children:
            below = child_of(path, name)
            child = view.get(below)
            if child is not None:
                self.remove(view, below, child)
                view.changed(below, True, child.perms)
        view.put(path, None)

    def set_perms(self, domid: int, path: str, perms: tuple[Perm, ...], transaction: int = 0) -> None:
        if not perms:
            raise XenError(EINVAL, "no permissions")
        if path in self.specials and not domid:
            self.specials[path] = perms
            return
        view = self.view(domid, transaction)
        node = self.permitted(view, domid, check_path(domid, path), WRITE)
        if domid:
            if node.owner not in (domid, self.targets.get(domid)):
                raise XenError(EACCES, path)
            if perms[0].domid != node.owner:  # a node cannot be given away
                raise XenError(EPERM, path)
            if len(perms) > self.quota.permissions:
                raise XenError(ENOSPC, "permissions")
        self.put(view, domid, path, node._replace(perms=perms))
        view.changed(path, False, node.perms)

    # -- transactions --

    def start_transaction(self, domid: int) -> int:
        mine = self.transactions.setdefault(domid, {})
        if domid and len(mine) >= self.quota.transactions:
            raise XenError(ENOSPC, "transactions")
        while not self.next_transaction or self.next_transaction in mine:
            self.next_transaction = (self.next_transaction + 1) & 0xFFFFFFFF
        mine[self.next_transaction] = Transaction(self, domid)
        self.next_transaction, number = (self.next_transaction + 1) & 0xFFFFFFFF, self.next_transaction
        return number

    def end_transaction(self, domid: int, number: int, commit: bool) -> None:
        try:
            transaction = self.transactions[domid].pop(number)
        except KeyError:
            raise XenError(ENOENT, f"transaction {number}") from None
        if commit:
            transaction.commit()

    def drop_transactions(self, domid: int) -> None:
        self.transactions.pop(domid, None)

    # -- the end of a domain --

    def forget_domain(self, domid: int) -> None:
        """Remove what a dead domain owned, and its rights, so that the next domain with its number inherits nothing
        (XSA-322)."""
        self.drop_transactions(domid)
        self.targets.pop(domid, None)
        for path in [path for path, node in self.nodes.items() if node.owner == domid]:
            if path in self.nodes and path != "/":
                self.rm(0, path)
        for path, node in list(self.nodes.items()):
            kept = tuple(perm for perm in node.perms if perm.domid != domid)
            if len(kept) != len(node.perms):
                self.replace(path, node._replace(perms=kept))


