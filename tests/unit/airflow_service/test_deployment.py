"""The files of the container deployment, by a parser: no engine runs them here, so what can be checked is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_service import commands
from recsys.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = [ROOT / folder / "compose.yaml" for folder in ("airflow_service", "fast_api_service")]
EXAMPLE = (ROOT / ".env.example").read_text()


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """All services, and the folder that each one's paths are relative to."""
    found = {}
    for path in COMPOSE:
        for name, service in load(path)["services"].items():
            assert name not in found
            found[name] = service | {"folder": path.parent}
    return found


def example_variables() -> set[str]:
    return set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", EXAMPLE, flags=re.MULTILINE))


def test_root_is_all_of_them_and_nothing_else() -> None:
    assert load(ROOT / "compose.yaml").keys() == {"include"}
    assert [ROOT / included for included in load(ROOT / "compose.yaml")["include"]] == COMPOSE
    assert len({load(path)["name"] for path in COMPOSE}) == 1  # started one by one, they share a network


def test_no_two_services_want_one_port(services: dict[str, dict[str, Any]]) -> None:
    ports = [port.rpartition(":")[0] for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) >= 5


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.parent.name)
def test_every_variable_is_in_the_example(path: Path) -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", path.read_text()))
    assert used
    assert used <= example_variables()


def test_commands_are_those_of_the_demo(services: dict[str, dict[str, Any]]) -> None:
    for name, command in {**commands.AIRFLOW, **commands.MLFLOW, **commands.MIGRATE}.items():
        assert tuple(services[name]["command"]) == command
        assert "settings.env" in services[name]["env_file"]


def test_services_are_pinned_not_root_and_not_open(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", service["image"]), f"{name} is not pinned"
        assert service["user"] not in ("root", "0", 0)
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network"


def test_references_point_at_something(services: dict[str, dict[str, Any]]) -> None:
    volumes = {volume for path in COMPOSE for volume in load(path).get("volumes", {})}
    for service in services.values():
        for other, condition in service.get("depends_on", {}).items():
            assert other in services
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in volumes or (service["folder"] / source).exists()
        if build := service.get("build"):
            context = (service["folder"] / build["context"]).resolve()
            assert context == ROOT
            assert (context / build["dockerfile"]).is_file()


@pytest.mark.parametrize("folder", ["airflow_service", "fast_api_service"])
def test_images_do_not_run_as_root_and_copy_what_exists(folder: str) -> None:
    lines = (ROOT / folder / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1] not in ("root", "0")
    for line in lines:
        if line.startswith("COPY "):
            sources = [word for word in line.split()[1:-1] if not word.startswith("--from=")]
            for source in sources:  # what another stage has in its /app comes from here as well
                assert (ROOT / source.removeprefix("/app/")).exists(), line


def test_demo_and_containers_share_the_settings() -> None:
    shared = commands.settings()
    assert shared["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    airflow = load(ROOT / "airflow_service" / "compose.yaml")["x-airflow"]
    assert not set(shared) & set(airflow["environment"]), "a shared setting is overridden in one of the two"


def test_example_names_every_setting() -> None:
    names = []
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names.append(alias.choices[0] if alias is not None else f"RECSYS_{name.upper()}")  # type: ignore[union-attr]
    assert set(names) <= example_variables()
