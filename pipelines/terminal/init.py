"""`lcia init`: a commented configuration to start from."""

from __future__ import annotations

from pathlib import Path

from lcia.types import InputError

TEMPLATE = """\
# A run: what is computed. Where it runs is a launch file (configs/launch). `lcia schema` lists every key.
name: first
benchmark:
  kind: minicoin            # minicoin (generated) | coin | ucit | mllm_cl | trace | instrdialog (published) | custom
  tasks: [VQAv2, Grounding, OCR-VQA]
  instructions: origin      # origin | diverse | 10type
assistant:
  kind: tiny                # tiny (ships with the package) | llava | image_text | causal | seq2seq
lora: {r: 8, lora_alpha: 16}
training:
  learning_rate: 4.0e-3
  batch_size: 16            # over all workers
  max_steps: 80             # per task; or num_train_epochs
strategy:
  kind: kronecker           # sequential | fixed | paper | official | pema | proximal | curvature | ewc | kronecker
                            # | regular_ewc | reg_lora | gpm | lwf | mean_teacher | olora | slao
grouping:
  enabled: true
  embedder: {kind: tfidf}   # tfidf | text | clip
  threshold: auto           # auto | origin (0.9) | diverse (0.3) | a number from 0 to 1
evaluation: {split: test, scoring: strict}
seed: 0
"""


def init(path: Path) -> None:
    """Writes a commented configuration; never over an existing file."""
    if path.exists():
        raise InputError(f"{path} exists: name another file, nothing is overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(TEMPLATE)
    print(f"wrote {path}; next: lcia plan {path}, then lcia run {path}")
