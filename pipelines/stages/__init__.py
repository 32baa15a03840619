"""Ray's side of each stage.

The driver:
- `session`: connects to Ray or starts one, starts broker and servers, and ends what it has started
- `execute`: the executor of a session: writes data stages itself, asks the broker for the others, and waits
- `tune`: the runs of a study as trials of Ray Tune, each with an executor on the same broker

Between driver and servers:
- `broker`: the actor that knows what was asked for, who works on it, and how far that is
- `work`: what the broker hands out and answers
- `pools`: which pods of a RayJob a worker belongs on

A stage each:
- `shard`: ShardStage by tasks of Ray Data
- `embed`: EmbedStage by actors of Ray Data
- `train`: TrainStage by worker groups of Ray Train
- `evaluate`: EvaluateStage by plain Ray actors

A Ray on this machine alone:
- `private`: starts it on loopback, with a token and a folder that other users cannot enter
- `onenode`: its training workers meet in a file of that folder, not at an open port
"""
