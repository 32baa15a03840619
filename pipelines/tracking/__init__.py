"""MLflow as a mirror of the run folder and the store, written by the driver only.

- `runs`: which runs MLflow shows of a session, and what they hold
- `sender`: the thread that sends
- `mirror`: one MLflow, written to so that doing it again changes nothing
- `redaction`: what is taken out before
- `surroundings`: machine and commit
"""
