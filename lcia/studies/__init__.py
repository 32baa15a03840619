"""Many runs as one value.

- `config`: what a study file says
- `orders`: orders of tasks: all, samples, Latin squares
- `points`: the runs of a study that names them all
- `search`: the runs of a study that draws them
- `compare`: tables over methods, orders and seeds
"""
