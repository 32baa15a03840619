"""Nothing that goes to MLflow or into a message about it holds a secret."""

import pytest

from pipelines.tracking.redaction import redact


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://me:pass@db/x", "postgresql://***@db/x"),
        ("https://host/file?X-Amz-Signature=abc", "https://host/file"),
        ("key is hunter2hunter2!", "key is ***!"),
        ("what is 2 + 2?", "what is 2 + 2?"),
        ("max_new_tokens", "max_new_tokens"),
    ],
)
def test_secrets_are_taken_out(monkeypatch, text, clean):
    monkeypatch.setenv("SOME_API_KEY", "hunter2hunter2")
    assert redact(text) == clean
