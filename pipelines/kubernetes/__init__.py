"""Manifests for KubeRay.

- `submission`: a run or a study that is sent
- `rayjob`: a RayJob or RayCronJob from a launch
- `paths`: a run's paths as the pods have them
- `pods`: how many pods a launch needs
- `templates`: what is in a pod
- `manifest`: manifests read and written
- `check`: all rules on any manifests: `lcia launch check`
- `schemas`: manifests against the operator's own schemas
- `our_rules`: rules of this house
- `operator_job_rules`: the operator's rules of RayJobs
- `operator_cluster_rules`: the operator's rules of RayClusters
- `operator_cron_rules`: the operator's rules of RayCronJobs
- `submit`: jobs on a Ray head through Ray's Jobs API
- `kubectl`: Kubernetes by way of kubectl
- `apply`: a RayJob sent to a cluster and followed
- `jobs`: status, log and end of jobs that were sent
"""
