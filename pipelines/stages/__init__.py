"""Ray's side of each stage.

- `execute`: the executor: stages to Ray
- `session`: servers of a run, from start to end
- `broker`: who works on which stage
- `work`: what the broker hands out and answers
- `shard`: ShardStage on Ray Data
- `embed`: EmbedStage on Ray Data
- `train`: TrainStage on Ray Train
- `evaluate`: EvalStage on Ray actors
- `tune`: a study on Ray Tune
- `private`: a Ray of one run, on loopback
- `onenode`: workers that meet in a file
"""
