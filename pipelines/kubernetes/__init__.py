"""Manifests for KubeRay.

- `submission`: a run or a study that is sent
- `rayjob`: a RayJob from a launch
- `pods`: resources and placement of pods
- `manifest`: manifests read and written
- `check`: all rules on any manifests: `lcia launch check`
- `our_rules`: rules of this house
- `operator_job_rules`: the operator's rules of RayJobs
- `operator_cluster_rules`: the operator's rules of RayClusters
- `submit`: Ray's Jobs API
"""
