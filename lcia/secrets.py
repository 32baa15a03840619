"""Secrets: passwords in addresses, found and taken out of messages, and the environment variables that hold them."""

from __future__ import annotations

import re

HIDDEN = "***"

# A colon before the first slash starts a password, unless only digits follow up to a slash or the end: a port.
_USER = re.compile(r"(://[^\s/@:]*:)(?!\d+(?:[/?#\s]|$))\S*@")
# The same in a value that is one address: there a blank belongs to the password.
_ADDRESS = re.compile(r"://[^/@:]*:(?!\d+(?:[/?#]|$)).*@", re.DOTALL)
_QUERY = re.compile(
    r"([?&](?:[\w.-]*(?:password|passwd|pwd|secret|secret_key|access_key|token|signature)|sig)=)[^\s&#'\"]+",
    re.IGNORECASE,
)

# TOKENIZERS_PARALLELISM holds none.
_NAME = re.compile(r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY", re.IGNORECASE)

_INSTEAD = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "s3a": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "abfss": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "ray": "RAY_AUTH_TOKEN",
}


def redacted(text: str) -> str:
    """The text with every password in an address, and every secret parameter of one, replaced by asterisks."""
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))


def has_password(address: str) -> bool:
    """Whether an address holds a password: scheme://user:password@host, or a secret among its parameters."""
    return _ADDRESS.search(address) is not None or _QUERY.search(address) is not None


def looks_secret(variable: str) -> bool:
    """Whether an environment variable of this name probably holds a secret."""
    return _NAME.search(variable) is not None


def instead(address: str) -> str:
    """The environment variables that give access to a place of this address's scheme without a password in it."""
    return _INSTEAD.get(address.partition("://")[0].lower(), "variables that its driver reads") + " in the environment"
