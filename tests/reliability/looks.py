"""What every end of a command has to look like, whatever was wrong."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

CODES = (0, 1, 130)  # 2 is for wrong usage, which no file brings about
LONGEST = 2000  # characters of a line
_FRAMES = re.compile(r"Traceback|^\s*File \".*\", line \d+|\.py:\d+: \w*(?:Warning|Error)", re.MULTILINE)


def looks_of(status: int, stdout: str, stderr: str, names: Sequence[str]) -> list[str]:
    """What is wrong with how a command ended.

    Args:
        names: of which an error has to hold one; none where it need not.
    """
    problems = []
    usage = status == 2 and any(name in stderr for name in names)  # a folder in place of a file is seen by click
    if status not in CODES and not usage:
        problems.append(f"exit status {status}")
    errors = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    if found := _FRAMES.search(stdout + stderr):
        problems.append(
            f"a traceback: {_where(stdout + stderr)}" if "Traceback" in stdout + stderr else f"{found[0]!r}"
        )
    elif status == 1 and len(errors) != 1:
        problems.append(f"{len(errors)} lines of error")
    raw = {c for c in stdout + stderr if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"}
    if raw:
        problems.append(f"control characters {sorted(raw)!r}")
    if status == 1 and names and not any(name in line for name in names for line in [stderr]):
        problems.append(f"the error names none of {', '.join(names)}")
    if longest := max(map(len, (stdout + stderr).splitlines()), default=0) if status else 0:
        problems += [f"a line of {longest} characters"] * (longest > LONGEST)
    return problems


def _where(text: str) -> str:
    """The innermost frame of ours in a traceback, and its last line."""
    ours = re.findall(r'File ".*?(lptool/[^"]+)", line (\d+)', text)
    return f"{':'.join(ours[-1]) if ours else 'none of ours'}, {text.rstrip().splitlines()[-1][:200]}"
