"""What people on call need of `recsys`: the publications, and the keys of the service."""

from __future__ import annotations

from typing import Annotated

import typer

from recsys.cli_arguments import database, end_of, show

publications = typer.Typer(no_args_is_help=True, help="What readers see: list, verify, roll back.")
keys = typer.Typer(no_args_is_help=True, help="API keys of the service: create, list, revoke.")


@publications.command("list")
def publications_list(limit: Annotated[int, typer.Option(min=1, max=1000)] = 20) -> None:
    """The newest publications; the one that readers see is marked."""
    from recsys.steps import publications

    publications.show(limit=limit)


@publications.command("verify")
def publications_verify(
    publication: Annotated[int | None, typer.Argument(help="Its number; the live one by default.")] = None,
) -> None:
    """Check the stored rows of a publication against every invariant."""
    from recsys.steps import publications

    show(publications.verify(publication))


@publications.command("rollback")
def publications_rollback(
    to: Annotated[
        int | None, typer.Option(help="Number of a publication; the one before the live one by default.")
    ] = None,
) -> None:
    """Move the pointer back to an older publication."""
    from recsys.steps import publications

    show(publications.rollback(to))


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="Who uses the key.")],
    scope: Annotated[
        list[str],
        typer.Option(help="recommend, events, catalogue, users, metrics or admin (which allows all); repeatedly."),
    ],
    rate: Annotated[
        float | None, typer.Option(help="Requests per second and worker; API_RATE_PER_S of the service by default.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: in 90d, 12h, or at an instant, ISO 8601, UTC. Never by default.")
    ] = None,
) -> None:
    """Make a key and print it, alone on standard output."""
    from recsys.storage import api_keys

    text, key = api_keys.create(database(), name, scope, rate, end_of(expires))
    ends = f" until {key.expires_at.isoformat()}" if key.expires_at else ""
    typer.echo(text)
    typer.echo(
        f"Key {key.key_id} of {key.name!r} may {', '.join(key.scopes)}{ends}. Keep it now: it will not be shown again. "
        "Running services know it within seconds; send it as `Authorization: Bearer <key>`.",
        err=True,
    )


@keys.command("list")
def keys_list() -> None:
    """All keys, without their secrets."""
    from recsys.storage import api_keys

    show([key._asdict() for key in api_keys.every(database())])


@keys.command("revoke")
def keys_revoke(key_id: Annotated[str, typer.Argument(help="The id that `recsys keys list` shows.")]) -> None:
    """End a key for good; running services refuse it within seconds."""
    from recsys.storage import api_keys

    show(api_keys.revoke(database(), key_id)._asdict())
