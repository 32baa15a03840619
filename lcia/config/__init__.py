"""What a run is: every key with its own docstring, and how files become configurations.

- `run`: a run, key by key
- `strategies`: the keys of each strategy
- `general`: commands that judge adapters
- `watch`: from where on a run warns of what goes wrong
- `sections`: the base of all sections
- `load`: files and overrides
- `names`: names that may become file names
"""
