"""Files of captions and scores; the scores are computed in the modules beside this folder.

`reading`: text and JSON. `rows`: the formats of results files. `results` and `references`: captions, checked.
`score_file`: scores with their provenance, written, read and compared. `server`: what COCO's evaluation server accepts.
`tables`: scores as text."""
