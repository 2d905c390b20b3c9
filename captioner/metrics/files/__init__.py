"""The files around the scores; the arithmetic is in the modules beside this folder.

`reading`: text and JSON. `rows`: the formats of results files. `results` and `references`: captions, checked.
`score_file`: scores with their provenance, written, read and compared. `server`: what COCO's evaluation server accepts.
`tables`: scores as text."""
