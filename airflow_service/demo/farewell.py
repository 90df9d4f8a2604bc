"""The end of a demo: a real user, requests that work as printed, and where everything is."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import httpx
import sqlalchemy as sa

from airflow_service.demo.database import one_row
from airflow_service.demo.place import USER, Place
from recsys.errors import RecsysError

_SOMEBODY = sa.text(
    """
    select u.user_id, i.item_id, (select json_type from id_types where entity = 'user') as user_type
    from publication_pointer p
    join publications b using (publication_id)
    join lists l on l.list_version_id = coalesce(b.manifest ->> 'ranked', b.manifest ->> 'personal')::bigint
    join users u on u.user_key = l.owner_key
    join items i on i.item_key = l.item_keys[1]
    order by cardinality(l.item_keys) desc, l.owner_key
    limit 1
    """
)


_WITH_KEYS = """
The lists are published. This database has API keys, so the service answers those alone who send one:

  curl -s -X POST {api}/recommend -H 'Content-Type: application/json' -H 'Authorization: Bearer …' -d '{{"top_k": 10}}'

`recsys keys list` names them, and `recsys keys create` makes another.

  API and its documentation   {api}/docs
  Dashboard                   {api}/dashboard
  Airflow                     {airflow}
  MLflow                      {mlflow}

`make stop` ends all of it; the data stay in {state}."""


def somebody(database_url: str) -> tuple[str | int, str]:
    """A user with a published ranked list (a personal one when no ranker has been accepted), and its first item.

    Both as their source names them.
    """
    row = one_row(database_url, _SOMEBODY)
    if row is None:
        raise RecsysError("all runs have succeeded, but no user has a published ranked or personal list")
    return (int(row.user_id) if row.user_type == "integer" else row.user_id), str(row.item_id)


def requests(url: str, user_id: str | int, item_id: str) -> list[tuple[str, dict[str, Any], str]]:
    """Three requests: (method and URL, body) and the same as a curl line."""
    body = {"user_id": user_id, "top_k": 10}
    post = f"curl -s -X POST {url}/recommend -H 'Content-Type: application/json' -d {_quoted(json.dumps(body))}"
    similar = f"{url}/similar/{quote(item_id, safe='')}"
    info = f"{url}/model/info"
    return [
        (f"POST {url}/recommend", body, post),
        (f"GET {similar}", {}, f"curl -s {_quoted(similar)}"),
        (f"GET {info}", {}, f"curl -s {info}"),
    ]


def farewell(place: Place, database_url: str, mlflow_url: str) -> str:
    """Send the requests, and say what works. RecsysError when one is not answered as it should be."""
    user_id, item_id = somebody(database_url)
    api = place.url("API_PORT")
    sent = requests(api, user_id, item_id)
    answers = []
    for target, body, _ in sent:
        method, address = target.split(" ", 1)
        answer = httpx.request(method, address, json=body or None, timeout=30)
        if answer.status_code == 401:
            return _WITH_KEYS.format(api=api, airflow=place.url("AIRFLOW_PORT"), mlflow=mlflow_url, state=place.state)
        if not answer.is_success:
            raise RecsysError(f"{target} answered {answer.status_code}: {answer.text[:500]}")
        answers.append(answer.json())
    items = [entry["item_id"] for entry in answers[0]["recommendations"]]
    curls = "\n".join(f"  {line}" for _, _, line in sent)
    return f"""
Recommendations for user {json.dumps(user_id, ensure_ascii=False)}: {json.dumps(items, ensure_ascii=False)}

{curls}

  API and its documentation   {api}/docs
  Dashboard                   {api}/dashboard
  Airflow                     {place.url("AIRFLOW_PORT")}  (user {USER}, password {place.airflow_password})
  MLflow                      {mlflow_url}

`make stop` ends all of it; the data stay in {place.state}."""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
