"""A rendered RayJob run without Kubernetes, the way KubeRay's operator (v1.7) does: each pod in namespaces of its own.

- `pods`: the pods, the service and the submitter job that the operator makes of a RayJob; pure
- `manifests`: a RayJob rendered by our own command, with components and variables added as an overlay would
- `lab`: pods as processes in their own network, mount, host name and process namespaces on one bridge
- `names`: the DNS server of a lab
- `services`: what stands beside a job: MLflow as deployed, an S3 server
- `job`: the operator's part: clusters and attempts of one RayJob, from first pod to SUCCEEDED
- `stream`: the small stream that is replayed, what it must come to, and planted secrets
- `variants`: faults, and what each left to be repeated; `python -m tests.replay VARIANT...` runs them
"""
