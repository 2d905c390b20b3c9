"""Captioning many photos into a file, over any number of runs.

The results of a run are kept in an SQLite database, which has one row per photo, an index for searching the captions,
and the settings that the captions depend on (the model and the decoding options). If the output is `captions.sqlite`,
it is that database. Any other FILE is written from a database beside it, `FILE.sqlite`. So SQLite handles the hard
cases: a run that is killed at any moment, a full disk, a photo that is captioned twice. JSON lines and CSV grow during
a run; Parquet and the gallery are written when it ends. A FILE is written again from the database if it is not as the
last run left it, for instance because that run was killed, or if another minimum confidence is requested.

`listing` finds photos, one at a time, in folders, .tar shards and lists. `database` keeps the results. `formats/`
writes a file from them. `run` combines the three with a captioner. `lock` keeps a second run away. `cluster` does the
same on Ray, with a directory of Parquet parts in place of the database. Nothing here needs torch.
"""
