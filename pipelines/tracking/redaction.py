"""What is taken out of everything that goes to MLflow or into a message about it."""

from __future__ import annotations

import os
import re

from lcia.secrets import looks_secret, redacted

_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY_OF_URL = re.compile(r"(://[^\s?]+)\?\S+")


def redact(text: str) -> str:
    """`text` without users and queries in URLs and without values of environment variables named like a secret."""
    text = _QUERY_OF_URL.sub(r"\1", _USER_IN_URL.sub("***@", redacted(text)))
    for name, value in os.environ.items():
        if len(value) >= 8 and looks_secret(name):
            text = text.replace(value, "***")
    return text
