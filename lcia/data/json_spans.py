"""Where the records of a JSON file stand, in bytes, found in one pass through a bounded window."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from typing import BinaryIO, TypeAlias

from lcia.types import InputError

Span: TypeAlias = tuple[int, int, int]
"""First byte, byte after the last, and line (JSON lines) or record number, from 1."""

BOM = b"\xef\xbb\xbf"
BUFFER = 1 << 20
_MARGIN = 16
"""An error this near to the end of the window may only mean that the record goes on."""

_AFTER = frozenset(",] \t\r\n")
"""What may follow a value in an array."""

_BLANKS = re.compile(r"[ \t\r\n]*+")
_BETWEEN = re.compile(r"[, \t\r\n]*+")

# Numbers stay text here: one with too many digits for Python makes a bad row, and does not spoil the file.
_DECODER = json.JSONDecoder(parse_int=str)


def spans(stream: BinaryIO, name: str) -> Iterator[Span]:
    """The records of a JSON array or of JSON lines; which of both is seen from the start of the file.

    Raises:
        InputError: the file is neither, its array is broken (from there on nothing could be told apart), or something
            follows the array.
    """
    first = first_sign(stream)
    stream.seek(0)
    if first == b"[":
        return _elements(_Window(stream, name))
    if first in (b"{", b"") or name.endswith((".jsonl", ".ndjson")):
        return _lines(stream)
    raise InputError(f"{name} holds neither a JSON array nor JSON lines")


def first_sign(stream: BinaryIO) -> bytes:
    """The first byte of a file that is not blank; empty where there is none."""
    block = stream.read(BUFFER).removeprefix(BOM)
    while block and not block.lstrip():
        block = stream.read(BUFFER)
    return block.lstrip()[:1]


def elements(data: bytes) -> Iterator[bytes]:
    """The values of a part of an array that `spans` has cut out."""
    text, at = data.decode("latin-1"), 0
    while at < len(text):
        end = _DECODER.raw_decode(text, at)[1]
        yield data[at:end]
        at = _end(_BETWEEN, text, end)


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where what matches from `start` on ends; the patterns match nothing, too."""
    found = pattern.match(text, start)
    assert found is not None
    return found.end()


def _lines(stream: BinaryIO) -> Iterator[Span]:
    at = 0
    for number, line in enumerate(iter(stream.readline, b""), 1):
        if line.removeprefix(BOM).strip():
            yield at, at + len(line), number
        at += len(line)


def _elements(window: _Window) -> Iterator[Span]:
    window.take("[")
    if window.peek() == "]":
        window.take("]")
        window.close()
        return
    for number in count(1):
        start, stop = window.element()
        yield start, stop, number
        if window.take(",]") == "]":
            window.close()
            return


class _Window:
    """A part of the file as Latin-1, so that a character is a byte; JSON's own signs are ASCII in any UTF-8 file."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name = stream, name
        self._text, self._at, self._base = "", 0, 0
        if stream.read(len(BOM)) == BOM:
            self._base = len(BOM)
        else:
            stream.seek(0)

    def peek(self) -> str:
        """The next character that is not blank, which is not consumed; empty at the end of the file."""
        while True:
            self._at = _end(_BLANKS, self._text, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, allowed: str) -> str:
        """Consumes one of the allowed characters."""
        found = self.peek()
        if not found or found not in allowed:
            raise self._error(f"expected {' or '.join(allowed)}, found {found or 'the end of the file'}")
        self._at += 1
        return found

    def close(self) -> None:
        """Raises InputError where anything but blanks follows."""
        if found := self.peek():
            raise self._error(f"the array ends, but {found} follows; a file holds one array, or one object a line")

    def element(self) -> tuple[int, int]:
        """Consumes one JSON value; its first byte and the byte after its last."""
        self.peek()
        while True:
            end, problem = self._try()
            if problem is None and self._closed(end):
                start, self._at = self._at, end
                return self._base + start, self._base + end
            if (problem is not None and end < len(self._text) - _MARGIN) or not self._more():
                raise self._error(problem or "the array is not closed")

    def _closed(self, end: int) -> bool:
        """Whether a value ends at `end`: of the number 0.5 a window may hold "0." only, in which 0 is a value too."""
        return self._text[end : end + 1] in _AFTER or end < len(self._text) - _MARGIN

    def _try(self) -> tuple[int, str | None]:
        """Where the value ends; or where it breaks, with the reason. An open string may always go on."""
        try:
            return _DECODER.raw_decode(self._text, self._at)[1], None
        except json.JSONDecodeError as error:
            open_string = error.msg.startswith("Unterminated string")
            return (len(self._text) if open_string else error.pos), error.msg
        except RecursionError:
            return self._at, "nested too deeply"

    def _more(self) -> bool:
        """Reads on, at least doubling what is left, and forgets what was consumed."""
        data = self._stream.read(max(BUFFER, len(self._text) - self._at))
        self._text, self._base, self._at = self._text[self._at :] + data.decode("latin-1"), self._base + self._at, 0
        return bool(data)

    def _error(self, message: str) -> InputError:
        return InputError(f"{self._name} is not a valid JSON array near byte {self._base + self._at}: {message}")
