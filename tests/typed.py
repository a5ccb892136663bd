"""A command line typed in this process."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

from tunesmith.cli import main


def tunesmith(*words: object) -> tuple[int, list[str]]:
    """Exit code and the lines of standard error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    assert "Traceback" not in err.getvalue()
    return code, err.getvalue().splitlines()
