"""The web page and the HTTP API: a request holds a photo, the response its caption as JSON. Photos are
not stored. This package has uploads, limits, the queue, security, and the files of the page. Captions are made and
drawn elsewhere. FastAPI and uvicorn come with `pip install 'captioner[web]'`.

`errors`: the format of errors · `upload`: the photo in a request · `settings`: its decoding options · `batches`: the
queue and its worker · `service`: from bytes to a caption · `guard`: allowed clients, and the headers of every response
· `app`: the routes · `serve`: the process."""
