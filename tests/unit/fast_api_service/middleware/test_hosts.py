"""Where no key is needed, everything is open to this machine, and to none of the web pages that its browser shows."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute

from fast_api_service.middleware.hosts import WITHOUT_BODY
from tests.unit.fast_api_service.auth.test_keys import bearer, key, service
from tests.unit.fast_api_service.test_service_app import refused

EVIL = "http://evil.example"


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"host": "evil.example"}, "API_HOSTS"),
        ({"host": "localhost.evil.example:8000"}, "API_HOSTS"),
        ({"host": "192.168.0.7:8000"}, "API_HOSTS"),
        ({"host": "[2001:db8::1]:8000"}, "API_HOSTS"),
        ({"origin": EVIL}, "API_CORS_ORIGINS"),
        ({"origin": "null"}, "API_CORS_ORIGINS"),
        ({"host": "localhost:8000", "origin": "http://localhost:3000"}, "API_CORS_ORIGINS"),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, "API_CORS_ORIGINS"),
    ],
)
def test_where_no_key_is_needed_pages_of_others_may_do_nothing(headers: dict[str, str], problem: str) -> None:
    client = service([])
    for method, path in (("GET", "/users"), ("DELETE", "/users/1"), ("POST", "/recommend"), ("GET", "/docs")):
        assert problem in refused(client.call(method, path, headers=headers), 403, "forbidden")
    text, row = key("recommend")  # with a key, whoever has it may call by any name
    answer = service([row]).post("/recommend", json={}, headers=headers | bearer(text))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        *({"host": host} for host in ("localhost", "localhost:8000", "LOCALHOST:8000", "127.0.0.1:8000", "127.0.0.2")),
        *({"host": host} for host in ("[::1]:8000", "[::1]", "shop.internal:80")),
        {"host": "localhost:8000", "origin": "http://localhost:8000"},
        {"origin": "https://shop.example", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none", "sec-fetch-mode": "navigate"},
    ],
)
def test_where_no_key_is_needed_this_machine_and_the_pages_named_may_call(headers: dict[str, str]) -> None:
    client = service([], hosts=["shop.internal"], cors_origins=["https://shop.example"])
    assert client.post("/recommend", json={}, headers=headers).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}  # somebody follows a link to the page
    assert client.get("/docs", headers=link).status_code == 200


def test_what_needs_no_body_needs_a_header_that_no_form_can_send() -> None:
    client = service([])
    bodyless = {
        route.path_format
        for route in client.app.routes
        if isinstance(route, APIRoute) and "POST" in route.methods and route.body_field is None
    }
    assert len(bodyless) >= 4
    for path in bodyless:
        assert path.startswith(WITHOUT_BODY), path
        filled = path.replace("{config_id}", "0")
        for form in ({}, {"content-type": "application/x-www-form-urlencoded"}, {"content-type": "text/plain"}):
            text = refused(client.post(filled, headers=form), 403, "forbidden")
            assert "Content-Type: application/json" in text
        for fitting in ({"content-type": "application/json; charset=utf-8"}, {"x-requested-with": "curl"}):
            assert client.post(filled, headers=fitting).status_code != 403
    assert "X-Requested-With" in client.get("/docs").text  # so its button works
