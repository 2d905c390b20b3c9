"""Caption photos on a Ray cluster from Python:  python scripts/caption_cluster.py OUT datasets/sample [--address auto]

Run it again with the same OUT, and it goes on, or adds what is new. Needs: pip install 'captioner[ray]'"""

import argparse

import pyarrow.parquet as pq

from captioner import Captioner
from captioner.bulk.cluster import caption_on_ray
from captioner.bulk.listing import list_photos

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out", help="a directory that every node can reach")
parser.add_argument("photos", nargs="+", help="folders or .tar shards that every node can reach, or addresses")
parser.add_argument("--address", help="of the cluster, or auto; without it, Ray is started on this machine")
parser.add_argument("--workers", type=int, help="worker processes; each loads the model once")
parser.add_argument("--gpus", type=float, default=0, help="GPUs for each worker")
given = parser.parse_args()

counts = caption_on_ray(
    given.out,
    list_photos(given.photos, recursive=True),
    Captioner.load,  # the shipped model; or your own: functools.partial(Captioner.load, "/shared/mine/best")
    address=given.address,
    workers=given.workers,
    gpus=given.gpus,
    show=lambda counts: print(counts, flush=True),
)
print("done:", counts)
for row in pq.read_table(f"{given.out}/parts").slice(0, 5).to_pylist():
    print(f"{row['path']}: {row['caption'] or row['error']}")
