"""MLflow as a mirror of the run folder.

- `runs`: a run, followed
- `server`: where MLflow is
- `mirror`: what is sent
- `journal`: what could not be sent yet
- `surroundings`: machine and commit
"""
