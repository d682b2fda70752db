"""A domain's console with the verbs of pexpect: expect, before, after, match, send, sendline, readline, interact.

The guest's output is kept as text; ``expect`` looks at what has come since its last match.  A single pattern gives the
match; a list gives the index of the pattern that was found first, and may hold ``EOF`` and ``TIMEOUT``, which then are
results instead of exceptions, as in pexpect.  While such a call waits, the host runs (domain.py).
"""

from __future__ import annotations

import codecs
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO, overload

from xenfast.errors import XenfastError

if TYPE_CHECKING:
    from xenfast.libxl.domain import Domain

DEFAULT_TIMEOUT = 60.0
ESCAPE = "\x1d"         # Ctrl-], as xl console
Pattern = str | re.Pattern[str] | type


class TimedOut(XenfastError, TimeoutError):
    """What was waited for has not happened in time.  Its name in patterns is TIMEOUT."""


class DomainEnded(XenfastError):
    """The domain has ended, so what was waited for cannot happen any more.  Its name in patterns is EOF."""


class Idle(XenfastError):
    """Virtual time only: every domain waits, and nothing is left that could wake one."""


EOF, TIMEOUT = DomainEnded, TimedOut


class Console:
    """A domain's console: everything it has printed, and a way to type.

    ``before``, ``after`` and ``match`` tell of the last ``expect``: the text before the match, the text that matched, and
    the match.  ``logfile`` gets all output and input, ``logfile_read`` the output alone, ``logfile_send`` the input.
    """

    def __init__(self, domain: Domain, limit: int | None = None, type_in: Callable[[bytes], Any] | None = None) -> None:
        self.domain = domain
        self.type_in = type_in or domain.type_in        # where input goes
        self.count = 0                      # bytes so far
        self.limit = limit                  # characters that are kept, None for all
        self.timeout = DEFAULT_TIMEOUT      # of calls that name none
        self.before = ""
        self.after: str | type = ""
        self.match: re.Match[str] | type | None = None
        self.match_index = -1
        self.logfile: TextIO | None = None
        self.logfile_read: TextIO | None = None
        self.logfile_send: TextIO | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lock = threading.Lock()       # output comes on another thread
        self._pieces: list[str] = []
        self._text = ""
        self._seen = 0                      # end of the last match, in characters of text
        self._listeners: list[Callable[[bytes], Any]] = []

    # --- output ------------------------------------------------------------------------------------------------------
    @property
    def text(self) -> str:
        """All that the domain has printed, with newlines as they came (the last ``limit`` characters, if there is one)."""
        if self._pieces:
            with self._lock:
                self._text += "".join(self._pieces)
                self._pieces.clear()
                extra = len(self._text) - self.limit if self.limit is not None else 0
                if extra > 0:
                    self._text = self._text[extra:]
                    self._seen = max(0, self._seen - extra)
        return self._text

    @property
    def buffer(self) -> str:
        """What no call has taken yet."""
        return self.text[self._seen :]

    def on_output(self, listener: Callable[[bytes], Any]) -> Callable[[], None]:
        """Call with every piece of output; returns a function that ends this."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def received(self, data: bytes) -> None:
        """The console's back end has output."""
        text = self._decoder.decode(data)
        with self._lock:
            self._pieces.append(text)
            self.count += len(data)
        if self.limit is not None and len(self._pieces) > 256:
            _ = self.text
        self._log(text, self.logfile_read)
        for listener in list(self._listeners):
            listener(data)

    # --- waiting for output ------------------------------------------------------------------------------------------
    @overload
    def expect(self, pattern: str | re.Pattern[str], timeout: float | None = ..., *, or_end: bool = ...) -> re.Match[str]: ...

    @overload
    def expect(self, pattern: list[Any] | tuple[Any, ...], timeout: float | None = ..., *, or_end: bool = ...) -> int: ...

    def expect(self, pattern: Any, timeout: float | None = -1, *, or_end: bool = False) -> Any:
        """Wait until the output since the last match holds a pattern (regular expressions).

        A single pattern gives the match, a list of them the index of the one found first; ``timeout`` is in seconds, None
        for ever, -1 for ``self.timeout``.  TimedOut when it does not come in time; DomainEnded when the domain has ended
        without (None instead with ``or_end``); in a list, the classes TIMEOUT and EOF are results.
        """
        patterns = list(pattern) if isinstance(pattern, (list, tuple)) else [pattern]
        found = self._wait_for([_compiled(each) for each in patterns], timeout, or_end)
        return found if isinstance(pattern, (list, tuple)) else None if found is None else self.match

    def expect_exact(self, pattern: Any, timeout: float | None = -1) -> Any:
        """As ``expect``, for plain strings."""
        escape: list[Any] = [each if isinstance(each, type) else re.escape(each) for each in _as_list(pattern)]
        return self.expect(escape if isinstance(pattern, (list, tuple)) else escape[0], timeout)

    async def expect_async(self, pattern: Any, timeout: float | None = -1) -> Any:
        """As ``expect``, without blocking the event loop of asyncio; the host runs by itself from then on."""
        patterns = [_compiled(each) for each in _as_list(pattern)]
        search = _Search(self, patterns)
        if not search():
            await self.domain.host.run_async(search, self._seconds(timeout))
        found = self._settle(search, patterns, False)
        return found if isinstance(pattern, (list, tuple)) else self.match

    def _wait_for(self, patterns: list[Any], timeout: float | None, or_end: bool) -> int | None:
        search = _Search(self, patterns)
        if not search() and self.domain.run(search, self._seconds(timeout)) == "idle" and not search():
            raise Idle(f"every domain waits, and the console has not shown {_names(patterns)}{self._tail()}")
        return self._settle(search, patterns, or_end)

    def _settle(self, search: _Search, patterns: list[Any], or_end: bool) -> int | None:
        """Set before, after and match, or raise."""
        if search.found is None and self.domain.ended is not None:
            self.domain.drain()
            search.look()
        if search.found is not None:
            index, match = search.found
            self.before, self.after, self.match = self.text[self._seen : match.start()], match.group(), match
            self.match_index = index
            self._seen = match.end()
            return index
        ended = self.domain.ended is not None
        special = EOF if ended else TIMEOUT
        self.before, self.after, self.match, self.match_index = self.buffer, special, special, -1
        if special in patterns:
            self.match_index = patterns.index(special)
            return self.match_index
        if not ended:
            raise TimedOut(f"the console has not shown {_names(patterns)}{self._tail()}")
        if or_end:
            return None
        raise DomainEnded(f"the domain ended ({self.domain.ended}) before {_names(patterns)} was seen{self._tail()}")

    def _seconds(self, timeout: float | None) -> float | None:
        return self.timeout if timeout == -1 else timeout

    def read(self, size: int = -1, timeout: float | None = -1) -> str:
        """So many characters, or all until the domain ends."""
        if size == 0:
            return ""
        if size < 0:
            self.expect([EOF], timeout)
            return self._take(len(self.buffer))
        self.expect([re.compile("." * size if size < 64 else f"(?:.){{{size}}}", re.S), EOF], timeout)
        return self.after if isinstance(self.after, str) else self._take(size)

    def readline(self, timeout: float | None = -1) -> str:
        """The next line with its end, or what is left when the domain has ended; "" when that is nothing."""
        if self.expect([re.compile(r"[^\n]*\n"), EOF], timeout) == 0:
            assert isinstance(self.after, str)
            return self.after
        return self._take(len(self.buffer))

    def readlines(self) -> list[str]:
        """All lines until the domain ends."""
        return list(self)

    def __iter__(self) -> Iterator[str]:
        while line := self.readline():
            yield line

    def read_nonblocking(self, size: int = 1) -> str:
        """What is there already, at most so many characters."""
        return self._take(size)

    def _take(self, size: int) -> str:
        text = self.buffer[:size]
        self._seen += len(text)
        return text

    # --- input -------------------------------------------------------------------------------------------------------
    def send(self, data: str | bytes) -> int:
        """Type something; it is delivered as the guest makes room for it."""
        raw = data.encode() if isinstance(data, str) else bytes(data)
        self._log(raw.decode("utf-8", "replace"), self.logfile_send)
        self.type_in(raw)
        return len(raw)

    write = send

    def sendline(self, line: str = "") -> int:
        """Type a line."""
        return self.send(line + "\n")

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.send(line)

    def sendcontrol(self, char: str) -> int:
        """Type a control character: ``sendcontrol("c")`` is Ctrl-C."""
        code = ord(char.upper()) ^ 0x40 if len(char) == 1 else -1
        if not (0 <= code <= 0x1F or code == 0x7F):
            raise ValueError(f"there is no Ctrl-{char}")
        return self.send(bytes([code]))

    def sendeof(self) -> int:
        """Type Ctrl-D."""
        return self.sendcontrol("d")

    def sendintr(self) -> int:
        """Type Ctrl-C."""
        return self.sendcontrol("c")

    def isalive(self) -> bool:
        return self.domain.ended is None

    # --- a person ----------------------------------------------------------------------------------------------------
    def interact(self, escape_character: str | None = ESCAPE, input_fd: int = 0, output_fd: int = 1) -> None:
        """Join the console to the terminal until the escape character is typed, input ends, or the domain does."""
        state = {"over": False}

        def typed() -> None:
            data = os.read(input_fd, 4096)
            escape = escape_character.encode() if escape_character else b""
            if escape and escape in data:
                data, state["over"] = data[: data.index(escape)], True
            elif not data:
                state["over"] = True
            if data:
                self.send(data)

        _write_all(output_fd, self._take(len(self.buffer)).encode())
        host = self.domain.host
        stop = self.on_output(lambda data: _write_all(output_fd, data))
        with raw_terminal(input_fd):
            host.add_reader(input_fd, typed)
            try:
                self.domain.run(lambda: state["over"] or self.domain.ended is not None)
            finally:
                host.remove_reader(input_fd)
                stop()
                self._seen = len(self.text)

    def _log(self, text: str, other: TextIO | None) -> None:
        for file in (self.logfile, other):
            if file is not None:
                file.write(text)
                file.flush()

    def _tail(self) -> str:
        last = self.text.rstrip().splitlines()[-1:]
        return f"; its last line is {last[0]!r}" if last else "; it has shown nothing"


class _Search:
    """Is one of some patterns in the output?  Looks only when there is more of it."""

    def __init__(self, console: Console, patterns: list[Any]) -> None:
        self.console = console
        self.patterns = [(index, each) for index, each in enumerate(patterns) if not isinstance(each, type)]
        self.found: tuple[int, re.Match[str]] | None = None
        self.size = -1

    def look(self) -> None:
        console = self.console
        matches = [(index, each.search(console.text, console._seen)) for index, each in self.patterns]
        self.found = min(((i, m) for i, m in matches if m), key=lambda found: (found[1].start(), found[0]), default=None)

    def __call__(self) -> bool:
        if self.console.count != self.size:
            self.size = self.console.count
            self.look()
        return self.found is not None or self.console.domain.ended is not None


def _compiled(pattern: Pattern) -> Any:
    if isinstance(pattern, str):
        return re.compile(pattern)
    if isinstance(pattern, type) and pattern not in (EOF, TIMEOUT):
        raise TypeError(f"a pattern is a string, a compiled expression, EOF or TIMEOUT, not {pattern!r}")
    return pattern


def _as_list(pattern: Any) -> list:
    return list(pattern) if isinstance(pattern, (list, tuple)) else [pattern]


def _names(patterns: list[Any]) -> str:
    return " or ".join(repr(each.pattern) for each in patterns if not isinstance(each, type)) or "anything"


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


class raw_terminal:
    """``with raw_terminal(fd):`` keys come one by one and unchanged, if ``fd`` is a terminal."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.saved: Any = None

    def __enter__(self) -> raw_terminal:
        if os.isatty(self.fd):
            import termios
            import tty

            self.saved = termios.tcgetattr(self.fd)
            tty.setraw(self.fd)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.saved is not None:
            import termios

            termios.tcsetattr(self.fd, termios.TCSADRAIN, self.saved)
