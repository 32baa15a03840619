"""Uploads that training does not wait for: one at a time, in a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from lcia.store.trouble import StoreError

LOG = logging.getLogger(__name__)


class Uploads:
    """What one process uploads in the background. What is under way when the process dies is as if never begun."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lcia-upload")
        self._last: Future[None] | None = None

    def begin(self, upload: Callable[[], None]) -> None:
        """Starts `upload` once the one before has ended.

        Raises:
            StoreError: the one before has failed.
        """
        self.settle()
        self._last = self._pool.submit(upload)

    def settle(self) -> None:
        """Waits for the upload that is under way.

        Raises:
            StoreError: it has failed.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def drop(self) -> None:
        """As settle, where nobody needs any more what is uploaded: a failure is only logged."""
        try:
            self.settle()
        except StoreError as error:
            LOG.warning("%s", error)
