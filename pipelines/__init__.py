"""LCIA on Ray: the only package that imports ray and mlflow.

- `cli`: the command line
- `launch`: where a run happens, key by key
- `cluster`: the cluster block of a launch
- `placement`: whether workers fit on machines
- `devices`: GPUs that programs may use
- `exits`: exit codes, and the end of a process that may be inside Ray
"""
