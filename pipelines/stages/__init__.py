"""Ray's side of each stage.

The driver:
- `session`: connects to Ray or starts one, starts broker and servers, and ends what it has started
- `execute`: the executor of a session: writes data stages itself, asks the broker for the others, and waits
- `search`: the trials of a study as Ray Tune draws them, each with an executor on the same broker

Between driver and servers:
- `broker`: the actor that knows what was asked for, who works on it, and how far that is
- `queues`: what waits there, in order, until all that it needs is done
- `work`: what the broker hands out and answers
- `pools`: which pods of a RayJob a worker belongs on

A stage each:
- `shard`: ShardStage by tasks of Ray Data
- `embed`: EmbedStage by actors of Ray Data
- `train`: TrainStage by worker groups of Ray Train
- `evaluate`: EvaluateStage by plain Ray actors

A cluster:
- `notices`: nodes that are about to be taken away
- `nodes`: what each node has, for `lcia doctor --cluster`
- `tokens`: refuses one that all who reach it may command

A Ray on this machine alone:
- `private`: starts it on loopback, with a token and a folder that other users cannot enter
- `onenode`: Ray Train without what only clusters need; workers meet in a file of that folder, not at an open port
"""
