"""Numbers of the advisory locks that the service shares with the nightly steps; taken in the order keys, catalogue,
exposures."""

from __future__ import annotations

from typing import Final

KEYS: Final = 0x6B657973  # held by whoever gives new keys, for the moment of the insert
CATALOGUE: Final = 0x636174  # held by one writer of the API at a time, for milliseconds
EXPOSURES: Final = 0x73686F776E  # shared by those who write what was shown, held alone by an erasure for a moment

# One process of each kind works, others wait.
RELAY: Final = 0x72656C6179
SINK: Final = 0x73696E6B
