"""Makes the shipped checkpoints; no run imports it.

- `align_tiny_base`: trains the shipped base
- `captions`: its rows
"""
