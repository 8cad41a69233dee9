"""Exported encoders, read by programs that have no s2r2."""

import dataclasses
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from s2r2.encoder import Encoder, create_encoder, export, load
from s2r2.encoder.model_card import Usage, model_card
from s2r2.encoder.timm_form import from_timm, to_timm
from s2r2.errors import S2R2Error

COUNT = 100
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
for name in {blocked!r}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(name + " can be imported")
"""
RUN = """
import glob
paths = sorted(glob.glob({photos!r} + "/*.png"))
np.save("one.npy", embed(paths[:1]))
np.save("all.npy", embed(paths))
"""
SIMPLE = """
def pixels(path):
    image = Image.open(path)
    scale = SIDE / min(image.size)
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    resized = square.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32).transpose(2, 0, 1) / np.float32(255)
"""


@pytest.fixture(scope="module")
def odd_photos(tmp_path_factory: pytest.TempPathFactory, photos_if_there: Path | None) -> Path:
    """A hundred photos (blurred noise where there are none) whose sides are odd and all different."""
    folder = tmp_path_factory.mktemp("odd")
    generator = np.random.default_rng(0)
    for i, image in enumerate(_pictures(photos_if_there)):
        width, height = (int(side) for side in 2 * generator.integers(9, 90, 2) + 1)
        image.convert("RGB").resize((width, height)).save(folder / f"{i:03d}.png")
    assert len(list(folder.iterdir())) == COUNT
    return folder


def _pictures(photos: Path | None) -> list[Image.Image]:
    if photos is not None and (photos / "bsds500_s160.tar").exists():
        with tarfile.open(photos / "bsds500_s160.tar") as archive:
            names = [n for n in sorted(archive.getnames()) if n.endswith((".jpg", ".png"))][:COUNT]
            return [Image.open(archive.extractfile(name)).copy() for name in names]
    noise = np.random.default_rng(0).integers(0, 255, (COUNT, 90, 120, 3), dtype=np.uint8)
    return [Image.fromarray(image).filter(ImageFilter.GaussianBlur(2)) for image in noise]


def trained_looking(backbone: str, image_size: int) -> Encoder:
    """An encoder whose batch norms have seen something: with fresh ones, mistakes in them would not show."""
    torch.manual_seed(0)
    encoder = create_encoder(backbone, image_size=image_size, embedding_dimensions=16, head_hidden=32, name="mine")
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what comes now
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for _ in range(3):
            coarse = torch.randn(16, 3, 6, 6)
            encoder(torch.nn.functional.interpolate(coarse, image_size, mode="bicubic"))
    return encoder.eval()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return trained_looking("lcnet_050", 64)


@pytest.fixture(scope="module")
def small_stem() -> Encoder:
    return trained_looking("resnet18", 32)


def card_code(card: Path) -> str:
    return re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)[0]


def in_clean_process(card: Path, cwd: Path, photos: Path, blocked: tuple[str, ...], extra: str = "") -> np.ndarray:
    """Run the code of the card, without s2r2 and whatever else it must not need, and return its vectors."""
    code = BLOCKER.format(blocked=blocked) + card_code(card) + extra + RUN.format(photos=str(photos))
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=cwd, env={"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = np.load(cwd / "all.npy")
    np.testing.assert_allclose(np.load(cwd / "one.npy"), rows[:1], atol=1e-5)
    return rows


NO_TORCH = ("s2r2", "torch", "torchvision", "timm", "numba", "safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "format", "file", "blocked"),
    [
        ("encoder", "onnx", "mine.onnx", NO_TORCH),
        ("encoder", "safetensors", "mine.safetensors", ("s2r2", "numba")),
        ("encoder", "huggingface", "mine", ("s2r2", "numba")),
        ("encoder", "torch-export", "mine.pt2", ("s2r2", "timm", "numba")),
        ("small_stem", "auto", "mine.onnx", NO_TORCH),
        ("small_stem", "auto", "mine.safetensors", ("s2r2", "numba")),
        ("small_stem", "auto", "mine.pt2", ("s2r2", "timm", "numba")),
    ],
)
def test_the_same_vectors_without_s2r2(
    which: str,
    format: str,
    file: str,
    blocked: tuple[str, ...],
    odd_photos: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    original: Encoder = request.getfixturevalue(which)
    written = export(original, tmp_path / file, format=format)
    found = in_clean_process(written.card, tmp_path, odd_photos, blocked)
    expected = original.embed(sorted(odd_photos.glob("*.png")))
    difference = np.abs(found - expected).max()
    print(f"{which} {format}: {difference:.2g}")
    assert found.shape == (COUNT, original.dimensions())
    assert difference < 1e-4
    assert np.ptp(expected, axis=0).max() > 0.01  # else equality would say nothing


@pytest.mark.slow
def test_embeddings_of_the_head(encoder: Encoder, odd_photos: Path, tmp_path: Path) -> None:
    expected = encoder.embed(sorted(odd_photos.glob("*.png")), output="embedding")
    written = export(encoder, tmp_path / "head.onnx", format="onnx", output="embedding")
    found = in_clean_process(written.card, tmp_path, odd_photos, NO_TORCH)
    assert np.abs(found - expected).max() < 1e-4
    own = export(encoder, tmp_path / "head.safetensors", output="embedding")
    again = load(own.path).embed(sorted(odd_photos.glob("*.png")), output="embedding")
    np.testing.assert_array_equal(again, expected)


@pytest.mark.slow
def test_resizing_to_eight_bits_is_near_but_not_the_same(encoder: Encoder, odd_photos: Path, tmp_path: Path) -> None:
    written = export(encoder, tmp_path / "mine.onnx", format="onnx")
    found = in_clean_process(written.card, tmp_path, odd_photos, NO_TORCH, SIMPLE)
    expected = encoder.embed(sorted(odd_photos.glob("*.png")))
    difference, cosine = np.abs(found - expected).max(), (found * expected).sum(axis=1).min()
    print(f"8 bits: {difference:.2g}, cosine {cosine:.6f}")
    assert difference > 1e-4  # else the card could recommend the simpler way
    assert cosine > 0.9  # weights that were never trained exaggerate it


@pytest.mark.parametrize(
    ("which", "format"), [("encoder", "safetensors"), ("encoder", "huggingface"), ("small_stem", "safetensors")]
)
def test_s2r2_reads_its_export_bit_for_bit(
    which: str, format: str, odd_photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    original: Encoder = request.getfixturevalue(which)
    written = export(original, tmp_path / ("x.safetensors" if format == "safetensors" else "x"), format=format)
    again = load(written.path)
    assert again.name == original.name
    assert again.head is None
    for name, tensor in original.backbone.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[name], tensor), name
    some = sorted(odd_photos.glob("*.png"))[:3]
    np.testing.assert_array_equal(again.embed(some), original.embed(some))


@pytest.mark.slow
def test_an_index_takes_the_export(encoder: Encoder, odd_photos: Path, tmp_path: Path) -> None:
    from s2r2.images import open_source
    from s2r2.search import update_index

    written = export(encoder, tmp_path / "x.safetensors")
    done = update_index(load(written.path), open_source(odd_photos), tmp_path / "index", progress=False)
    assert done.embedded == COUNT


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_efficientnet"])
def test_timm_form_of_other_backbones(backbone: str) -> None:
    original = trained_looking(backbone, 48)
    form = to_timm(original)
    assert not form.small_stem
    assert ("img_size" in form.arguments) == (backbone == "test_vit")
    pixels = torch.randn(2, 3, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(form.build()(pixels), original.features(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["resnet26", pytest.param("resnetaa50", marks=pytest.mark.slow)])
def test_small_stems_of_other_resnets(backbone: str) -> None:
    original = trained_looking(backbone, 32)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(to_timm(original).build()(pixels), original.features(pixels), rtol=1e-4, atol=1e-5)


def test_small_stems_of_earlier_exports_are_read_bit_for_bit(small_stem: Encoder) -> None:
    """Layout 2 held a 7x7 convolution for pixels repeated four times."""
    weights = to_timm(small_stem).tensors
    tap, share = torch.tensor([0, 1, 1, 1, 1, 2, 2]), torch.tensor([1.0, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5])
    wide = weights["conv1.weight"][:, :, tap][:, :, :, tap] * (share[:, None] * share)
    earlier = {**weights, "conv1.weight": wide, "maxpool.0.weight": torch.zeros(64, 64, 3, 3)}
    found = from_timm(earlier)
    assert found.keys() == weights.keys()
    assert torch.equal(found["conv1.weight"], weights["conv1.weight"])


def refused(*arguments: object, **options: object) -> str:
    with pytest.raises(S2R2Error) as error:
        export(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_refusals_are_one_line_and_write_nothing(encoder: Encoder, tmp_path: Path) -> None:
    assert ".onnx" in refused(encoder, tmp_path / "x.bin", format="onnx")
    assert "ends in none of" in refused(encoder, tmp_path / "x.bin")
    assert "ends in none of" in refused(encoder, tmp_path / "x")
    assert "huggingface" in refused(encoder, tmp_path / "x.onnx", format="tensorflow")
    assert "projection head" in refused(encoder, tmp_path / "x", format="huggingface", output="embedding")
    bare = load("untrained:test_resnet", image_size=64)
    assert "`output`" in refused(bare, tmp_path / "x.onnx", format="onnx", output="embedding")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("kept")
    assert "file" in refused(encoder, tmp_path / "file", format="huggingface")
    assert "file" in refused(encoder, tmp_path / "file" / "x.safetensors")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("kept")
    assert "run folder" in refused(encoder, tmp_path / "run", format="huggingface")


def test_a_small_stem_is_none_that_timm_can_build(small_stem: Encoder, tmp_path: Path) -> None:
    assert "`format='safetensors'`" in refused(small_stem, tmp_path / "x", format="huggingface")
    assert not (tmp_path / "x").exists()


def test_onnx_without_its_libraries(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "s2r2[export]" in refused(encoder, tmp_path / "x.onnx", format="onnx")


@pytest.mark.slow
def test_a_graph_is_no_encoder_for_s2r2(encoder: Encoder, tmp_path: Path) -> None:
    written = export(encoder, tmp_path / "x.pt2", format="torch-export")
    with pytest.raises(S2R2Error, match=r"export as \.safetensors"):
        load(written.path)


def test_card_from_a_run(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "config: {views: 4, epochs: 7, recipe: mild, pretrained: false}\n"
        "run: {data: /home/someone/private/photos, images: 1234, skipped: 5, labels: 0, steps: 99,\n"
        "  learning_rate: 0.002, s2r2: 0.1.0, torch: '2', timm: '1', recipe: {}, began: 2026-01-02 03:04:05}\n".replace(
            "2026-01-02 03:04:05", "'2026-01-02 03:04:05'"
        )
    )
    (tmp_path / "evaluation.json").write_text(
        '{"about": {"test": "/home/someone/held", "test_images": 77, "train": null}, "notes": ["A note."],'
        '"columns": {"map": {"title": "mAP"}}, "rows": ['
        '{"encoder": "raw pixels", "output": "pixels", "figures": {"map": [0.5, 0.4, 0.6, 77]}, "health": {}},'
        '{"encoder": "trained", "output": "feature", "figures": {"map": [0.7, 0.55, 0.8, 77]},'
        ' "health": {"warning": "collapsed"}}]}'
    )
    usage = Usage("onnx", "feature", "x.onnx", None)
    card = model_card(encoder, tmp_path, usage, 1e-7)
    for said in ("1,234 photos of `photos`", "recipe mild", "epochs 7", "70.0 [55.0, 80.0]", "A note.", "collapsed"):
        assert said in card
    assert "Not clearly above raw pixels in: mAP" in card
    assert "/home" not in card
    strange = "<script>x</script> [a](javascript:b) | \x1b[2J"
    content = (tmp_path / "evaluation.json").read_text()
    (tmp_path / "evaluation.json").write_text(content.replace('"raw pixels"', json.dumps(strange)))
    card = model_card(encoder, tmp_path, dataclasses.replace(usage, file='x"); evil(").onnx'), 1e-7)
    assert "<script>" not in card
    assert "[a](" not in card
    assert "\x1b" not in card
    assert 'evil(")' not in card
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(S2R2Error, match="evaluate"):
        model_card(encoder, tmp_path, usage, 1e-7)
    (tmp_path / "evaluation.json").unlink()
    assert "not been measured" in model_card(encoder, tmp_path, usage, 1e-7)


def test_what_others_have_written_is_not_exported_over(tmp_path: Path) -> None:
    encoder = create_encoder("test_vit", image_size=64, name="mine")
    run = tmp_path / "run"
    run.mkdir()
    encoder.save(run)
    weights = run / "encoder.safetensors"
    (run / "config.yaml").write_text("config: {}\n")
    (tmp_path / "README.md").write_text("of somebody")
    before = weights.read_bytes()
    other = tmp_path / "other.safetensors"
    other.write_bytes(before)
    for source, out, format in (
        (encoder, weights, "safetensors"),
        (other, other, "safetensors"),
        (encoder, tmp_path, "huggingface"),
    ):
        with pytest.raises(S2R2Error, match="would be lost: "):
            export(source, out, format=format)
    assert weights.read_bytes() == other.read_bytes() == before
    assert (tmp_path / "README.md").read_text() == "of somebody"
    for _ in range(2):  # an export may be made again
        assert export(encoder, tmp_path / "hub", format="huggingface").difference < 1e-4
