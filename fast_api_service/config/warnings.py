"""What of a configuration can have no effect, or leaves nothing to show: told to who puts it, not only to customers."""

from __future__ import annotations

from recsys.action import AGAINST
from recsys.columns import RECOMMENDATION_WEIGHT as WEIGHT
from recsys.serving import eligibility, filters
from recsys.serving.config import ServingConfig
from recsys.serving.snapshot import Snapshot


def warnings_of(config: ServingConfig, snapshot: Snapshot) -> list[str]:
    """One line for each surface whose rules no item fits, each name that nothing has, each type that no event has."""
    warnings: list[str] = []
    for name, surface in config.surfaces.items():
        if "editorial" in surface.sources and not len(snapshot.items.weighted()[0]):
            warnings.append(f"surfaces.{name}.sources: editorial is empty: no available item has a positive {WEIGHT}")
        if surface.filters is None:
            continue
        place = f"surfaces.{name}.filters"
        restriction = filters.resolve(surface.filters, snapshot.items, snapshot.categories, warnings, place=place)
        if not eligibility.newest(snapshot.items, set(), restriction):
            warnings.append(f"{place}: no available item is as they ask, so {name} shows nothing")
    meaning = snapshot.meaning.under(config)
    known = {*snapshot.meaning.weights, *snapshot.meaning.bought, *AGAINST}
    for rule in config.bought or ():
        if rule.event_type not in known and rule.event_type not in meaning.weights:
            shown = rule.event_type[:40]
            warnings.append(f"bought: no event of type {shown!r} is known here; there are {', '.join(sorted(known))}")
    strange = [name for name in config.event_weights or () if name not in known]
    warnings += [f"event_weights: no event of type {name[:40]!r} is known here" for name in strange]
    return warnings
