"""The verbs of pexpect on a domain's console, on a domain that is a few lines of Python."""

import io
import re

import pytest

from xenfast.libxl.console import EOF, TIMEOUT, Console, DomainEnded, TimedOut


class FakeDomain:
    """A domain that prints one piece of a script whenever somebody waits."""

    def __init__(self, *script):
        self.script = list(script)
        self.ended = None
        self.typed = b""
        self.console = Console(self)

    def run(self, until, timeout=None):
        while not until():
            if not self.script:
                return "timeout"
            piece = self.script.pop(0)
            if piece is EOF:
                self.ended = "poweroff"
            else:
                self.console.received(piece.encode())
        return "until"

    def drain(self):
        pass

    def type_in(self, data):
        self.typed += data


def test_a_single_pattern_gives_the_match():
    """before, after and match tell of it; the next search begins behind it."""
    console = FakeDomain("one tw", "o three", "two").console
    match = console.expect(r"t(w)o")
    assert (match[1], console.before, console.after, console.match is match) == ("w", "one ", "two", True)
    assert console.expect("two").start() == len("one two three") and console.before == " three"


def test_a_list_gives_the_index_of_what_came_first():
    """The earliest match counts; among those that begin together, the first of the list."""
    console = FakeDomain("b a").console
    assert console.expect(["a", "b", re.compile("b a")]) == 1
    assert console.match_index == 1 and console.buffer == " a"


def test_the_end_and_time():
    """EOF and TIMEOUT in a list are results, otherwise exceptions, which are one sentence."""
    console = FakeDomain("last words\n", EOF).console
    assert console.expect(["x", TIMEOUT, EOF]) == 2
    assert console.before == "last words\n" and console.after is EOF
    with pytest.raises(DomainEnded, match=r"ended \(poweroff\) before 'x' was seen; its last line is 'last words'"):
        console.expect("x")
    assert console.expect("x", or_end=True) is None
    console = FakeDomain("abc").console
    assert console.expect([TIMEOUT, "x"]) == 0 and console.before == "abc"
    with pytest.raises(TimedOut, match="has not shown 'x'"):
        console.expect("x")
    with pytest.raises(TypeError):
        console.expect([ValueError])


def test_exact_strings():
    """Nothing in them is special."""
    console = FakeDomain("a+b? [x]").console
    assert console.expect_exact(["?", "+"]) == 1
    assert console.expect_exact("[x]").group() == "[x]"


def test_lines():
    """readline, iteration and read take what has not been taken."""
    console = FakeDomain("one\r\ntw", "o\r\nthree\nrest", EOF).console
    assert [console.readline(), console.readline()] == ["one\r\n", "two\r\n"]
    assert console.read(3) == "thr" and console.read_nonblocking(100) == "ee\nrest"
    assert console.read() == "" and console.readline() == ""
    assert FakeDomain("a\nb", EOF).console.readlines() == ["a\n", "b"]


def test_typing():
    """Lines, control characters; the log files get input and output."""
    domain = FakeDomain("out")
    console = domain.console
    console.logfile, console.logfile_send, console.logfile_read = io.StringIO(), io.StringIO(), io.StringIO()
    assert console.sendline("ls") == 3 and console.sendcontrol("c") == 1
    console.sendeof()
    console.sendcontrol("]")
    console.writelines(["a", "b"])
    console.expect("out")
    assert domain.typed == b"ls\n\x03\x04\x1dab"
    assert console.logfile.getvalue() == domain.typed.decode() + "out"
    assert (console.logfile_send.getvalue(), console.logfile_read.getvalue()) == (domain.typed.decode(), "out")
    for bad in ("", "cc", "1"):
        with pytest.raises(ValueError, match="no Ctrl-"):
            console.sendcontrol(bad)


def test_text_is_utf8_also_in_pieces():
    """A character may come in two pieces; what is not UTF-8 is shown as such."""
    console = FakeDomain().console
    for piece in (b"\xc3", b"\xa4\xff", b"z"):
        console.received(piece)
    assert console.text == "ä�z" and console.count == 4


def test_the_kept_text_is_bounded():
    """With a limit the oldest text goes, and searches go on where they were."""
    console = FakeDomain("a" * 50 + "b", "c" * 50).console
    console.limit = 60
    console.expect("b")
    console.expect("c{50}")
    assert len(console.text) == 60 and console.buffer == ""


def test_listeners_can_go():
    """on_output returns what ends it."""
    console, got = FakeDomain().console, []
    stop = console.on_output(got.append)
    console.received(b"a")
    stop()
    console.received(b"b")
    assert got == [b"a"]
