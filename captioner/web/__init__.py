"""The web page and the HTTP API: a photo comes in over HTTP, its caption goes out as JSON, nothing is kept. Here
lives what is between a socket and a `Captioner`: uploads, limits, the queue, security, and the files of the page. How a
caption is found or drawn is elsewhere; FastAPI and uvicorn come with `pip install 'captioner[web]'`.

`errors` the one shape of an error · `upload` bytes from a request · `settings` how it shall be captioned · `batches`
the queue and its worker · `service` from bytes to a caption · `guard` who may ask, and the headers of every answer ·
`app` the routes · `serve` the process."""
