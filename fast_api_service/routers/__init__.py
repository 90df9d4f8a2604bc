"""The routes, one file a subject."""

from fast_api_service import id_in_path  # noqa: F401 - routes say `{item_id:id}`
