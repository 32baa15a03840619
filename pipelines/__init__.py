"""LCIA on Ray: the only package that imports ray and mlflow."""
