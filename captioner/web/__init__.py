"""The web page and the HTTP API: a request holds photos, the response their captions as JSON. Photos are not stored.
This package handles uploads, limits, the queue and security, and has the files of the page. Captions are generated and
drawn elsewhere. FastAPI and uvicorn come with `pip install 'captioner[web]'`.

`errors`: the format of errors · `upload`: the photos in a request · `settings`: its decoding options · `batches`: the
queue and its worker · `service`: from bytes to a caption · `guard`: allowed clients, and the headers of every response
· `metrics`: counters for Prometheus · `app`: the routes · `serve`: the process."""
