"""An EvaluateStage or an ExternalStage.

- `evaluate`: route, generate, answer
- `answers`: the file of answers
- `scored`: what they score
- `external`: a command on an adapter, and its figures
"""
