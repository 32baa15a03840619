"""Scores and what is made of them; pure functions.

- `scoring`: an answer against its references
- `matrix`: the accuracy matrix and its metrics
- `stats`: intervals and paired tests
"""
