"""Notices of finished and failed runs: to Telegram, to any Apprise URL, or, when neither is set, to nobody.

TELEGRAM_BOT_TOKEN and TELEGRAM_CHAT_ID turn on the one (TELEGRAM_API_URL names a Bot API server of one's own),
APPRISE_URL the other: https://github.com/caronc/apprise/wiki lists the services that such a URL can name. A
notice that cannot be sent is logged and changes nothing else.
"""

from __future__ import annotations

import html
import logging
import os
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)


def run_succeeded(context: Mapping[str, Any]) -> None:
    """DAG callback."""
    send(f"{_dag_id(context)} succeeded", _facts(context), failed=False)


def run_failed(context: Mapping[str, Any]) -> None:
    """DAG callback."""
    send(f"{_dag_id(context)} FAILED", _facts(context), failed=True)


def step_failed(context: Mapping[str, Any]) -> None:
    """Task callback: which step it was, and what it said."""
    ti = context["ti"]
    error = context.get("exception")
    reason = f"{type(error).__name__}: {error}" if error is not None else "see its log"
    send(f"{ti.dag_id}: {ti.task_id} FAILED", f"{reason[:1000]}\n{_facts(context)}", failed=True)


def model_refused(result: Mapping[str, Any]) -> None:
    """The gate kept the old champion; `result` is what `train_ranker` gave."""
    text = f"data set: {result['dataset']}\nranker: {result['ranker']}\nreason: {result['reason']}"
    send("new ranker refused, the old champion keeps serving", text, failed=True)


def lists_dropped(dataset: str, dropped: Mapping[str, str]) -> None:
    """A publication goes without kinds of lists that are too old; `dropped`: kind → why."""
    text = "\n".join([f"data set: {dataset}", *dropped.values()])
    send(f"published without {', '.join(dropped)} lists", text, failed=True)


def send(title: str, text: str, *, failed: bool) -> None:
    """Send to every service that is configured. Never raises."""
    for service, configured, deliver in (
        ("Telegram", _telegram_is_set(), _telegram),
        ("Apprise", bool(os.environ.get("APPRISE_URL")), _apprise),
    ):
        if not configured:
            continue
        try:
            deliver(title, text, failed)
        except Exception:
            log.exception("the notice %r could not be sent by %s", title, service)


def _telegram_is_set() -> bool:
    return bool(os.environ.get("TELEGRAM_BOT_TOKEN") and os.environ.get("TELEGRAM_CHAT_ID"))


def _telegram(title: str, text: str, failed: bool) -> None:
    from airflow.providers.telegram.hooks.telegram import TelegramHook
    from telegram import Bot

    logging.getLogger("httpx").setLevel(logging.WARNING)  # its INFO lines would show the token
    token = os.environ["TELEGRAM_BOT_TOKEN"]
    hook = TelegramHook(None, token=token, chat_id=os.environ["TELEGRAM_CHAT_ID"])
    if server := os.environ.get("TELEGRAM_API_URL"):
        hook.connection = Bot(token, base_url=f"{server.rstrip('/')}/bot")
    mark = "❌" if failed else "✅"
    hook.send_message({"text": f"{mark} <b>{html.escape(title)}</b>\n{html.escape(text)}"})


def _apprise(title: str, text: str, failed: bool) -> None:
    from airflow.providers.apprise.notifications.apprise import AppriseNotifier
    from apprise import AppriseConfig, NotifyType

    config = AppriseConfig()
    if not config.add_config(os.environ["APPRISE_URL"], format="text"):
        raise ValueError("APPRISE_URL names no service that Apprise knows")
    kind = NotifyType.FAILURE if failed else NotifyType.SUCCESS
    AppriseNotifier(body=text, title=title, notify_type=kind, config=config).notify({})


def _dag_id(context: Mapping[str, Any]) -> str:
    return str(context["dag_run"].dag_id)


def _facts(context: Mapping[str, Any]) -> str:
    run = context["dag_run"]
    lines = [f"run: {run.run_id}"]
    if reason := context.get("reason"):
        lines.append(f"reason: {reason}")
    if base := os.environ.get("AIRFLOW__API__BASE_URL"):
        lines.append(f"{base.rstrip('/')}/dags/{run.dag_id}/runs/{run.run_id}")
    return "\n".join(lines)
