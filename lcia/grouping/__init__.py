"""Instruction grouping: which task shares which adapter, and where an instance is routed.

- `codebook`: place, grow, route: pure functions
- `features`: arithmetic of features
- `fusion`: how much each task's adapter counts where all answer together
- `many_orders`: decisions that many task orders share are made once
- `thresholds`: thresholds that look back only
- `sweep`: all groupings over the range of thresholds
"""
