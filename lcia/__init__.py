"""The method of Large Continual Instruction Assistant (arXiv 2410.10868): dynamic EMA and instruction grouping.

- `types`: the nouns that everything shares
- `protocols`: contracts between the method and what it drives
- `stage`: a stage is a value, its hash its identity
- `plan`: from a configuration to stages, a pure function
- `run`: from a configuration to the accuracy matrix
- `local`: runs stages in this process
- `addresses`: local paths and URLs
- `digests`: digests of files, computed once
- `secrets`: passwords in addresses, found and redacted
"""

__version__ = "0.1.0"
