"""Write a table for Embedding Atlas (``pip install embedding-atlas``): a map of photos to zoom, search and filter.

    s2r2 embed runs/mine photos/ --out vectors.parquet
    python examples/embeddings/export_to_embedding_atlas.py vectors.parquet --out atlas.parquet
    embedding-atlas atlas.parquet --x x --y y --neighbors neighbors --image image

Places on the map come from t-SNE, neighbors are the most similar photos, and each row holds its thumbnail. To let
Embedding Atlas draw its own map (UMAP), give it ``--vector vector`` in place of the four options.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors


def export(table: Path, out: Path, neighbors: int = 15, side: int = 96) -> None:
    """Add ``x``, ``y``, ``neighbors`` and ``image`` to the table."""
    photos = parquet.read_table(table)
    vectors = np.stack(photos["vector"].to_numpy())
    count = len(vectors)
    nearest = NearestNeighbors(n_neighbors=min(neighbors, count), metric="cosine").fit(vectors)
    distances, rows = nearest.kneighbors(vectors)
    places = TSNE(perplexity=min(30, (count - 1) / 3), init="pca", random_state=0).fit_transform(vectors)
    near = [{"ids": r, "distances": d} for r, d in zip(rows.tolist(), distances.tolist(), strict=True)]
    for name, values in {
        "x": pa.array(places[:, 0]),
        "y": pa.array(places[:, 1]),
        "neighbors": pa.array(near),
        "image": pa.array([thumbnail(Path(path), side) for path in photos["path"].to_pylist()]),
    }.items():
        photos = photos.append_column(name, values)
    parquet.write_table(photos, out)
    print(f"{count} photos: {out}")


def thumbnail(path: Path, side: int) -> dict[str, Any] | None:
    """A photo as Hugging Face's tables hold it; None for one that is not a file of its own."""
    if not path.is_file():
        return None
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((side, side))
    content = io.BytesIO()
    picture.save(content, "JPEG")
    return {"bytes": content.getvalue(), "path": path.name}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path, help="vectors.parquet, from s2r2 embed")
    parser.add_argument("--out", type=Path, default=Path("atlas.parquet"))
    options = parser.parse_args()
    export(options.table, options.out)
