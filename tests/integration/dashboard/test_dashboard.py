"""The dashboard: its data over HTTP from answers and events that were really made, and its page in a real browser."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from fast_api_service.dashboard.schemas import DashboardData
from recsys.storage import api_keys
from tests.integration import serving_shop as shop
from tests.integration.serving_shop import count

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")


@pytest.fixture(scope="module")
def service(database_url: str, database: sa.Engine) -> Iterator[httpx.Client]:
    """A service that showed eight answers, six of them to somebody: two of these were clicked, one was bought from."""
    with shop.served(database_url, database) as client:
        for body in (
            *({"user_id": user_id} for user_id in (501, 502, 503, 999)),
            {"session_id": "guest", "surface": "cart"},
            {"user_id": 777, "surface": "cart"},
            {},
        ):
            assert client.post("/recommend", json={"top_k": 5, **body}).status_code == 200
        client.get("/similar/1001")
        shop.wait_until(lambda: count(database, "predictions") == 8, 10)
        samples = [
            {"user_id": 501, "item_id": 1001, "event_type": "view"},  # the first of their ranked list
            {"user_id": 501, "item_id": 1002, "event_type": "transaction"},  # bought is the default's transaction
            {"session_id": "guest", "item_id": 1016, "event_type": "view"},  # the fifth of the popular ones
            {"user_id": 502, "item_id": 1060, "event_type": "transaction"},  # not shown to them
        ]
        answer = client.post("/online/data/add", json={"samples": samples}).json()
        assert answer["accepted"] == 4, answer
        yield client


def test_the_data_tell_what_came_of_the_answers(service: httpx.Client) -> None:
    response = service.get("/dashboard/data", params={"k": 4})
    assert response.status_code == 200, response.text
    data = response.json()
    DashboardData.model_validate_json(response.text)
    today = dt.datetime.now(dt.UTC).date()
    assert data["date_to"] == str(today)
    assert data["date_from"] == str(today - dt.timedelta(days=6))
    overall = data["overall"]
    assert (overall["n_answers"], overall["n_followed"], data["n_available"]) == (8, 6, 57)
    assert overall["hit_rate"] == overall["future_hit_rate"] == pytest.approx(1 / 6)  # the fifth is not among four
    assert overall["click_through"] == pytest.approx(3 / 30)
    assert overall["conversion"] == pytest.approx(1 / 6)
    assert service.get("/dashboard/data", params={"k": 5}).json()["overall"]["hit_rate"] == pytest.approx(2 / 6)
    surfaces = {row["surface"]: row for row in data["by_surface"]}
    assert {name: row["n_answers"] for name, row in surfaces.items()} == {"homepage": 5, "cart": 2, "similar": 1}
    assert surfaces["similar"]["hit_rate"] is None
    models = {(row["tier"], row["list_version"]): row for row in data["by_model"]}
    assert models["ranked", "v1"]["conversion"] == 1
    assert sum(row["n_answers"] for row in data["by_day"]) == 8
    assert sum(data["by_day"][-1]["tiers"].values()) == data["by_day"][-1]["n_answers"]
    assert (data["in_service"]["models"], data["in_service"]["config_id"]) == ({"als": "als/v1"}, 0)


def test_days_of_nothing_have_no_figures(service: httpx.Client) -> None:
    data = service.get("/dashboard/data", params={"date_to": "2020-02-29"}).json()
    assert (data["date_from"], data["by_day"], data["by_model"]) == ("2020-02-23", [], [])
    assert (data["overall"]["n_answers"], data["overall"]["hit_rate"], data["overall"]["mean_ms"]) == (0, None, None)
    assert data["overall"]["coverage"] == 0
    assert service.get("/dashboard/data?date_from=2020-02-29").json()["date_to"] == "2020-03-06"


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"date_from": "2026-03-02", "date_to": "2026-03-01"}, "earlier day first"),
        ({"date_from": "2026-01-01", "date_to": "2026-04-03"}, "93 days; ask for 92"),
        ({"date_from": "2026-3-1"}, "date_from: should be a day"),
        ({"date_from": "2026-02-30"}, "date_from: should be a day"),
        ({"date_to": "1999-12-31"}, "date_to: should be a day"),
        ({"date_to": "20260301"}, "date_to: should be a day"),
        ({"k": "0"}, "k: "),
        ({"k": "101"}, "k: "),
    ],
)
def test_what_cannot_be_asked_for_is_refused(service: httpx.Client, params: dict[str, str], problem: str) -> None:
    answer = service.get("/dashboard/data", params=params)
    assert (answer.status_code, answer.json()["status"]) == (422, "invalid_request")
    assert problem in answer.json()["error"]


def test_the_page_is_its_own_and_needs_nothing_from_elsewhere(service: httpx.Client) -> None:
    page = service.get("/dashboard")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "<script>" not in page.text
    for name in ("vendor/uPlot.min.js", "vendor/uPlot.min.css"):
        assert service.get(f"/dashboard/static/{name}").status_code == 200
    for name in ("dashboard.js", "charts.js", "dashboard.css"):
        file = service.get(f"/dashboard/static/{name}")
        assert file.status_code == 200
        for text in (file.text, page.text):
            assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
            assert "https://" not in text


def test_every_tier_has_a_colour_in_light_and_in_dark(service: httpx.Client) -> None:
    script, style = (service.get(f"/dashboard/static/dashboard.{kind}").text for kind in ("js", "css"))
    (tiers,) = re.findall(r"const TIERS = (\[.*\]);", script)
    for number, tier in enumerate(json.loads(tiers)):
        assert len(set(re.findall(rf"--c{number}: (#[0-9a-f]{{6}});", style))) == 2, tier


def shown(page: Any) -> dict[str, str]:
    """The tiles of the page: heading → text."""
    page.wait_for_selector("#tiles div")
    return dict(
        zip(page.locator("#tiles dt").all_inner_texts(), page.locator("#tiles dd").all_inner_texts(), strict=True)
    )


def legend(page: Any, chart: str) -> dict[str, str]:
    """The values that a chart tells of its last day: series → text."""
    page.wait_for_selector(f"#{chart} .u-series")
    series = page.locator(f"#{chart} .u-series")
    return dict(zip(series.locator("th").all_inner_texts(), series.locator("td").all_inner_texts(), strict=True))


def drawn(page: Any, chart: str) -> int:
    """How many pixels of a chart have the colour of ranked lists, in light."""
    script = """chart => {
        const canvas = document.querySelector(`#${chart} canvas`);
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let n = 0;
        for (let i = 0; i < data.length; i += 4) n += data[i] === 0x1f && data[i + 1] === 0x5f && data[i + 2] === 0xc4;
        return n;
    }"""
    return int(page.evaluate(script, chart))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; Debian has it: chromium-headless-shell")
def test_the_page_shows_the_figures_and_asks_for_a_key_where_one_is_needed(
    service: httpx.Client, database: sa.Engine
) -> None:
    from playwright.sync_api import sync_playwright

    address = f"http://{service.base_url.netloc.decode()}/dashboard"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 390, "height": 800})
            complaints: list[str] = []
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(address)
            tiles = shown(page)
            assert (tiles["Answers"], tiles["Followed"]) == ("8", "6")
            assert (tiles["Hit rate@10"], tiles["Click-through"], tiles["Conversion"]) == ("33.3 %", "10.0 %", "16.7 %")
            by_model = page.locator("#by_model tbody tr").all_inner_texts()
            assert any(row.split()[:2] == ["ranked", "v1"] for row in by_model)
            assert "als/v1" in page.locator("#service").inner_text()
            assert legend(page, "chart_tiers")["ranked"] == "1"
            hits = legend(page, "chart_hits")
            assert (hits["day"], hits["hit rate@10"]) == (str(dt.datetime.now(dt.UTC).date()), "33.3 %")
            assert drawn(page, "chart_tiers") > 0
            assert page.evaluate("document.documentElement.scrollWidth") <= 390  # a phone need not scroll sideways
            page.fill("#k", "4")
            page.click("#range button")
            page.locator("#tiles dt", has_text="Hit rate@4").first.wait_for()
            assert shown(page)["Hit rate@4"] == "16.7 %"
            page.fill("#date_from", "2020-01-01")
            page.click("#range button")
            page.locator("#status", has_text="ask for 92 at most").wait_for()
            assert [text for text in complaints if "422" not in text] == []

            key, _ = api_keys.create(database, "the page", ["metrics"])
            shop.wait_until(lambda: service.get("/dashboard/data").status_code == 401, 10)
            page.goto(address)
            page.wait_for_selector("#ask_key:visible")
            assert not page.locator("#content").is_visible()
            page.fill("#key", key[:-1] + ("A" if key[-1] != "A" else "B"))
            page.click("#ask_key button")
            page.locator("#status", has_text="not known").wait_for()
            page.fill("#key", key)
            page.click("#ask_key button")
            assert shown(page)["Answers"] == "8"
            page.reload()
            assert shown(page)["Answers"] == "8"  # the tab remembers the key
            other = browser.new_context().new_page()
            other.goto(address)
            other.wait_for_selector("#ask_key:visible")  # and no other one does
        finally:
            browser.close()
