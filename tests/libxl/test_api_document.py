"""docs/api.md says what the docstrings say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_api_document_is_up_to_date():
    """tools/gen_api.py would write the same again (run it after a change of the API)."""
    pytest.importorskip("xenfast._core")
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "gen_api.py"), "--print"], capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "api.md").read_text() == done.stdout
