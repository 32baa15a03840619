"""A row's way from its source to the Parquet shards that training reads.

- `sources`: rows of any source, and its fingerprint
- `file_rows`: rows in files
- `minicoin`: rows that are drawn
- `filesystems`: paths and URLs
- `instances`: rows in task files of Super-NaturalInstructions
- `formats`: LLaVA JSON, chat JSONL, Parquet, WebDataset
- `captions`: COCO's files of captions
- `json_spans`: JSON arrays larger than memory
- `records`: one record becomes a sample or a defect
- `images`: which picture a row means, and whether it may be read
- `pixels`: pictures become pixels
- `parquet`: samples as Parquet rows
- `unique`: ids that were used before
- `shards`: the shards of a source: written, gathered, judged
- `rows`: the rows of shards, read by number
- `inventory`: which of a published benchmark's files there are
- `noise`: training rows whose answers are replaced
"""
