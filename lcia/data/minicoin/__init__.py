"""Generated rows.

- `rows`: a row from its number
- `layout`: the rows as files, as CoIN publishes its own
- `questions`: what is asked of each task's pictures
- `drawing`: pictures
- `vocabulary`: shapes, colours, places
- `instructions`: the wordings of the three instruction types
"""
