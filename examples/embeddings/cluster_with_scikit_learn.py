"""Group photos with scikit-learn, and see how well groups or a classifier agree with labels, where there are some.

    s2r2 embed runs/mine photos/ --out vectors.parquet
    python examples/embeddings/cluster_with_scikit_learn.py vectors.parquet --clusters 20

writes ``clusters.csv``: the path of each photo and the number of its group.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from pyarrow import parquet
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.model_selection import cross_val_score


def cluster(table: Path, clusters: int, out: Path) -> None:
    """Write which group each photo belongs to."""
    photos = parquet.read_table(table)
    vectors = np.stack(photos["vector"].to_numpy())  # (N, D), rows of length 1
    paths, labels = photos["path"].to_pylist(), np.array(photos["label"].to_pylist())
    groups = KMeans(clusters, n_init="auto", random_state=0).fit_predict(vectors)
    with out.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "cluster"), *zip(paths, groups.tolist(), strict=True)])
    print(f"{len(paths)} photos in {clusters} groups: {out}")
    known = labels != ""
    if len(set(labels[known])) > 1:
        agreement = adjusted_mutual_info_score(labels[known], groups[known])
        accuracy = cross_val_score(LogisticRegression(max_iter=1000), vectors[known], labels[known], cv=3).mean()
        print(f"groups and labels agree by {agreement:.2f} (adjusted mutual information; 0: by chance, 1: fully)")
        print(f"a linear classifier is right on {accuracy:.1%} of photos that it was not fitted to")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path, help="vectors.parquet, from s2r2 embed")
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("clusters.csv"))
    options = parser.parse_args()
    cluster(options.table, options.clusters, options.out)
