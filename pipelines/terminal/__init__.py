"""What a person at a terminal meets.

- `commands`: run, study, quickstart, report
- `launching`: launch
- `planning`: plan and group
- `dry_run`: plan without data and weights
- `estimates`: how long stages will take
- `sessions`: what run, study and quickstart have in common
- `data_commands`: lcia data ...
- `base`: lcia base ...
- `runs`: which runs a storage place has
- `clean`: what none of them needs any more
- `doctor`: what this machine has and lacks
- `cluster_doctor`: whether the nodes of a Ray cluster fit
- `init`: a commented configuration to start from
- `reference`: docs/configuration.md
- `inputs`: configuration files of the commands
- `preflight`: what is checked before anything starts
- `tables`: tables
- `progress`: the table of running stages
"""
