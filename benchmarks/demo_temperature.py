"""How the demo's temperature was chosen: on a fifth of the training digits, never on the test digits.

    python benchmarks/demo_temperature.py            trains once for each temperature (about a minute each on two cores)

Otherwise the settings of examples/demo.py. Prints retrieval mAP of backbone features and head embeddings.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

import s2r2
from s2r2.evaluation import retrieval_metrics
from s2r2.images import ArraySource, Labels, open_source


def part(indices: np.ndarray, name: str) -> ArraySource:
    whole = open_source("digits:train")
    assert whole.labels is not None
    pixels = np.stack([whole.read(int(i)) for i in indices])
    labels = Labels(whole.labels.names, whole.labels.targets[indices])
    return ArraySource(name, pixels, labels, [whole.keys[i] for i in indices])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.3, 0.5])
    arguments = parser.parse_args()
    whole = open_source("digits:train")
    assert whole.labels is not None
    classes = whole.labels.single
    learn, judge = train_test_split(np.arange(len(whole)), test_size=0.2, random_state=1, stratify=classes)
    photos, held_out = part(np.sort(learn), "digits to learn from"), part(np.sort(judge), "digits to judge on")
    truth = classes[np.sort(judge)]
    pixels = [held_out.read(i) for i in range(len(held_out))]
    print("temperature   mAP backbone   mAP head", flush=True)
    for temperature in arguments.temperatures:
        config = s2r2.TrainConfig(
            backbone="test_resnet", image_size=32, recipe="documents", temperature=temperature, epochs=12
        )
        with tempfile.TemporaryDirectory() as folder:
            s2r2.train(photos, config, out=Path(folder) / "run", quiet=True)
            encoder = s2r2.load(Path(folder) / "run")
        scores = [
            retrieval_metrics(encoder.embed(pixels, output=output), truth).mean_average_precision
            for output in ("feature", "embedding")
        ]
        print(f"{temperature:11.2f}   {100 * scores[0]:12.1f}   {100 * scores[1]:8.1f}", flush=True)


if __name__ == "__main__":
    main()
