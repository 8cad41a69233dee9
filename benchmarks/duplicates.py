"""Are planted copies found, and only these? Beside imagededup's hashes, in one run.

    python benchmarks/duplicates.py --peer PYTHON --encoder untrained:test_resnet timm:tf_efficientnet_lite0

benchmarks/real_weights.py makes the second encoder's weights available offline.

``S2R2_DATA`` holds coco_small, bsds500 and clothing_cc0 (1,000 photos are drawn); 100 copies of each kind are planted.
PYTHON is an interpreter with imagededup, in an environment of its own. A pair counts once: a planted copy and its
photo are found, and any pair of photos of which neither was made from the other is a mistake (two copies of one photo
count as neither). imagededup's thresholds are its defaults; of s2r2 the pairs are those of its groups.
"""

import argparse
import io
import json
import os
import random
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance

TARS = ("coco_small_s160.tar", "bsds500_s160.tar", "clothing_cc0_s160.tar")
PHOTOS, COPIES = 1000, 100
_PEER = """
import json, sys
from imagededup import methods
found = {}
for name in ("PHash", "DHash", "WHash"):
    groups = getattr(methods, name)(verbose=False).find_duplicates(image_dir=sys.argv[1])
    found[name] = sorted({tuple(sorted((key, other))) for key, others in groups.items() for other in others})
print(json.dumps(found))
"""


def cropped(picture: Image.Image, keep: float, draw: random.Random) -> Image.Image:
    width, height = round(picture.width * keep), round(picture.height * keep)
    left, top = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
    return picture.crop((left, top, left + width, top + height))


def recolored(picture: Image.Image, draw: random.Random) -> Image.Image:
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = change(picture).enhance(draw.uniform(0.85, 1.15))
    return picture


def captioned(picture: Image.Image, draw: random.Random) -> Image.Image:
    bar = round(picture.height * 0.12)
    sheet = Image.new("RGB", (picture.width, picture.height + bar))
    sheet.paste(picture)
    ImageDraw.Draw(sheet).text((4, picture.height + 2), f"Holidays {draw.randint(1950, 2026)}", fill=(255, 255, 255))
    return sheet


KINDS: dict[str, tuple[str, int, Callable[[Image.Image, random.Random], Image.Image]]] = {
    "PNG": ("png", 0, lambda picture, _: picture),
    "quality 60": ("jpg", 60, lambda picture, _: picture),
    "half size": ("jpg", 90, lambda picture, _: picture.resize((picture.width // 2, picture.height // 2))),
    "crop 3 %": ("jpg", 90, lambda picture, draw: cropped(picture, 0.97, draw)),
    "crop 10 %": ("jpg", 90, lambda picture, draw: cropped(picture, 0.9, draw)),
    "color": ("jpg", 90, recolored),
    "caption": ("jpg", 90, captioned),
    "mirrored": ("jpg", 90, lambda picture, _: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


def plant(data: Path, folder: Path, seed: int) -> None:
    """Write photos, and copies as ``NUMBER.KIND.ending``."""
    draw = random.Random(seed)
    members = []
    for name in TARS:
        with tarfile.open(data / name) as archive:
            members += [
                (member.name, archive.extractfile(member).read())
                for member in archive
                if member.name.lower().endswith((".jpg", ".jpeg", ".png"))
            ]
    chosen = draw.sample(members, PHOTOS)
    for number, (name, content) in enumerate(chosen):
        (folder / f"{number:04d}{Path(name).suffix.lower()}").write_bytes(content)
    for kind, (ending, quality, make) in KINDS.items():
        for number in draw.sample(range(PHOTOS), COPIES):
            picture = make(Image.open(io.BytesIO(chosen[number][1])).convert("RGB"), draw)
            options = {"quality": quality} if quality else {}
            picture.save(folder / f"{number:04d}.{kind.replace(' ', '_')}.{ending}", **options)


def ours(folder: Path, index: Path, encoder: str) -> list[tuple[str, str]]:
    from s2r2.search import find_duplicates, update_index

    opened = update_index(encoder, folder, index, progress=False).index
    keys = opened.catalogue.table["key"].to_pylist()
    return [
        (keys[left], keys[right])
        for group in find_duplicates(opened).groups
        for left, right in combinations(group.rows, 2)
    ]


def report(name: str, pairs: Iterable[Iterable[str]], folder: Path) -> None:
    """Print precision over all pairs, and recall of each kind."""
    found = {frozenset(pair) for pair in pairs}
    right = sum(len({key.split(".")[0] for key in pair}) == 1 for pair in found)
    cells = []
    for kind in KINDS:
        made = [path for path in folder.iterdir() if f".{kind.replace(' ', '_')}." in path.name]
        originals = [next(folder.glob(f"{path.name[:4]}.[jp][pn]*g")) for path in made]
        hit = sum(frozenset((a.name, b.name)) in found for a, b in zip(made, originals, strict=True))
        cells.append(f"{kind} {hit / len(made):.2f}")
    wrong = sorted(tuple(sorted(pair)) for pair in found if len({key.split(".")[0] for key in pair}) > 1)
    print(f"{name:<10} precision {right / max(1, len(found)):.3f} of {len(found)} pairs; recall: {', '.join(cells)}")
    print(f"{'':<10} wrong, the first ten: {wrong[:10]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs="+", default=["untrained:test_resnet"])
    parser.add_argument("--peer", help="a Python with imagededup")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "photos")
        folder.mkdir()
        plant(Path(os.environ["S2R2_DATA"]), folder, options.seed)
        for number, encoder in enumerate(options.encoder):
            report(f"s2r2, {encoder}", ours(folder, Path(scratch, f"index{number}"), encoder), folder)
        if options.peer:
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            said = subprocess.run(
                [options.peer, "-c", _PEER, str(folder)], env=environment, stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            for name, pairs in json.loads(said.splitlines()[-1]).items():
                report(name, pairs, folder)


if __name__ == "__main__":
    main()
