"""Write photos, labels and vectors for FiftyOne, which shows, filters and sorts them in the browser.

    s2r2 embed runs/mine photos/ --out vectors.parquet
    python examples/embeddings/export_to_fiftyone.py vectors.parquet --out photos-fiftyone

writes a FiftyOneImageClassificationDataset, whose labels.json names the photos where they are, and beside it the
vectors in the same order. Open them where FiftyOne is installed::

    import fiftyone as fo, fiftyone.brain as fob, json, numpy as np

    dataset = fo.Dataset.from_dir(
        labels_path="photos-fiftyone/labels.json", dataset_type=fo.types.FiftyOneImageClassificationDataset
    )
    paths = json.load(open("photos-fiftyone/labels.json"))["labels"]
    vectors = np.load("photos-fiftyone/vectors.npy")
    dataset.set_values("s2r2", dict(zip(paths, vectors)), key_field="filepath")
    fob.compute_similarity(dataset, embeddings="s2r2", brain_key="s2r2_similarity")
    fob.compute_visualization(dataset, embeddings="s2r2", brain_key="s2r2_map")
    fo.launch_app(dataset)
"""

import argparse
import json
from pathlib import Path

import numpy as np
from pyarrow import parquet


def export(table: Path, out: Path) -> None:
    """Write ``labels.json`` and ``vectors.npy``, without photos in tars or at addresses: FiftyOne reads files."""
    photos = parquet.read_table(table)
    paths = [Path(path).absolute() for path in photos["path"].to_pylist()]
    shown = [row for row, path in enumerate(paths) if path.is_file()]
    labels = [photos["label"][row].as_py().split(";") for row in range(len(paths))]
    several = any(len(names) > 1 for names in labels)
    targets = {
        str(paths[row]): (labels[row] if several else labels[row][0]) if labels[row][0] else None for row in shown
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "labels.json").write_text(json.dumps({"labels": targets}, indent=1), encoding="utf-8")
    np.save(out / "vectors.npy", np.stack(photos["vector"].to_numpy())[shown])
    print(f"{len(shown)} of {len(paths)} photos: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path, help="vectors.parquet, from s2r2 embed")
    parser.add_argument("--out", type=Path, default=Path("photos-fiftyone"))
    options = parser.parse_args()
    export(options.table, options.out)
