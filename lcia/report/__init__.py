"""What a run leaves for people.

- `run_folder`: the files of a run's folder
- `page`: report.html
- `figures`: its figures
- `decisions`: what grouping decided, and why
- `answered`: answers beside their rows
- `learnt`: what a stage learnt
- `study_tables`: tables of a study
- `wording`: numbers and times in words
"""
