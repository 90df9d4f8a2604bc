"""`python -m tests.surface --write`: make the snapshots of the public surface anew."""

from __future__ import annotations

import sys

from tests.surface import kinds

if sys.argv[1:] != ["--write"]:
    sys.exit(__doc__)
for kind in kinds.KINDS:
    kinds.file(kind).write_text(kinds.text(kind))
