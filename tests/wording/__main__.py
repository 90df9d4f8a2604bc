"""`python -m tests.wording [PATH …]`: print the words that the table in CONTRIBUTING.md replaces, of these files or of
all that are checked; exit status 1 where there are any."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.wording.check import findings, paths

found = [one for path in (map(Path, sys.argv[1:]) if sys.argv[1:] else paths()) for one in findings(path)]
print("\n".join(found))
if found:
    sys.exit(f"{len(found)} of our own words; CONTRIBUTING.md has those of the field")
