"""`python -m fast_api_service`: API_WORKERS workers (1) on API_HOST:API_PORT, by default 127.0.0.1:8000."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import uvicorn

from fast_api_service.app import create_app
from fast_api_service.middleware.protocol import OneWriteProtocol
from fast_api_service.runtime import workers
from fast_api_service.settings import ApiSettings
from recsys import log, settings
from recsys.errors import InputError, RecsysError
from recsys.serving import core


def database_url() -> str:
    """DATABASE_URL, or the embedded Postgres, which is started when it does not run."""
    configured = settings.load()
    if configured.database_url:
        return configured.database_url
    try:
        from recsys.storage.engine import database_url as embedded_url
    except ModuleNotFoundError as error:  # the light image has no Postgres of its own
        raise InputError(f"set DATABASE_URL: the embedded Postgres is not installed here ({error.name})") from None
    return embedded_url(configured)


def _help() -> argparse.ArgumentParser:
    """Takes no arguments; `--help` tells the settings."""
    lines = "\n".join(
        f"  API_{name.upper()} ({field.default}){f': {field.description}' if field.description else ''}"
        for name, field in ApiSettings.model_fields.items()
    )
    return argparse.ArgumentParser(
        prog="python -m fast_api_service",
        description="The service: one worker, or API_WORKERS of them on one port. Settings come from the environment\n"
        "or .env; the database is that of DATABASE_URL, or the embedded Postgres.",
        epilog=f"settings, with their defaults:\n{lines}\n\nPage of the routes: /docs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until it is told to end; `arguments` are those of the command line where none are given."""
    _help().parse_args(arguments)
    try:
        log.setup(settings.load().log_level, settings.load().log_format)
        api = settings.read(ApiSettings)
        url = database_url()
        app = create_app(url, api)  # workers make their own; what it cannot be made of is told before they start
    except InputError as error:
        print(f"the service cannot start: {error}", file=sys.stderr)
        sys.exit(2)
    except RecsysError as error:
        sys.exit(f"the service cannot start: {error}")
    logging.getLogger(__name__).info("serving core: %s", "compiled" if core.IS_COMPILED else "Python")
    options: dict[str, Any] = {
        "host": api.host, "port": api.port, "access_log": False, "log_config": None, "server_header": False,
        "proxy_headers": False, "http": partial(OneWriteProtocol, patience_s=api.request_timeout_s),
        "ws": "none",  # there are no WebSockets, and their library logs headers
        "timeout_graceful_shutdown": 10,
    }  # fmt: skip
    if api.workers > 1:
        sys.exit(workers.serve(url, api, options))
    uvicorn.run(app, workers=1, **options)


if __name__ == "__main__":
    main()
