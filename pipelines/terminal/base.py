"""`lcia base`: bases that are made before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from lcia.types import InputError

if TYPE_CHECKING:
    from lcia.assistants.original import Dtype


def build(out: Path, places: tuple[Path, Path, Path | None, Path | None], dtype: str, as_json: bool) -> None:
    """Puts the parts of a LLaVA together; `places`: language, vision, projector, tokenizer."""
    from lcia.assistants.original import Dtype, Parts, build_base

    if dtype not in get_args(Dtype):
        raise InputError(f"--dtype {dtype}: give one of {', '.join(get_args(Dtype))}")
    for place in filter(None, places):
        if not place.exists():
            raise InputError(f"there is no {place}; `hf download REPOSITORY --local-dir FOLDER` fetches one of the hub")
    language, vision, projector, tokenizer = places
    made = build_base(Parts(language, vision, projector, tokenizer), out, cast("Dtype", dtype))
    if as_json:
        print(json.dumps({"folder": str(out), **made}, indent=1))
    else:
        print(f"{out}: {made['parameters']:,} parameters, {made['vocabulary']} words, {len(made['files'])} files")
        print(f"tune it with assistant.kind=llava assistant.model={out}")
