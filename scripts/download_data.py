"""Downloads a data set, checks it, unpacks it into datasets/NAME, for `captioner train --data datasets/NAME`.

    python scripts/download_data.py flickr8k     1 GB: Flickr8k with its official splits
    python scripts/download_data.py coco2017     20 GB: COCO captions, train and val (coco2014: as much)
    python scripts/download_data.py karpathy     small: Karpathy's splits of COCO, Flickr8k and Flickr30k

Stopped half-way, it goes on where it was when it is started again. Unpacking needs as much space again.
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
COCO = "http://images.cocodataset.org"  # its https has another host's certificate; the MD5 guards the content
ARCHIVES: dict[str, dict[str, str | None]] = {  # data set -> address -> MD5, None where no sum is known
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
    """Fetches an address into a file by way of NAME.part, which a later call continues."""
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size - 1 if part.exists() else 0  # a byte less: a range must not begin at the end
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have > 0 else {})
    with urllib.request.urlopen(request, timeout=60) as response, part.open("ab") as file:
        if getattr(response, "status", None) != 206:
            have = 0  # the server sends it from the beginning
        file.truncate(have)
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        with tqdm(desc=path.name, total=total, initial=have, unit="B", unit_scale=True) as bar:
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
            raise OSError(f"{url}: expected the file; the server says {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if attempt == tries:
                raise OSError(f"{url}: not reached ({reason}). Is there a network?") from None
            print(f"{path.name}: {reason}; trying again", file=sys.stderr)
            time.sleep(2**attempt)


def check(path: Path, md5: str | None) -> None:
    """ValueError, and the file is removed, if it is not the archive that was meant."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    expected, found = f"MD5 {md5}", f"MD5 {digest.hexdigest()}"
    if md5 is None:
        expected, found = "a zip archive", "a zip archive" if zipfile.is_zipfile(path) else "something else"
    if expected != found:
        path.unlink()
        raise ValueError(f"{path.name}: expected {expected}, found {found}; it is removed")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks into the folder and never out of it, without the litter that macOS leaves in archives."""
    with zipfile.ZipFile(archive) as zipped:
        names = [name for name in zipped.namelist() if not name.startswith("__MACOSX/")]
        for name in names:
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{archive.name}: holds {name!r}, outside of its folder; nothing is unpacked")
        for name in tqdm(names, desc=f"unpacking {archive.name}", unit=" files"):
            zipped.extract(name, folder)


def fetch(name: str, folder: Path, keep: bool = False) -> None:
    """Downloads, checks and unpacks all archives of a data set; what is done already is not done again."""
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
    parser.add_argument("--root", type=Path, default=Path("datasets"), help="where NAME/ goes (datasets)")
    parser.add_argument("--keep", action="store_true", help="keep the archives when they are unpacked")
    options = parser.parse_args(arguments)
    folder = options.root / options.name
    try:
        fetch(options.name, folder, options.keep)
        if options.name == "karpathy":
            print(f"With photos in {options.root}/coco2014 or flickr8k: --data {folder}/dataset_coco.json")
        else:
            counts = Counter(record.split for record in read_dataset(folder))
            print(f"{folder}: {', '.join(f'{split} {count}' for split, count in counts.items())} photos")
    except (OSError, ValueError) as error:
        sys.exit(f"{error}\nThe same command goes on where this one stopped.")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on where this one stopped.")


if __name__ == "__main__":
    main()
