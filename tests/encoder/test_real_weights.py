"""ImageNet weights: a pretrained encoder opens as it would after a download, and means what it should."""

from pathlib import Path

import numpy as np
import timm
import torch

from s2r2.encoder import load
from s2r2.images import open_source


def test_pretrained_weights_name_the_class_of_a_photo(real_weights: str, photos: Path) -> None:
    source = open_source(photos / "imagenet_one_per_class_s160.tar")
    chosen = range(0, len(source), 30)
    encoder = load(real_weights)
    classifier = timm.create_model(real_weights.removeprefix("timm:"), pretrained=True).eval()
    with torch.inference_mode():
        features = encoder.features(torch.from_numpy(encoder.prepare([source.read(i) for i in chosen])))
        found = classifier.classifier(features).argmax(1)
    names = timm.data.ImageNetInfo().label_names()
    right = np.mean([Path(source.keys[i]).name.startswith(names[n]) for i, n in zip(chosen, found, strict=True)])
    assert encoder.mean == encoder.std == (0.5, 0.5, 0.5)
    assert right > 0.6  # published: 0.755 on ImageNet's validation part; 0.79 here
