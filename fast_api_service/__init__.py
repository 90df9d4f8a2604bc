"""The HTTP service: serves the published lists in milliseconds. Run it by `python -m fast_api_service`."""
