"""From a folder, or object storage, to an index with Ray Data: on one machine, or on as many as a Ray cluster has.

    pip install 's2r2[ray]'
    python examples/embed_with_ray.py timm:resnet18.a1_in1k photos/ --out vectors/ --workers 8
    s2r2 index photos/ --vectors vectors/ --index my-index

A photo that cannot be read is a row with a reason; s2r2 index lists it. On a cluster --out must be on a disk that all
machines share.
"""

import argparse
from pathlib import Path

import ray

import s2r2
from s2r2.images import EXTENSIONS
from s2r2.ray import Embedder
from s2r2.search import keep_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="what s2r2.load takes, such as a run folder or timm:NAME")
    parser.add_argument("photos", help="a folder, or an address such as s3://bucket/photos")
    parser.add_argument("--out", type=Path, required=True, help="folder of the vectors; it must be empty or new")
    parser.add_argument("--workers", type=int, default=1, help="processes that embed at the same time")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each, such as 1 or 0.5")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if any(arguments.out.iterdir()):
        parser.error(f"{arguments.out} is not empty")
    keep_encoder(s2r2.load(arguments.encoder), arguments.out)  # for queries by photos that are not in the index
    endings = [ending.removeprefix(".") for ending in EXTENSIONS]
    few = 0.1  # CPUs for reading and writing, so that both go on while all cores embed
    files = ray.data.read_binary_files(arguments.photos, include_paths=True, file_extensions=endings, num_cpus=few)
    rows = files.map_batches(
        Embedder,
        fn_constructor_args=(arguments.encoder,),
        batch_size=64,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=arguments.workers),
        num_cpus=0.8,
        num_gpus=arguments.gpus,
    )
    rows.write_parquet(str(arguments.out.absolute()), ray_remote_args={"num_cpus": few})


if __name__ == "__main__":
    main()
