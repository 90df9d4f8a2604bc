"""How often the gate accepts a ranker that is really worse, by the number of judged users.

    python -m research.gate_power [--draws 400]

Users' NDCG@10 is drawn as of two rankers of one kind: 55 % of the users have no hit, the others a value of
Beta(1.2, 3), and the challenger gives 14 % of the users another list. So 700 users make a 95 % interval of about
±6 %. A true loss takes that share of the users' values away. A row is a bound and a level with a true loss.
"""

from __future__ import annotations

import argparse

import numpy as np

from recsys.evaluation.bootstrap import relative_interval
from recsys.evaluation.metrics import Values

USERS = (70, 200, 500, 700, 2_000)
LOSSES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.43)
BOUNDS = (0.05, 0.1)
LEVELS = (0.8, 0.9, 0.95)  # two-sided: one end holds with 90, 95 and 97.5 %
NO_HIT, CHANGED = 0.55, 0.14


def paired(rng: np.random.Generator, n_users: int, loss: float) -> tuple[Values, Values]:
    """NDCG@10 of challenger and champion for the same users, each (n_users,)."""

    def values() -> Values:
        found: Values = np.where(rng.random(n_users) < NO_HIT, 0.0, rng.beta(1.2, 3, n_users))
        return found

    champion, other = values(), values()
    challenger = np.where(rng.random(n_users) < CHANGED, other, champion)
    return np.where(rng.random(n_users) < loss, 0.0, challenger), champion


def share_accepted(n_users: int, loss: float, bound: float, level: float, draws: int) -> tuple[float, float]:
    """Of `draws` shops: where a loss of the bound is ruled out, and where that or not lower (the same recipe)."""
    rng = np.random.default_rng([n_users, round(1000 * loss)])  # the same shops for every bound and level
    shown = not_lower = 0
    for seed in range(draws):
        challenger, champion = paired(rng, n_users, loss)
        low, _ = relative_interval(challenger, champion, seed=seed, level=level, n_resamples=300)
        shown += low > -bound
        not_lower += low > -bound or challenger.mean() >= champion.mean()
    return shown / draws, not_lower / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=400)
    draws = parser.parse_args().draws
    print("accepted in %: changed recipe / the champion's recipe\n")
    print(f"| bound | level | true loss | {' | '.join(f'{n} users' for n in USERS)} |")
    print(f"|---|---|---|{'---|' * len(USERS)}")
    for bound in BOUNDS:
        for level in LEVELS:
            for loss in LOSSES:
                shares = [share_accepted(n, loss, bound, level, draws) for n in USERS]
                cells = " | ".join(f"{100 * changed:.0f} / {100 * same:.0f}" for changed, same in shares)
                print(f"| {bound:.0%} | {level:.0%} | {loss:.0%} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
