"""Makes the shipped checkpoints and the drawings of the repository; no run imports it.

- `align_tiny_base`: trains the shipped base
- `captions`: its rows
- `draw_house`: docs/house.svg, from the imports
- `write_tree`: README's tree, from the packages' lists
"""
