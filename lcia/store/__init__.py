"""Content-addressed folders on any pyarrow file system.

- `folders`: the store and its checkpoints
- `files`: the files of one result where they lie, read in ranges, written by many
- `lease`: which of several attempts at one session may write
- `seals`: the marker that makes a folder complete
- `scratch`: folders that appear whole or not at all
- `transfer`: files between here and there
- `background`: uploads that training does not wait for
- `trouble`: what fails for a while is tried again
"""
