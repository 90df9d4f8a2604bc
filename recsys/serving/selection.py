"""Items drawn at random by their weights, the same for a user all day: Efraimidis & Spirakis, "Weighted random sampling
with a reservoir" (2006).

Each item has a random number of its own, made of user, day and item, so that an item that comes or goes moves no other.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

N_DRAWN: Final = 5_000  # at most: what rules leave of them fills a response
_DAY_MS: Final = 86_400_000


def seed_of(who: str, now_ms: float, source: str) -> int:
    """64 bits of a user (or session, or nobody: ""), the day of `now_ms` (UTC) and a source."""
    text = f"{source}\0{int(now_ms // _DAY_MS)}\0{who}"
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def drawn(item_keys: NDArray[Any], weights: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """`item_keys` (n,) in a random order, at most `N_DRAWN` of them: each is the first with a probability proportional
    to its weight, and so on among the others. Those whose weight is not positive and finite are left out."""
    usable = np.isfinite(weights) & (weights > 0)
    keys, weight = item_keys[usable].astype(np.int64), weights[usable].astype(np.float64)
    with np.errstate(over="ignore"):  # the least weights come last
        waits = -np.log(_uniform(keys, seed)) / weight  # exponential, of rate `weight`
    if len(keys) > N_DRAWN:
        first = np.argpartition(waits, N_DRAWN - 1)[:N_DRAWN]
        keys, waits = keys[first], waits[first]
    order: NDArray[np.int64] = keys[np.lexsort((keys, waits))]
    return order


def _uniform(item_keys: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """A number in (0, 1) of each key: SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):  # modulo 2^64
        x = item_keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
