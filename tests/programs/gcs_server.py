"""python -m tests.programs.gcs_server PORT: a server that speaks Google Cloud Storage's protocol, with one bucket."""

from __future__ import annotations

import sys
from http import server
from typing import Any

from gcp_storage_emulator.server import create_server
from gcp_storage_emulator.storage import Storage


def main() -> None:
    # It would serve one connection at a time, and pyarrow keeps several open.
    server.HTTPServer = server.ThreadingHTTPServer  # type: ignore[misc]
    Storage.get_file_list = _with_folders(Storage.get_file_list)
    create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="lcia").run()


def _with_folders(listed: Any) -> Any:
    """A listing with the objects whose names end with the delimiter, which pyarrow asks for (includeTrailingDelimiter)
    and this server does not know: they are the folders."""

    def get_file_list(
        self: Any, bucket: str, prefix: str | None = None, delimiter: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        files, prefixes = listed(self, bucket, prefix, delimiter, *args, **kwargs)
        if delimiter:
            everything, _ = listed(self, bucket, prefix, None, *args, **kwargs)
            start = len(prefix or "")
            folders = [one for one in everything if one["name"].find(delimiter, start) == len(one["name"]) - 1]
            files = [*files, *(one for one in folders if one not in files)]
        return files, prefixes

    return get_file_list


if __name__ == "__main__":
    main()
