"""Storage in trouble: away for a while, which is waited for, or full, which is told with the place and the remedy."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential

from lcia.secrets import redacted

LOG = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
FIRST_WAIT, LONGEST_WAIT = 0.5, 8.0

_AWAY = frozenset(
    {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.EBUSY, errno.EPIPE, errno.ETIMEDOUT, errno.ENOTCONN,
     errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
     errno.ENETUNREACH, errno.ENETRESET}
)  # fmt: skip
_STAYS = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
_REFUSED = re.compile(
    "ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|AUTHENTICATION|UNAUTHENTICATED|EXPIRED_TOKEN"
    "|NO_SUCH_|PERMISSION_DENIED|HTTP status 40[0134]"
)
"""What object stores say where asking again cannot help; their errors have no number."""
_NO_SPACE = re.compile(r"no space left|disk quota exceeded|os error (28|122)\b", re.IGNORECASE)

P = ParamSpec("P")
T = TypeVar("T")


class StoreError(RuntimeError):
    """Storage cannot give or take what is asked of it; the same command goes on when it can."""


def patiently(place: str, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """do(*args, **kwargs), tried again with growing pauses while the storage at `place` is away; it must be repeatable.

    Raises:
        StoreError: it is still away after PATIENCE_SECONDS.
    """

    def tell(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            error = redacted(str(state.outcome.exception()))
            LOG.warning("%s is away (%s): trying again for %.0f s", redacted(place), error, PATIENCE_SECONDS)

    retrying = Retrying(
        stop=stop_after_delay(PATIENCE_SECONDS),
        wait=wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        retry=retry_if_exception(is_away),
        before_sleep=tell,
        reraise=True,
    )
    try:
        return retrying(do, *args, **kwargs)
    except OSError as error:
        if not is_away(error):
            raise
        raise StoreError(
            f"{redacted(place)} is still away ({redacted(str(error))}): when it is back, run the same command again; "
            "what is finished is kept"
        ) from error


def is_away(error: BaseException) -> bool:
    """Whether the storage may serve again soon. A missing file, a refusal and a full disk stay as they are."""
    if not isinstance(error, OSError) or isinstance(error, _STAYS):
        return False
    if error.errno is not None:
        return error.errno in _AWAY
    # Object stores and network libraries give no number.
    return not _REFUSED.search(str(error)) and not _is_full(error)


@contextlib.contextmanager
def named_when_full(place: str) -> Iterator[None]:
    """Names `place` where the block ends because its disk is full.

    Raises:
        StoreError: it does.
    """
    try:
        yield
    except Exception as error:  # every library has a class of its own for it
        if not _is_full(error):
            raise
        raise StoreError(
            f"no space left at {redacted(place)}: make room (`lcia clean` shows what can go) and run the same command "
            "again; what is finished is kept"
        ) from error


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return _NO_SPACE.search(str(error)) is not None
