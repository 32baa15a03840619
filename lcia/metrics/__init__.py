"""Scores and what is made of them; pure functions.

- `scoring`: an answer against its references
- `captions`: a caption against several others
- `matrix`: the accuracy matrix and its metrics
- `adaptation`: how fast a stream of stretches is learnt
- `stats`: intervals and paired tests
"""
