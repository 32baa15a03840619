"""Scores and what is made of them; pure functions.

- `scoring`: an answer against its references
- `captions`: a caption against several others
- `published`: scorers that one published benchmark needs alone
- `matrix`: the accuracy matrix and its metrics
- `overlap`: test answers of a task among the training answers of another
- `companion`: the table beside the matrix
- `adaptation`: how fast a stream of stretches is learnt
- `stats`: intervals and paired tests
"""
