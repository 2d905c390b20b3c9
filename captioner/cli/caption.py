"""The verb caption: a sentence about each photo."""

from __future__ import annotations

import sys

from captioner.cli.options import AS_SAVED, SHIPPED, Model, Options, Paths, app, find_photos, print_json


@app.command
def caption(
    paths: Paths = (),
    /,
    model: Model = SHIPPED,
    recursive: bool = False,
    json: bool = False,
    options: Options = AS_SAVED,
    batch_size: int = 32,
) -> int:
    """Write a sentence about each photo.

    Args:
        paths: Photos, folders of photos, or - for a list of paths on standard input.
        recursive: Look into the folders' folders, too.
        json: One JSON object a line, for programs.
        batch_size: Photos captioned at a time.
    """
    from captioner.images import ImageError

    photos = find_photos(paths, recursive)
    captioner = model.load()
    decoding = options.over(captioner.decoding)
    failed = 0
    results = captioner.caption_many(photos, decoding, batch_size)
    for path, result in zip(photos, results, strict=True):
        if isinstance(result, ImageError):
            failed += 1
            print(f"captioner: {result}", file=sys.stderr, flush=True)
        elif json:
            print_json({"path": str(path), **result.to_dict()})
        else:
            print(f"{path}: {result.text}{'' if result.finished else ' ...'}", flush=True)
            for other in result.other_captions:
                print(f"{' ' * len(str(path))}  {other.text}", flush=True)
    if failed:
        print(f"captioner: {failed} of {len(photos)} photos could not be captioned.", file=sys.stderr)
    return 1 if failed else 0
