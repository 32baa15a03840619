"""What a run is: every key with its own docstring, and how files become configurations.

- `run`: a run, key by key
- `benchmarks`: the keys of tasks and of where their rows come from
- `assistants`: the keys of the model that is tuned, and of its adapters
- `grouping`: the keys of embedders and of instruction grouping
- `image_text`: the keys of models of images and text of any family
- `language`: the keys of models of text alone
- `instrdialog`: the keys of streams of Super-NaturalInstructions
- `strategies`: the keys of each strategy
- `baselines`: those of the strategies of others
- `general`: commands that judge adapters
- `watch`: from where on a run warns of what goes wrong
- `sections`: the base of all sections
- `load`: files and overrides
- `names`: names that may become file names
"""
