"""The results of a run, as text, Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Section:
    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    sections: list[Section] = field(default_factory=list)

    def add(
        self, title: str, columns: list[str], rows: list[list[str]], notes: list[str] | None = None, **data: Any
    ) -> Section:
        """A table to be printed; ``data`` goes into the JSON."""
        section = Section(title, columns, rows, notes or [], data)
        self.sections.append(section)
        return section

    def text(self) -> str:
        return "\n".join(line for section in self.sections for line in ["", *_text(section)])

    def markdown(self) -> str:
        where = f"{machine()}, {time.strftime('%Y-%m-%d')}. Ratios count; absolute times are this machine's."
        lines = ["# Benchmarks", "", where]
        for section in self.sections:
            lines += ["", f"## {section.title}", "", "| " + " | ".join(section.columns) + " |"]
            lines.append("|" + "|".join("---" if i == 0 else "--:" for i in range(len(section.columns))) + "|")
            lines += ["| " + " | ".join(row) + " |" for row in section.rows]
            lines += [""] + [f"* {note}" for note in section.notes] if section.notes else []
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        sections = [
            {"title": s.title, "columns": s.columns, "rows": s.rows, "notes": s.notes, **s.data} for s in self.sections
        ]
        return json.dumps({"machine": machine(), "time": time.time(), "sections": sections}, indent=1)


def machine() -> str:
    """What the numbers were measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    except OSError:
        cpu = platform.machine()
    return f"{os.cpu_count()} x {cpu}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def _text(section: Section) -> list[str]:
    table = [section.columns, *section.rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(section.columns))]
    lines = [section.title, "-" * len(section.title)]
    for row in table:
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return lines + [f"  {note}" for note in section.notes]
