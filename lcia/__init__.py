"""The method of Large Continual Instruction Assistant (arXiv 2410.10868): dynamic EMA and instruction grouping."""

__version__ = "0.1.0"
