"""The records of a JSON file are cut where JSON does, in one pass and in linear time."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcia.data import json_spans

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    values=st.lists(JSON, max_size=8),
    buffer=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_spans_cut_an_array_where_json_does(
    values: list[Any], buffer: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    data = text.encode("utf-8", "surrogatepass")
    usual, json_spans.BUFFER = json_spans.BUFFER, buffer
    try:
        found = list(json_spans.spans(io.BytesIO(data), "x.json"))
    finally:
        json_spans.BUFFER = usual
    assert [json.loads(data[start:stop].decode("utf-8", "surrogatepass")) for start, stop, _ in found] == values
    assert [number for _, _, number in found] == list(range(1, len(values) + 1))


class Counted(io.BytesIO):
    """Counts the bytes that are read."""

    read_bytes = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.read_bytes += len(data)
        return data


class Decoder:
    """Counts the characters that the decoder is given."""

    def __init__(self) -> None:
        self.characters, self.real = 0, json_spans._DECODER

    def raw_decode(self, text: str, at: int) -> tuple[Any, int]:
        self.characters += len(text) - at
        return self.real.raw_decode(text, at)


@pytest.mark.parametrize(
    "value", ['"' + "x" * (1 << 20) + '"', '"' + '\\"' * (1 << 19) + '"', '["a",' + " " * (1 << 20) + "1]"]
)
def test_a_long_value_is_read_once_and_decoded_a_few_times_over(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, stream = Decoder(), Counted(f"[{value}]".encode())
    monkeypatch.setattr(json_spans, "BUFFER", 1 << 10)
    monkeypatch.setattr(json_spans, "_DECODER", decoder)
    assert list(json_spans.spans(stream, "x.json")) == [(1, 1 + len(value), 1)]
    assert stream.read_bytes <= len(value) + 4096
    assert decoder.characters <= 4 * len(value)


def test_blanks_are_passed_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    real = json_spans._end
    monkeypatch.setattr(json_spans, "_end", lambda *given: steps.append(1) or real(*given))
    data = b"[" + b" " * (1 << 20) + b"1" + b"\n" * (1 << 20) + b"]"
    assert list(json_spans.spans(io.BytesIO(data), "x.json")) == [(1 + (1 << 20), 2 + (1 << 20), 1)]
    assert len(steps) < 20
