"""An EvaluateStage.

- `evaluate`: route, generate, answer
- `answers`: the file of answers
- `scored`: what they score
"""
