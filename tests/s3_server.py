"""An S3 server in this process, and a bucket of it; processes that are started meanwhile find it, too."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its URL, `s3://…`; skips where moto is not installed."""
    moto = pytest.importorskip("moto.server", reason="moto is a development dependency")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    import boto3

    name = f"models-{uuid.uuid4().hex}"  # the server's memory outlives one test
    boto3.client("s3").create_bucket(Bucket=name)
    try:
        yield f"s3://{name}"
    finally:
        server.stop()
