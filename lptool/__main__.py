"""The program, as `lptool` and as `python -m lptool`."""

from __future__ import annotations

import os
import signal
import sys


def run() -> None:
    """Run it; Ctrl-C before the command line is there, or after the command has ended, shows no traceback either."""
    try:
        from lptool.cli import main

        main()
    except KeyboardInterrupt:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            sys.stderr.write("Interrupted; nothing was begun.\n")
        raise SystemExit(130) from None
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    run()
