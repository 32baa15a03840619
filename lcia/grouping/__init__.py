"""Instruction grouping: which task shares which adapter, and where an instance is routed.

- `codebook`: place, grow, route: pure functions
- `features`: arithmetic of features
- `many_orders`: decisions that many task orders share are made once
- `thresholds`: thresholds that look back only
- `sweep`: all groupings over the range of thresholds
"""
