"""Options, the report, and the summary at the end of a benchmark run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.report import Report

REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser):
    group = parser.getgroup("xenfast benchmarks")
    group.addoption("--rounds", type=int, default=5, help="interleaved rounds over the engines (median is taken)")
    group.addoption("--scale", type=float, default=1.0, help="length of each kernel's run, as a factor")
    group.addoption("--kernels", default="", help="comma-separated names; default: all")
    group.addoption("--engines", default="", help="comma-separated names; default: all that are here")
    group.addoption("--report-json", type=Path, help="also write the results here")
    group.addoption("--report-markdown", type=Path, help="also write the tables here")


def pytest_configure(config):
    config.stash[REPORT] = Report()


@pytest.fixture(scope="session")
def report(request):
    """The run's report; tables added to it are printed at the end."""
    return request.config.stash[REPORT]


@pytest.fixture(scope="session")
def progress(request):
    """Say what is being measured, on a terminal."""
    manager = request.config.pluginmanager.getplugin("capturemanager")

    def say(text):
        if sys.__stderr__ and sys.__stderr__.isatty():
            with manager.global_and_fixture_disabled():
                print(f"\r\033[K{text} ", end="", file=sys.__stderr__, flush=True)

    return say


def pytest_terminal_summary(terminalreporter, config):
    report = config.stash[REPORT]
    if not report.sections:
        return
    terminalreporter.write_line(report.text())
    terminalreporter.write_line("")
    for option, text in (("report_json", report.json), ("report_markdown", report.markdown)):
        path = config.getoption(option)
        if path:
            path.write_text(text())
            terminalreporter.write_line(f"written: {path}")
