"""C structs as the ABI lays them out: little-endian, naturally aligned, packed and unpacked with ``struct``.

``Layout("evtchn_send", ("port", "I"))`` knows the offset of every field, the size with padding, and turns bytes into a
record (a tuple whose items also have names) and values into bytes.  A field's code is one of struct's (``B H I Q b h i
q``), optionally with a count for an array (``"64Q"``, a tuple in the record), ``"16s"`` for bytes, ``"3x"`` for padding
that the C struct names, or ``P`` for what is as wide as a pointer of the guest: handles, ``unsigned long``, ``xen_pfn_t``.
``layout.compat`` is the struct as a 32-bit guest has it: ``P`` has 4 bytes, and nothing is aligned to more than 4.

It has nothing of C that the ABI does not need: no bit fields, and a union is written as the layout of the member that
is meant.
"""

import re
import struct
from functools import cached_property
from operator import itemgetter
from typing import Any

_CODE = re.compile(r"(\d*)([BHIQPbhiqsx])")
_ALIGN = {"B": 1, "b": 1, "s": 1, "x": 1, "H": 2, "h": 2, "I": 4, "i": 4, "Q": 8, "q": 8}
POINTER = {8: "Q", 4: "I"}


class Layout:
    """One C struct."""

    def __init__(self, name: str, *fields: tuple[str, str], align: int = 1, word: int = 8,
                 compat: tuple[tuple[str, str], ...] | None = None) -> None:
        """``compat``: the fields that a 32-bit guest has, where they differ in more than their width."""
        self.name, self.word = name, word
        self.codes = dict(fields)
        self._compat_fields = compat or fields
        self._compat_align = min(align, 4)
        self.offset: dict[str, int] = {}
        parts, names, arrays, at = ["<"], [], [], 0
        for field, code in fields:
            match = _CODE.fullmatch(code)
            if not match:
                raise ValueError(f"{name}.{field}: bad code {code!r}")
            char = POINTER[word] if match[2] == "P" else match[2]
            code = match[1] + char
            count, size = int(match[1] or 1), _ALIGN[char]
            pad = -at % min(size, word)
            align = max(align, min(size, word))
            parts.append(f"{pad}x{code}" if pad else code)
            at += pad
            self.offset[field] = at
            at += size * count
            if char != "x":
                names.append(field)
                arrays.append(count if match[1] and char != "s" else 0)
        pad = -at % align
        parts.append(f"{pad}x" if pad else "")
        self.fields = tuple(names)
        self.struct = struct.Struct("".join(parts))
        self.size = self.struct.size
        self._arrays = tuple(arrays) if any(arrays) else ()
        self._zeros: dict[str, Any] = {f: b"" if code[-1] == "s" else 0 for f, code in fields}
        members: dict[str, Any] = {field: property(itemgetter(i)) for i, field in enumerate(names)}
        members["__slots__"] = ()
        members["__repr__"] = lambda record: f"{name}({', '.join(f'{k}={v!r}' for k, v in zip(names, record))})"
        self._record = type(name, (tuple,), members)

    @cached_property
    def compat(self) -> "Layout":
        return self if self.word == 4 else Layout(self.name, *self._compat_fields, align=self._compat_align, word=4)

    def unpack(self, data: Any, offset: int = 0) -> Any:
        """The record at ``offset`` of some bytes."""
        values = self.struct.unpack_from(data, offset)
        return self._record(self._group(values) if self._arrays else values)

    def _group(self, values: tuple) -> list:
        grouped, at = [], 0
        for count in self._arrays:
            grouped.append(values[at:at + count] if count else values[at])
            at += count or 1
        return grouped

    def pack(self, **values: Any) -> bytes:
        """The bytes of a struct with these fields; the others are zero."""
        flat: list[Any] = []
        codes = self._arrays or (0,) * len(self.fields)
        for field, count in zip(self.fields, codes, strict=True):
            value = values.pop(field, None)
            if count:
                flat.extend(value if value is not None else (0,) * count)
            else:
                flat.append(value if value is not None else self._zeros[field])
        if values:
            raise TypeError(f"{self.name} has no field {', '.join(sorted(values))}")
        return self.struct.pack(*flat)
