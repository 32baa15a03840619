"""LCIA on Ray: the only package that imports ray and mlflow.

- `cli`: the command line
- `launch`: where a run happens, key by key
- `exits`: exit codes, and the end of a process that may be inside Ray
"""
