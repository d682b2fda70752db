"""The store's nodes, permissions, quotas and transactions."""

import random
from errno import EACCES, EAGAIN, EINVAL, ENOENT, ENOSPC, EPERM, errorcode

import pytest

from xenfast.errors import XenError
from xenfast.xenstore.tree import BOTH, NONE, READ, Perm, Quota, Tree, parent_of, parse_perm

HOME = "/local/domain/7"


@pytest.fixture
def tree():
    tree = Tree()
    tree.mkdir(0, HOME)
    tree.set_perms(0, HOME, (Perm(NONE, 7),))
    return tree


def fails(errno):
    return pytest.raises(XenError, match=errorcode[errno])


def test_write_creates_missing_parents_with_empty_values(tree):
    """WRITE makes the whole path; what it made on the way is empty."""
    tree.write(7, f"{HOME}/a/b", b"x")
    assert tree.read(7, f"{HOME}/a") == b""
    assert tree.read(7, f"{HOME}/a/b") == b"x"
    assert tree.directory(7, HOME) == ("a",)


def test_values_are_bytes(tree):
    """A value may hold any byte, nuls included."""
    tree.write(7, f"{HOME}/a", bytes(range(256)))
    assert tree.read(7, f"{HOME}/a") == bytes(range(256))


def test_new_nodes_belong_to_their_maker_and_inherit_the_rest(tree):
    """A node made by a domain is owned by it; the other permissions come from the parent."""
    tree.set_perms(0, HOME, (Perm(NONE, 0), Perm(BOTH, 7), Perm(READ, 3)))
    tree.write(7, f"{HOME}/a", b"")
    assert tree.get_perms(0, f"{HOME}/a") == (Perm(NONE, 7), Perm(BOTH, 7), Perm(READ, 3))


@pytest.mark.parametrize("path", ["", "a", "/a/", "//a", "/a//b", "/a b", "/é", "/a\0", "/" + "a" * 3072, "/a\n"])
def test_bad_paths_are_refused(tree, path):
    """Only the characters of the specification, no empty component, no path beyond XENSTORE_ABS_PATH_MAX."""
    with fails(EINVAL):
        tree.write(0, path, b"")


def test_rm_takes_the_subtree_and_tolerates_absence(tree):
    """RM removes all below; it fails only when the parent does not exist either."""
    tree.write(7, f"{HOME}/a/b/c", b"")
    tree.rm(7, f"{HOME}/a")
    assert tree.directory(7, HOME) == ()
    assert not tree.exists(f"{HOME}/a/b/c")
    tree.rm(7, f"{HOME}/a")
    with fails(ENOENT):
        tree.rm(7, f"{HOME}/a/b")
    with fails(EINVAL):
        tree.rm(0, "/")


def test_a_domain_may_not_touch_what_it_is_not_given(tree):
    """Another domain neither reads, writes nor learns whether a node exists."""
    tree.write(7, f"{HOME}/a", b"secret")
    for operation in (
        lambda: tree.read(5, f"{HOME}/a"),
        lambda: tree.read(5, f"{HOME}/missing"),
        lambda: tree.write(5, f"{HOME}/a", b""),
        lambda: tree.write(5, f"{HOME}/b", b""),
        lambda: tree.rm(5, f"{HOME}/a"),
        lambda: tree.set_perms(5, f"{HOME}/a", (Perm(BOTH, 5),)),
    ):
        with fails(EACCES):
            operation()


def test_a_node_is_not_given_away(tree):
    """A domain may share its node, but not change the owner (its quota would go with it)."""
    tree.write(7, f"{HOME}/a", b"v")
    tree.set_perms(7, f"{HOME}/a", (Perm(NONE, 7), Perm(READ, 5)))
    assert tree.read(5, f"{HOME}/a") == b"v"
    with fails(EPERM):
        tree.set_perms(7, f"{HOME}/a", (Perm(NONE, 5),))


def test_a_device_model_acts_for_its_target(tree):
    """After SET_TARGET a domain has the rights of the domain it serves."""
    tree.targets[9] = 7
    tree.write(9, f"{HOME}/a", b"v")
    assert tree.read(9, f"{HOME}/a") == b"v"


def test_quotas_stop_a_guest_and_not_domain_0():
    """Nodes, size of an entry, transactions and permissions have limits for guests."""
    tree = Tree(Quota(nodes=3, entry_size=100, transactions=2, permissions=2))
    tree.mkdir(0, HOME)
    tree.set_perms(0, HOME, (Perm(NONE, 7),))
    tree.write(7, f"{HOME}/a/b", b"")
    with fails(ENOSPC):
        tree.write(7, f"{HOME}/c", b"")
    assert not tree.exists(f"{HOME}/c")
    with fails(ENOSPC):
        tree.write(7, f"{HOME}/a", b"x" * 100)
    tree.write(0, f"{HOME}/a", b"x" * 1000)
    tree.rm(7, f"{HOME}/a/b")
    tree.write(7, f"{HOME}/b", b"")
    with fails(ENOSPC):
        tree.set_perms(7, f"{HOME}/b", (Perm(NONE, 7), Perm(READ, 1), Perm(READ, 2)))
    tree.start_transaction(7), tree.start_transaction(7)
    with fails(ENOSPC):
        tree.start_transaction(7)


def test_a_transaction_cannot_get_around_the_quota():
    """Nodes made inside a transaction count."""
    tree = Tree(Quota(nodes=3))
    tree.mkdir(0, HOME)
    tree.set_perms(0, HOME, (Perm(NONE, 7),))
    number = tree.start_transaction(7)
    tree.write(7, f"{HOME}/a/b", b"", number)
    with fails(ENOSPC):
        tree.write(7, f"{HOME}/c", b"", number)
    tree.write(7, f"{HOME}/d", b"")
    with fails(EAGAIN):
        tree.end_transaction(7, number, True)


def test_a_transaction_sees_itself_and_nobody_sees_it(tree):
    """Inside, its own writes; outside, nothing until it commits."""
    number = tree.start_transaction(7)
    tree.write(7, f"{HOME}/a", b"new", number)
    assert tree.read(7, f"{HOME}/a", number) == b"new"
    assert not tree.exists(f"{HOME}/a")
    tree.end_transaction(7, number, True)
    assert tree.read(7, f"{HOME}/a") == b"new"
    with fails(ENOENT):
        tree.end_transaction(7, number, True)


def test_only_what_was_touched_conflicts(tree):
    """A commit fails with EAGAIN when a node it read or wrote has changed, and not for any other node."""
    tree.write(7, f"{HOME}/a", b"")
    tree.write(7, f"{HOME}/b", b"")
    first, second = tree.start_transaction(7), tree.start_transaction(7)
    for number in (first, second):
        tree.read(7, f"{HOME}/a", number)
    tree.write(7, f"{HOME}/b", b"other")
    tree.end_transaction(7, first, True)
    tree.write(7, f"{HOME}/a", b"changed")
    with fails(EAGAIN):
        tree.end_transaction(7, second, True)


def test_an_aborted_transaction_leaves_nothing(tree):
    """F discards everything."""
    number = tree.start_transaction(7)
    tree.write(7, f"{HOME}/a/b/c", b"", number)
    tree.rm(7, f"{HOME}/a/b", number)
    tree.end_transaction(7, number, False)
    assert tree.directory(7, HOME) == ()
    assert tree.owned[7] == 1


def test_the_next_domain_with_a_number_inherits_nothing(tree):
    """When a domain is gone its nodes are too, and it is no longer in anybody's permissions (XSA-322)."""
    tree.write(0, "/tool/shared", b"v")
    tree.set_perms(0, "/tool/shared", (Perm(NONE, 0), Perm(READ, 7)))
    tree.write(7, f"{HOME}/a/b", b"")
    tree.forget_domain(7)
    assert not tree.exists(HOME)
    assert tree.owned[7] == 0
    with fails(EACCES):
        tree.read(7, "/tool/shared")


@pytest.mark.parametrize("text", ["", "x3", "r", "r-1", "r3 ", "r999999", "rr3"])
def test_bad_permissions_are_refused(text):
    """A permission is a letter of nrwb and a domid."""
    with fails(EINVAL):
        parse_perm(text)


class Model:
    """The simplest store there is: a dict, copied for a transaction; a commit compares the parts that were touched."""

    def __init__(self):
        self.nodes = {"/": b""}

    def children(self, nodes, path):
        return sorted(each for each in nodes if each != "/" and parent_of(each) == path)

    def apply(self, nodes, operation, path, value):
        """The outcome of an operation: ("ok", result) or the errno."""
        if operation == "write":
            while path not in nodes:
                nodes[path] = value
                path, value = parent_of(path), b""
                if path in nodes:
                    return "ok"
            nodes[path] = value
            return "ok"
        if operation == "rm":
            if path == "/":
                return EINVAL
            if path not in nodes:
                return "ok" if parent_of(path) in nodes else ENOENT
            for each in [each for each in nodes if each == path or each.startswith(path + "/")]:
                del nodes[each]
            return "ok"
        if path not in nodes:
            return ENOENT
        return nodes[path] if operation == "read" else self.children(nodes, path)


def outcome(tree, operation, path, value, number):
    try:
        if operation == "write":
            tree.write(0, path, value, number)
            return "ok"
        if operation == "rm":
            tree.rm(0, path, number)
            return "ok"
        if operation == "read":
            return tree.read(0, path, number)
        return sorted(("" if path == "/" else path) + "/" + name for name in tree.directory(0, path, number))
    except XenError as error:
        return error.errno


@pytest.mark.parametrize("seed", range(20))
def test_random_operations_agree_with_a_dict(seed):
    """Random operations inside and outside of transactions give what a copied dict gives; a commit that succeeds is
    as if it had run in one go at its end, and one with no interference always succeeds."""
    random_ = random.Random(seed)
    tree, model = Tree(), Model()
    for name in tree.directory(0, "/"):
        tree.rm(0, f"/{name}")
    paths = ["/" + "/".join(random_.choice("abc") for _ in range(random_.randint(1, 4))) for _ in range(25)]
    script, number, interfered = [], 0, False
    for _ in range(300):
        roll = random_.random()
        if roll < 0.05 and not number:
            number, script, interfered = tree.start_transaction(0), [], False
        elif roll < 0.12 and number:
            check_commit(tree, model, number, script, interfered)
            number = 0
        else:
            operation = random_.choice(["write", "write", "rm", "read", "directory"])
            step = (operation, random_.choice(paths), b"%d" % random_.getrandbits(9))
            if number and random_.random() < 0.7:
                script.append((step, outcome(tree, *step, number)))
            else:
                interfered = interfered or step[0] in ("write", "rm")
                assert outcome(tree, *step, 0) == model.apply(model.nodes, *step)
    assert {path: node.value for path, node in tree.nodes.items()} == model.nodes
    assert tree.owned[0] == len(tree.nodes)


def check_commit(tree, model, number, script, interfered):
    try:
        tree.end_transaction(0, number, True)
    except XenError as error:
        assert error.errno == EAGAIN and interfered
        return
    for step, got in script:
        assert model.apply(model.nodes, *step) == got
