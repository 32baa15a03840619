"""Figures of the report and of the command line, each drawn from plain values.

Every function imports matplotlib late. Names of tasks and runs are data: no text is read as a formula.

- `style`: colours and letters; a figure as PNG or SVG
- `files`: both beside the page, drawn where what they show has changed
- `run`: one run: matrix, loss, beta, pull
- `study`: several runs beside each other
- `search`: the trials of a search
- `scales`: where varied values lie on an axis
- `grouping`: which tasks share an adapter
"""
