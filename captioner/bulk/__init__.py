"""Captioning many photos into a file, over any number of runs.

One idea carries the room. The results of a run live in an SQLite database, which holds one row per photo, an index of
the captions for searching, and what the captions depend on (the model and the decoding options). `captions.sqlite` is
that database. Any other FILE is written from it, and the database stays beside it as `FILE.sqlite`. SQLite thereby
answers for what is hard: a run that is killed at any moment, a full disk, a photo that is captioned twice. JSON lines
and CSV grow while a run goes on; Parquet and the gallery are written when it ends. A FILE that is not as the last run
left it, for instance because that run was killed, or for which another least confidence is asked, is written again from
the database.

`listing` finds photos, one at a time: in folders, .tar shards, lists. `database` keeps the results. `formats/` writes
a file from them. `run` joins the three with a captioner. `lock` keeps a second run away.
`cluster` does the same on Ray, with a directory of Parquet parts in place of the database. Nothing here needs torch.
"""
