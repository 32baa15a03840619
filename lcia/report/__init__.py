"""What a run leaves for people.

- `run_folder`: the files of a run's folder
- `environment`: what its numbers were made with
- `page`: report.html
- `figures`: its figures, one module for each kind
- `decisions`: what grouping decided, and why
- `learnt`: whether a task was learnt, and what is answered most
- `shared_answers`: which of a task's answers other tasks are trained on
- `signs`: signs of failure, and what is warned of
- `study_tables`: tables of a study
- `study_figures`: figures of a study and the numbers behind them
- `rebuild`: a session's folder made again from stored results
- `wording`: numbers and times in words
"""
