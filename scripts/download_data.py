"""Download a data set, check it and unpack it into datasets/NAME, for `captioner train --data datasets/NAME`.

    python scripts/download_data.py flickr8k     1 GB: Flickr8k with its official splits
    python scripts/download_data.py coco2017     20 GB: COCO captions, train and val (coco2014: the same size)
    python scripts/download_data.py karpathy     small: Karpathy's splits of COCO, Flickr8k and Flickr30k

A download that was interrupted continues when the command is given again. Unpacking needs the same space once more.
Terms: Flickr8k is for research; COCO's captions are CC BY 4.0; the photos belong to their authors."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from captioner.data.readers import read_dataset

FLICKR8K = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
COCO = "http://images.cocodataset.org"  # its https certificate is for another host; the MD5 protects the content
ARCHIVES: dict[str, dict[str, str | None]] = {  # data set -> address -> MD5, or None if unknown
    "flickr8k": {
        f"{FLICKR8K}/Flickr8k_text.zip": "bf6c1abcb8e4a833b7f922104de18627",
        f"{FLICKR8K}/Flickr8k_Dataset.zip": "f18a1e2920de5bd84dae7cf08ec78978",
    },
    "coco2014": {
        f"{COCO}/annotations/annotations_trainval2014.zip": "0a379cfc70b0e71301e0f377548639bd",
        f"{COCO}/zips/val2014.zip": "a3d79f5ed8d289b7a7554ce06a5782b3",
        f"{COCO}/zips/train2014.zip": "0da8c0bd3d6becc4dcb32757491aca88",
    },
    "coco2017": {
        f"{COCO}/annotations/annotations_trainval2017.zip": "f4bbac642086de4f52a3fdda2de5fa2c",
        f"{COCO}/zips/val2017.zip": "442b8da7639aecaf257c1dceb8ba8c80",
        f"{COCO}/zips/train2017.zip": "cced6f7f71b7629ddf16f17bbcfab6b2",
    },
    "karpathy": {"https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip": None},
}


def download(url: str, path: Path) -> None:
    """Download an address to a file, through NAME.part, which the next call continues after an interruption."""
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size - 1 if part.exists() else 0  # a range must not start at the end
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have > 0 else {})
    with urllib.request.urlopen(request, timeout=60) as response, part.open("ab") as file:
        if getattr(response, "status", None) != 206:
            have = 0  # the server sends the whole file
        file.truncate(have)
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        with tqdm(desc=path.name, total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar:
            while block := response.read(1 << 20):
                bar.update(file.write(block))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"the connection ended after {part.stat().st_size} of {total} bytes")
    part.replace(path)


def download_patiently(url: str, path: Path, tries: int = 4) -> None:
    for attempt in range(1, tries + 1):
        try:
            return download(url, path)
        except urllib.error.HTTPError as error:
            raise OSError(f"{url}: the server answered {error.code} {error.reason}; expected the file") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if attempt == tries:
                raise OSError(f"{url}: no connection ({reason}). Check the network.") from None
            print(f"{path.name}: {reason}; trying again", file=sys.stderr)
            time.sleep(2**attempt)


def check(path: Path, md5: str | None) -> None:
    """Raise ValueError and remove the file if it is not the expected archive."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    expected, found = f"MD5 {md5}", f"MD5 {digest.hexdigest()}"
    if md5 is None:
        expected, found = "a zip archive", "a zip archive" if zipfile.is_zipfile(path) else "something else"
    if expected != found:
        path.unlink()
        raise ValueError(f"{path.name}: expected {expected}, found {found}; the file was removed")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into the folder, and never outside it. The extra files that macOS adds to archives are skipped."""
    with zipfile.ZipFile(archive) as zipped:
        names = [name for name in zipped.namelist() if not name.startswith("__MACOSX/")]
        for name in names:
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{archive.name}: contains {name!r}, a path outside its folder; nothing was unpacked")
        for name in tqdm(names, desc=f"unpacking {archive.name}", unit=" files", disable=None):
            zipped.extract(name, folder)


def fetch(name: str, folder: Path, keep: bool = False) -> None:
    """Download, check and unpack all archives of a data set. Finished steps are not repeated."""
    folder.mkdir(parents=True, exist_ok=True)
    for url, md5 in ARCHIVES[name].items():
        archive = folder / url.rpartition("/")[2]
        unpacked = folder / f".{archive.name}.unpacked"
        if not unpacked.exists():
            if not archive.exists():
                download_patiently(url, archive)
            check(archive, md5)
            unpack(archive, folder)
            unpacked.touch()
        if not keep:
            archive.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", choices=ARCHIVES)
    parser.add_argument(
        "--root", type=Path, default=Path("datasets"), help="parent folder of NAME/ (default: datasets)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the archives after unpacking")
    options = parser.parse_args(arguments)
    folder = options.root / options.name
    try:
        fetch(options.name, folder, options.keep)
        if options.name == "karpathy":
            print(f"Next: with COCO's photos in {options.root}/coco2014, train with --data {folder}/dataset_coco.json")
        else:
            counts = Counter(record.split for record in read_dataset(folder))
            print(f"{folder}: {', '.join(f'{split} {count}' for split, count in counts.items())} photos")
    except (OSError, ValueError) as error:
        sys.exit(f"{error}\nGive the same command again to continue.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. Give the same command again to continue.")


if __name__ == "__main__":
    main()
