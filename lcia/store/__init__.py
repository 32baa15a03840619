"""Content-addressed folders on any pyarrow file system.

- `folders`: the store and its checkpoints
- `lease`: which of several attempts at one session may write
- `seals`: the marker that makes a folder complete
- `scratch`: folders that appear whole or not at all
- `transfer`: files between here and there
- `trouble`: what fails for a while is tried again
"""
