"""No message holds a password that somebody wrote into an address."""

from __future__ import annotations

import pytest

from lcia.secrets import has_password, looks_secret, redacted

WITH_PASSWORD = (
    "http://user:hunter2@tracking:5000/path",
    "http://user:hun/ter2@tracking:5000",
    "http://user:hun@ter2@tracking",
    "s3://AKIAKEY:hunter2/x+y@bucket/prefix",
    "s3://:hunter2@bucket",
    "postgresql+psycopg2://user:hunter2@db/mlflow",
    "https://user:hunter2%21@[::1]:5000",
    "postgresql://db/mlflow?password=hunter2",
    "https://host/rows.json?X-Amz-Signature=hunter2&X-Amz-Date=1",
    "http://user:123456@host",
)
WITHOUT = (
    "http://tracking:5000/path",
    "http://tracking:5000/who@where",
    "http://[::1]:8265",
    "ray://head:10001",
    "sftp://user@host/folder",
    "abfs://container@account.dfs.core.windows.net/folder",
    "s3://bucket/prefix?region=eu-central-1&endpoint_override=minio:9000",
    "sqlite:////runs/mlflow.db",
    "runs",
)


@pytest.mark.parametrize("address", WITH_PASSWORD)
def test_a_password_does_not_survive_in_a_message(address: str) -> None:
    text = redacted(f"cannot reach {address}, tried 'again'")
    assert "hunter2" not in text
    assert "ter2" not in text
    assert "123456" not in text
    assert text.startswith("cannot reach ")
    assert text.endswith("tried 'again'")


def test_what_is_no_password_stays_readable() -> None:
    assert redacted("cannot reach http://user:hunter2@tracking:5000/path") == (
        "cannot reach http://user:***@tracking:5000/path"
    )


@pytest.mark.parametrize("address", WITHOUT)
def test_an_address_without_a_password_is_left_alone(address: str) -> None:
    assert redacted(f"cannot reach {address}") == f"cannot reach {address}"
    assert not has_password(address)


@pytest.mark.parametrize("address", [*WITH_PASSWORD, "http://user:pass word@host"])
def test_an_address_with_a_password_is_known_as_one(address: str) -> None:
    assert has_password(address)


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "MYSQL_PASSWD", "OPENAI_APIKEY", "api_key"]
)
def test_a_variable_that_holds_a_secret_is_known_by_its_name(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS", "AWS_REGION"])
def test_a_setting_is_not_taken_for_a_secret(name: str) -> None:
    assert not looks_secret(name)
