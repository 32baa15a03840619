"""Instruction grouping: which task shares which adapter, and where an instance is routed.

- `codebook`: place, grow, route: pure functions
- `thresholds`: thresholds that look back only
"""
