"""What others see of a run: MLflow as a mirror of run folder and store, and gauges; written by the driver only.

- `runs`: which runs MLflow shows of a session, and what they hold
- `sender`: the thread that sends
- `mirror`: one MLflow, written to so that doing it again changes nothing
- `redaction`: what is taken out before
- `gauges`: how far stages are, for Prometheus
- `surroundings`: machine and commit
"""
