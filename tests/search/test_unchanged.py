"""An index with nothing new is recognized without torch; whatever else changed is left to the update."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from s2r2.encoder import load
from s2r2.errors import S2R2Error
from s2r2.images import ArraySource, open_source
from s2r2.search import DamagedIndex, UpdateResult, update_index
from s2r2.search.unchanged import nothing_new

FROM = 500_000


@pytest.fixture
def index(photo_folder: Path, encoder_name: str) -> Path:
    """The index of 24 photos and a file that is none."""
    (photo_folder / "red" / "broken.jpg").write_bytes(b"no photo")
    update_index(encoder_name, photo_folder, photo_folder.parent / "index", progress=False)
    return photo_folder.parent / "index"


@pytest.fixture
def again(index: Path, photo_folder: Path, encoder_name: str) -> Callable[..., UpdateResult | None]:
    def found(encoder: str = encoder_name, backend: str | None = None, start: int = FROM) -> UpdateResult | None:
        return nothing_new(encoder, open_source(photo_folder), index, backend, start)

    return found


Again = Callable[..., UpdateResult | None]


def test_the_command_neither_imports_torch_nor_says_anything_else(
    index: Path, photo_folder: Path, encoder_name: str
) -> None:
    program = (
        "import sys; from s2r2.cli import main; main(sys.argv[1:]);"
        "print({'torch', 'timm', 'lancedb', 'numba'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, "index", encoder_name, str(photo_folder), "--index", str(index)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    updated = update_index(encoder_name, photo_folder, index, progress=False)
    assert done.stdout.splitlines() == [str(updated), "set()"]


def test_it_says_what_an_update_says(again: Again, index: Path, photo_folder: Path, encoder_name: str) -> None:
    (index / ".skipped.csv.abc.tmp").touch()
    found = again()
    assert found is not None
    assert not (index / ".skipped.csv.abc.tmp").exists()  # what a kill left
    written = (index / "skipped.csv").read_text()
    updated = update_index(encoder_name, photo_folder, index, progress=False)
    assert (found.about, found.kept, found.skipped) == (updated.about, 24, updated.skipped)
    assert written == (index / "skipped.csv").read_text()
    assert written.count("\n") == 2


def test_a_file_is_known_by_its_bytes(photo_folder: Path, encoder_name: str, tmp_path: Path) -> None:
    index, run = tmp_path / "index", tmp_path / "run"
    load(encoder_name).save(run)
    update_index(run, photo_folder, index, progress=False)
    source = open_source(photo_folder)
    assert nothing_new(str(run), source, index, None, FROM) is not None
    assert nothing_new(str(run / "encoder.safetensors"), source, index, None, FROM) is not None
    load("untrained:test_vit").save(run)
    assert nothing_new(str(run), source, index, None, FROM) is None
    assert nothing_new(str(tmp_path / "nowhere"), source, index, None, FROM) is None


def test_what_a_name_of_timms_leads_to_may_have_changed(photo_folder: Path, tmp_path: Path) -> None:
    weights, index = tmp_path / "weights.safetensors", tmp_path / "index"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    name = f"timm:test_resnet@{weights}"
    update_index(name, photo_folder, index, progress=False)
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    assert nothing_new(name, open_source(photo_folder), index, None, FROM) is None
    with pytest.raises(S2R2Error, match="another encoder"):
        update_index(name, photo_folder, index, progress=False)


def _new_photo(photos: Path, index: Path) -> None:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photos / "red" / "new.jpg")


def _changed_photo(photos: Path, index: Path) -> None:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photos / "red" / "1.jpg")


def _photo_gone(photos: Path, index: Path) -> None:
    (photos / "red" / "1.jpg").unlink()


def _other_label(photos: Path, index: Path) -> None:
    (photos / "red").rename(photos / "rot")


def _damaged_photo_mended(photos: Path, index: Path) -> None:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(photos / "red" / "broken.jpg")


def _one_more_damaged(photos: Path, index: Path) -> None:
    (photos / "red" / "broken too.jpg").write_bytes(b"no photo")


def _no_index_yet(photos: Path, index: Path) -> None:
    index.rename(photos.parent / "elsewhere")


def _a_file_of_the_index_gone(photos: Path, index: Path) -> None:
    next(index.glob("*/vectors-1.npy")).unlink()


def _rows_that_were_not_written_down(photos: Path, index: Path) -> None:
    manifest = next(index.glob("*/lance/*/_versions/*.manifest"))
    newer = f"{int(manifest.stem) - 1:020}" if len(manifest.stem) == 20 else f"{int(manifest.stem) + 1}"
    manifest.with_stem(newer).write_bytes(manifest.read_bytes())


@pytest.mark.parametrize(
    "change",
    [
        _new_photo, _changed_photo, _photo_gone, _other_label, _damaged_photo_mended, _one_more_damaged, _no_index_yet,
        _a_file_of_the_index_gone, _rows_that_were_not_written_down,
    ],
)  # fmt: skip
def test_what_changed_is_left_to_the_update(
    change: Callable[[Path, Path], None], again: Again, index: Path, photo_folder: Path
) -> None:
    assert again() is not None
    change(photo_folder, index)
    before = sorted(path.name for path in index.rglob("*")) if index.exists() else []
    assert again() is None
    assert before == (sorted(path.name for path in index.rglob("*")) if index.exists() else [])


def test_another_request_is_left_to_the_update(again: Again, index: Path, photo_folder: Path) -> None:
    assert again("untrained:test_vit") is None
    assert again(backend="lancedb") is None
    assert again(backend="exact") is None  # chosen for good, where auto was
    assert again(start=10) is None
    moved = photo_folder.rename(photo_folder.parent / "moved")
    assert nothing_new("untrained:test_resnet", open_source(moved), index, None, FROM) is None


def test_damage_is_said_with_its_remedy(again: Again, index: Path) -> None:
    rows = next(index.glob("*/lance/*/data/*.lance"))
    rows.write_bytes(rows.read_bytes()[:-1])
    with pytest.raises(DamagedIndex, match="--rebuild"):
        again()


def test_one_writer(again: Again, index: Path) -> None:
    from s2r2.system.locking import locked

    with locked(index / "lock", "writing the index", "wait"), pytest.raises(S2R2Error, match="wait until it has"):
        again()


def test_photos_in_memory(tmp_path: Path, encoder_name: str) -> None:
    pixels = [np.full((40, 40, 3), 80 * number, np.uint8) for number in range(3)]
    source = ArraySource("three", np.stack(pixels), None)
    update_index(encoder_name, source, tmp_path / "index", progress=False)
    assert nothing_new(encoder_name, source, tmp_path / "index", None, FROM) is not None
    source = ArraySource("three", np.stack([*pixels[:2], pixels[0] + 1]), None)
    assert nothing_new(encoder_name, source, tmp_path / "index", None, FROM) is None
