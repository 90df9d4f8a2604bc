"""Names of the columns that travel between modules, in one place.

Tables of raw data keep the names of their origin (see `recsys.data.sources`); from preparation on,
these are the only ones.
"""

from typing import Final

# identity
USER_KEY: Final = "user_key"  # int32, given at import, never reused
ITEM_KEY: Final = "item_key"  # int32, given at import, never reused
CATEGORY_KEY: Final = "category_key"  # int32, -1 or null where unknown
PARENT_CATEGORY_KEY: Final = "parent_category_key"
USER_ID: Final = "user_id"  # the source's own id, as text
ITEM_ID: Final = "item_id"
CATEGORY_ID: Final = "category_id"

# events
EVENT_ID: Final = "event_id"  # int64, the order in which the source holds the events
EVENT_TYPE: Final = "event_type"
OCCURRED_AT: Final = "occurred_at"  # UTC, microseconds
WEIGHT: Final = "weight"  # float32, from the event type's weight
ACTION_LABEL: Final = "label"  # float32 in [0, 1]: 1 for the item, 0 against it; null: for it
VALUE: Final = "value"  # float64: price paid, rating given; null where there is none
PARAMETERS: Final = "parameters"  # what a client told of the event and its moment, a JSON object; null: nothing
SESSION_ID: Final = "session_id"  # int64: invoice, transaction or a gap of 30 minutes

# items as of an instant
AVAILABLE: Final = "available"
FIRST_SEEN_AT: Final = "first_seen_at"
PROPERTY: Final = "property"
RECOMMENDATION_WEIGHT: Final = "recommendation_weight"  # a property of items: an editor's weight of each
