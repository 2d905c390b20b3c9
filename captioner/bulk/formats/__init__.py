"""The files that are written from the database, one format per module.

A table is one file with a row per photo; its suffix chooses the format. `.jsonl` and `.csv` grow during a run;
`.parquet` and `.html` are written as a whole when it ends. Sidecars are text files, one beside each photo."""
