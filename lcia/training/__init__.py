"""A TrainStage, in any number of workers.

- `train`: the loop
- `result`: what a finished stage leaves, and its reader
- `checkpoint`: its state, saved and restored
- `look_back`: some of its rows once more, at its end
- `elsewhere`: the model with other weights than the trained ones
- `drift`: how far tuning has moved the model on its own rows
- `replay`: its rows, with those of earlier tasks that are trained on once more
- `sampling`: which rows a step sees
- `parallel`: DDP, FSDP2 and what workers exchange
- `finite`: losses and weights that are not finite
"""
