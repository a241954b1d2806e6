"""``python -m sedembed`` is the command ``sedembed``."""

from __future__ import annotations

import sys

from sedembed.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
