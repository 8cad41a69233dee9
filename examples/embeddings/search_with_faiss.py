"""Search s2r2's vectors with FAISS (``pip install faiss-cpu``): for programs that have FAISS, but not s2r2.

    s2r2 embed runs/mine photos/ --out vectors.parquet
    python examples/embeddings/search_with_faiss.py vectors.parquet

writes ``photos.faiss``, which ``faiss.read_index`` opens anywhere, and prints what is most similar to the first photo.
Row i of the index is row i of the table.
"""

import argparse
from pathlib import Path

import faiss
import numpy as np
from pyarrow import parquet


def build(table: Path, out: Path) -> None:
    """Write the index and search it once."""
    photos = parquet.read_table(table)
    vectors = np.stack(photos["vector"].to_numpy())  # rows of length 1: the inner product is the cosine
    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    faiss.write_index(index, str(out))
    print(f"{index.ntotal} vectors of {index.d} numbers: {out}")
    similarities, rows = index.search(vectors[:1], min(6, len(vectors)))
    for similarity, row in zip(similarities[0], rows[0], strict=True):
        print(f"{similarity:.3f}  {photos['path'][int(row)]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path, help="vectors.parquet, from s2r2 embed")
    parser.add_argument("--out", type=Path, default=Path("photos.faiss"))
    options = parser.parse_args()
    build(options.table, options.out)
