"""Words: a tiny random model on disk through index, search and the API, against open_clip itself."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from s2r2.cli import main
from s2r2.distributed.processes import Processes
from s2r2.encoder import Encoder, load
from s2r2.errors import S2R2Error
from s2r2.images import open_source
from s2r2.search import ImageIndex, update_index
from s2r2.search.server.app import create_app
from s2r2.search.several_photos import most_similar
from s2r2.search.unchanged import nothing_new
from s2r2.search.words.model import WordModel
from s2r2.search.words.searching import SEEDS
from s2r2.search.words.vectors import check_text
from s2r2.system import extras

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed: pip install 's2r2[text]'")

CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
}


def tiny(folder: Path, seed: int) -> Path:
    """A random model in open_clip's form, as safetensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(random.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("tiny") / "clip", 0)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load("untrained:test_resnet", device="cpu")


def reference(folder: Path, photos: list[Path], words: str) -> np.ndarray:
    """Cosines of photos and words, by open_clip alone."""
    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pictures = torch.stack([prepare(Image.open(photo).convert("RGB")) for photo in photos])
    with torch.inference_mode():
        images = model.eval().encode_image(pictures, normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")([words]), normalize=True)
    cosines: np.ndarray = (images @ text.T)[:, 0].numpy()
    return cosines


def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of photos that are encoded for words from now on."""
    numbers: list[int] = []
    encode = WordModel.of_pictures

    def counting(self: WordModel, prepared: Any) -> np.ndarray:
        numbers.append(len(prepared))
        return encode(self, prepared)

    monkeypatch.setattr(WordModel, "of_pictures", counting)
    return numbers


def test_words_find_photos_and_the_encoder_ranks_on_from_them(
    encoder: Encoder, model_folder: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    store, numbers = tmp_path / "index", encoded(monkeypatch)
    plain = update_index(encoder, photo_folder, store, progress=False).index
    with pytest.raises(SystemExit):
        main(["search", str(store), "--words", "a red car"])
    assert "--text open_clip:ViT-B-32" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["search", str(store)])
    assert "missing QUERY or --words" in capsys.readouterr().err
    assert plain.search("red/0.jpg", k=1)

    done = update_index(encoder, photo_folder, store, text=f"open_clip:local-dir:{model_folder}", progress=False)
    index = done.index
    assert (done.kept, numbers) == (24, [24])
    assert "words     found by open_clip:local-dir:" in str(done)
    keys = index.catalogue.table["key"].to_pylist()
    cosines = reference(model_folder, [photo_folder / key for key in keys], "a red car")
    own = index.words.vectors @ index.words.model.of_words("a red car")
    assert (
        np.corrcoef(own, cosines)[0, 1] > 0.98
    )  # a photo is reduced before it comes to open_clip, which rounds pixels
    seeds = index.words.seeds("a  red car ")
    assert seeds.tolist() == np.argsort(-own)[:SEEDS].tolist()

    for bad in (" ", "x" * 301):
        with pytest.raises(S2R2Error, match="give 1 to 300 characters"):
            index.search(words=[bad])
    expected, scores = most_similar(index.vectors, list(index.vectors[seeds]), [], 24)
    hits = index.search(words=["a red car"], k=24)
    assert [hit.key for hit in hits] == [keys[row] for row in expected]
    assert np.allclose([hit.score for hit in hits], scores)
    mixed = index.search("blue/0.jpg", words=["a red car"], less_words=["stripes"], k=24)
    assert "blue/0.jpg" not in [hit.key for hit in mixed]
    assert [hit.key for hit in mixed] != [hit.key for hit in index.search("blue/0.jpg", k=24)]
    assert {hit.label for hit in index.search(words=["a red car"], label="green", k=3)} == {"green"}

    main(["search", str(store), "--words", "a red car", "--json", "-k", "3", "--picture", str(tmp_path / "sheet.png")])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["key"] for line in lines] == [hit.key for hit in hits[:3]]

    client = TestClient(create_app([store]), base_url="http://127.0.0.1")
    found = client.get("/api/words", params={"text": "a red car"}).json()["photos"]
    assert [photo["key"] for photo in found] == [keys[row] for row in seeds]
    more = [{"photo": photo["id"], "keep": True} for photo in found]
    ranked = client.post("/api/search", params={"k": 24}, json={"more": more}).json()["hits"]
    assert [hit["key"] for hit in ranked] == [hit.key for hit in hits]
    assert client.get("/api/about").json()["indexes"][0]["no_words"] == ""
    for text in ("", "x" * 301):
        assert client.get("/api/words", params={"text": text}).status_code == 422


@pytest.mark.slow
def test_an_update_encodes_only_what_is_new(
    encoder: Encoder, model_folder: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, numbers = tmp_path / "index", encoded(monkeypatch)
    name = f"open_clip:local-dir:{model_folder}"
    update_index(encoder, photo_folder, store, text=name, progress=False)
    red = photo_folder / "red"
    Image.open(red / "0.jpg").rotate(90).save(red / "new.jpg")
    (red / "1.jpg").rename(red / "moved.jpg")
    (red / "2.jpg").unlink()
    index = update_index(encoder, photo_folder, store, progress=False).index
    assert numbers == [24, 1]
    assert index.about.words == name
    by_key = dict(zip(index.catalogue.table["key"].to_pylist(), index.words.vectors, strict=True))
    assert not (by_key["red/new.jpg"] == by_key["red/0.jpg"]).all()

    another = tiny(tmp_path / "another", 1)
    index = update_index(encoder, photo_folder, store, text=f"open_clip:local-dir:{another}", progress=False).index
    assert numbers == [24, 1, 24]
    tables = list((store / index.about.generation / "lance").glob("words-*"))
    assert len(tables) == 1
    tiny(another, 2)  # other weights under the same name
    with pytest.raises(S2R2Error, match="encode them anew with s2r2 index"):
        index.words.seeds("a red car")
    again = update_index(encoder, photo_folder, store, text=f"open_clip:local-dir:{another}", progress=False).index
    assert len(again.words.seeds("a red car")) == SEEDS
    removed = update_index(encoder, photo_folder, store, text="none", progress=False).index
    assert "has no vectors for words" in removed.words.why_not
    assert not list((store / removed.about.generation).glob("**/words-*"))


def test_where_nothing_is_new_it_is_seen_at_once(
    encoder: Encoder, model_folder: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several commits to the table of words leave one version of it, as updates that add and drop photos do."""
    monkeypatch.setattr("s2r2.search.words.vectors._COMMIT_ROWS", 1)
    monkeypatch.setattr("s2r2.search.words.vectors._BATCH", 10)
    store, name = tmp_path / "index", f"open_clip:local-dir:{model_folder}"
    update_index(encoder, photo_folder, store, text=name, progress=False)
    for number in range(2):
        found = nothing_new(encoder.name, open_source(photo_folder), store, None, 500_000)
        assert found is not None
        assert "words     found by" in str(found)
        (photo_folder / "red" / f"{number}.jpg").unlink()
        update_index(encoder, photo_folder, store, progress=False)


def test_an_interrupted_update_goes_on(
    encoder: Encoder, model_folder: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, store = f"open_clip:local-dir:{model_folder}", tmp_path / "index"
    monkeypatch.setattr("s2r2.search.words.vectors._BATCH", 10)
    whole, calls = WordModel.of_pictures, []

    def interrupted(self: WordModel, prepared: Any) -> np.ndarray:
        calls.append(len(prepared))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, prepared)

    monkeypatch.setattr(WordModel, "of_pictures", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        update_index(encoder, photo_folder, store, text=name, progress=False)
    index = update_index(encoder, photo_folder, store, text=name, progress=False).index
    assert calls == [10, 10, 10, 4]
    assert len(index.words.vectors) == 24


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("clip", "give a model of open_clip"),
        ("open_clip:nothing/here", "open_clip knows no model nothing"),
        ("open_clip:ViT-B-32", "give open_clip:ViT-B-32/"),
        ("open_clip:ViT-B-32/nowhere", "give open_clip:ViT-B-32/"),
        ("open_clip:local-dir:nowhere", "holds no open_clip_config.json"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "cannot be fetched"),
        ("open_clip:hf-hub:nobody/nothing", "cannot be fetched"),
    ],
)
def test_what_is_no_model_is_one_line(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2r2.encoder.weights.why_unreachable", lambda: "no network")
    with pytest.raises(S2R2Error, match=said) as refused:
        WordModel(name)
    assert "\n" not in str(refused.value)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(S2R2Error, match=r"no weights as \.safetensors"):
        WordModel(f"open_clip:local-dir:{tmp_path}")
    tiny(tmp_path, 0)
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(S2R2Error, match="cannot be loaded"):
        WordModel(f"open_clip:local-dir:{tmp_path}")


def test_damaged_models_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = tiny(tmp_path, 0) / "open_clip_model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(weights).items()}, weights)
    with pytest.raises(S2R2Error, match="not finite"):
        WordModel(f"open_clip:local-dir:{weights}")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(S2R2Error, match="describes no model"):
        WordModel(f"open_clip:local-dir:{tmp_path}")
    tiny(tmp_path, 0)
    assert np.isfinite(WordModel(f"open_clip:local-dir:{weights}").of_words("a red car")).all()


def test_several_processes_are_refused() -> None:
    with pytest.raises(S2R2Error, match="is for one process"):
        check_text("open_clip:ViT-B-32/laion2b_s34b_b79k", SimpleNamespace(world_size=2))  # type: ignore[arg-type]
    check_text("open_clip:ViT-B-32/laion2b_s34b_b79k", Processes())


def test_without_the_extra_a_line_says_how_to_get_it(
    encoder: Encoder, model_folder: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name = tmp_path / "index", f"open_clip:local-dir:{model_folder}"
    update_index(encoder, photo_folder, store, text=name, progress=False)
    there = extras._is_installed
    monkeypatch.setattr(extras, "_is_installed", lambda module: module != "open_clip" and there(module))
    index = ImageIndex.open(store)
    assert index.words.why_not == "searching by words needs open_clip: pip install 's2r2[text]'"
    assert index.search("red/0.jpg", k=1)
    with pytest.raises(S2R2Error, match=r"pip install 's2r2\[text\]'"):
        update_index(encoder, photo_folder, store, progress=False)
