"""Views against torchvision's float operations, and the same views whoever makes them."""

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from s2r2.cli import main
from s2r2.errors import S2R2Error
from s2r2.views import (
    RECIPES,
    Recipe,
    ViewLoader,
    draw_parameters,
    get_recipe,
    render_centre,
    render_views,
    view_sizes,
    views_sheet,
)
from s2r2.views.draws import draw_crops, draw_uniform

STILL = Recipe(
    horizontal_flip=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
    solarize_probability=0.0,
)
ALONE = {
    "crop": {},
    "flip": {"horizontal_flip": 1.0},
    "flop": {"vertical_flip": 1.0},
    "turns": {"quarter_turns": True},
    "brightness": {"jitter_probability": 1.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    "contrast": {"jitter_probability": 1.0, "brightness": 0.0, "saturation": 0.0, "hue": 0.0},
    "saturation": {"jitter_probability": 1.0, "brightness": 0.0, "contrast": 0.0, "hue": 0.0},
    "hue": {"jitter_probability": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.5},
    "grey": {"grayscale_probability": 1.0},
    "blur": {"blur_probability": 1.0},
    "solarise": {"solarize_probability": 1.0},
}
WHOLE = dataclasses.replace(RECIPES["photos"], vertical_flip=0.3, quarter_turns=True, solarize_probability=0.2)
SIZES = [(96, 96, 96), (160, 213, 96), (256, 341, 224), (480, 640, 128), (500, 7, 64), (7, 500, 64), (1, 1, 32)]


def photo(height: int, width: int) -> np.ndarray:
    """Smooth shapes with fine noise: what a photo is made of."""
    generator = np.random.default_rng(height * 1000 + width)
    rows, columns = np.mgrid[0:height, 0:width] / 40
    waves = [np.sin(rows * a + columns * b + c) for a, b, c in generator.uniform(0, 6, (3, 3))]
    return (
        ((np.stack(waves, 2) * 0.4 + 0.5) * 255 + generator.normal(0, 12, (height, width, 3)))
        .clip(0, 255)
        .astype(np.uint8)
    )


def errors(recipe: Recipe, height: int, width: int, size: int, views: int) -> np.ndarray:
    image = photo(height, width)
    table = draw_parameters(recipe, np.array([image.shape[:2]]), np.array([7]), views, seed=3, epoch=1, view_size=size)
    ours = render_views([image], table, size, backend="numba")
    theirs = render_views([image], table, size, backend="torchvision")
    return np.abs(ours.astype(np.float64) - theirs) * 255


@pytest.mark.parametrize("operation", ALONE)
def test_each_operation_equals_torchvision(operation: str) -> None:
    recipe = dataclasses.replace(STILL, **ALONE[operation])
    for height, width, size in ((96, 96, 96), (160, 213, 96), (7, 50, 32)):
        difference = errors(recipe, height, width, size, 8)
        assert difference.mean() <= 0.001
        if operation != "solarise":  # a pixel at one half may fall to either side
            assert difference.max() <= 0.05


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_the_whole_chain_equals_torchvision(height: int, width: int, size: int) -> None:
    difference = errors(dataclasses.replace(WHOLE, solarize_probability=0.0), height, width, size, 12)
    assert difference.mean() <= 0.001
    assert difference.max() <= 0.05


def test_bytes_are_the_rounded_floats() -> None:
    image = photo(60, 80)
    table = draw_parameters(WHOLE, np.array([[60, 80]]), np.array([1]), 8, seed=0, epoch=0, view_size=32)
    floats = render_views([image], table, 32)
    rounded = render_views([image], table, 32, dtype="uint8")
    assert np.abs(rounded - floats * 255).max() <= 0.51


def test_centre_is_the_resized_square() -> None:
    image = photo(50, 80)
    whole = render_centre([image], 50, mean=(0.0,) * 3, std=(1.0,) * 3)[0].transpose(1, 2, 0)
    np.testing.assert_allclose(whole * 255, image[:, 15:65], atol=1e-3)


class Store:
    """Images in memory, as the loader wants them."""

    def __init__(self, count: int = 40) -> None:
        self.images = [photo(20 + i % 5, 24 + i % 7) for i in range(count)]
        self.sizes = np.array([image.shape[:2] for image in self.images], np.int32)
        self.image_ids = np.arange(count, dtype=np.uint64) * 977

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]


def steps(start: int = 0, epoch: int = 2, recipe: Recipe = WHOLE, **options: int) -> list[tuple[bytes, ...]]:
    options = {"view_size": 16, "views": 4, "batch_size": 8, "seed": 5, **options}
    with ViewLoader(Store(), recipe, **options) as loader:
        return [tuple(p.numpy().tobytes() for p in batch.pixels) for batch in loader.epoch(epoch, start)]


def test_any_number_of_threads_gives_the_same_bytes() -> None:
    one = steps(threads=1)
    assert steps(threads=2) == one
    assert steps(threads=8) == one


def test_buffers_on_the_way_to_a_gpu_are_not_written_before_they_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here: copies are made as late as they may be, when somebody waits for them."""
    from s2r2.views import pinned

    copies: list[tuple[torch.Tensor, torch.Tensor]] = []
    allocated = []

    class Event:
        def record(self, stream: object) -> None:
            self.queued = len(copies)

        def synchronize(self) -> None:
            for target, source in copies[: self.queued]:
                target.copy_(source)
            del copies[: self.queued]
            for other in events:
                other.queued = max(0, other.queued - self.queued) if other is not self else 0

    events: list[Event] = []

    def event() -> Event:
        events.append(Event())
        return events[-1]

    def empty(shape: tuple[int, ...], dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        allocated.append(torch.zeros(shape, dtype=dtype))
        return allocated[-1]

    def normalise(self: ViewLoader, pixels: torch.Tensor) -> torch.Tensor:
        copies.append((torch.zeros_like(pixels), pixels))
        return copies[-1][0]

    cuda = SimpleNamespace(Event=event, current_stream=lambda device: None)
    monkeypatch.setattr(pinned, "torch", SimpleNamespace(empty=empty, uint8=torch.uint8, cuda=cuda))
    monkeypatch.setattr(ViewLoader, "_normalise", normalise)
    with ViewLoader(Store(), WHOLE, view_size=16, views=4, batch_size=4, seed=5, drop_last=False) as loader:
        loader._pinned = pinned.PinnedBuffers(loader._shapes(4), loader.prefetch + 1, torch.device("cpu"))
        left = loader.epoch(1)
        next(left)
        left.close()  # what threads may still write into is not handed out again
        batches = [batch.pixels[0] for batch in loader.epoch(2)]
        for target, source in copies:
            target.copy_(source)
    with ViewLoader(Store(), WHOLE, view_size=16, views=4, batch_size=4, seed=5, drop_last=False) as loader:
        expected = [batch.pixels[0] for batch in loader.epoch(2)]
    assert len(batches) == len(expected) > 6
    assert len(allocated) < 5 + 3 + 1
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (WHOLE.mean, WHOLE.std))
    for found, wanted in zip(batches, expected, strict=True):
        assert ((found / 255 - mean) / std - wanted).abs().max() < 0.01


def test_a_resume_goes_on_with_the_same_bytes() -> None:
    assert steps(start=3) == steps()[3:]


def test_another_epoch_or_seed_gives_other_views() -> None:
    assert not set(steps(epoch=2)) & set(steps(epoch=3))
    assert not set(steps(seed=5)) & set(steps(seed=6))


def test_processes_share_a_step_in_order() -> None:
    whole = steps()
    for world in (2, 3):
        parts = [steps(rank=rank, world_size=world) for rank in range(world)]
        assert [tuple(b"".join(size) for size in zip(*step, strict=True)) for step in zip(*parts, strict=True)] == whole


@pytest.mark.slow
def test_a_new_process_gives_the_same_bytes() -> None:
    import hashlib

    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1])\n"
        "import test_views\nprint(hashlib.sha256(b''.join(b''.join(s) for s in test_views.steps())).hexdigest())"
    )
    from pathlib import Path

    result = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == hashlib.sha256(b"".join(b"".join(step) for step in steps())).hexdigest()


def test_a_row_alone_equals_the_row_in_a_batch() -> None:
    sizes, ids = np.array([[40, 50], [60, 30], [20, 20]]), np.array([3, 99, 5], np.uint64)
    options = {"seed": 1, "epoch": 4, "view_size": 16}
    table = draw_parameters(WHOLE, sizes, ids, 5, **options)
    alone = draw_parameters(WHOLE, sizes[1:2], ids[1:2], 1, first_view=3, **options)
    for field in dataclasses.fields(table):
        np.testing.assert_array_equal(getattr(table, field.name)[5 + 3], getattr(alone, field.name)[0])


def reference_draws(keys: np.ndarray, numbers: int) -> np.ndarray:
    """``(N, numbers)`` in [0, 1): SplitMix64 as its authors state it, 53 bits of each number."""
    bits = keys[:, None] + np.arange(1, numbers + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def reference_crops(
    sizes: np.ndarray, scales: np.ndarray, ratios: tuple[float, float], uniform: np.ndarray
) -> np.ndarray:
    """``(N, 4)`` top, left, height and width as torchvision's RandomResizedCrop finds them in ten tries."""
    rows, columns = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)
    area = rows * columns * (scales[:, :1] + (scales[:, 1:] - scales[:, :1]) * uniform[:, :10])
    narrow, wide = ratios
    ratio = np.exp(np.log(narrow) + (np.log(wide) - np.log(narrow)) * uniform[:, 10:20])
    width, height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (width >= 1) & (width <= columns) & (height >= 1) & (height <= rows)
    first, found = fits.argmax(axis=1)[:, None], fits.any(axis=1)
    width, height = np.take_along_axis(width, first, 1)[:, 0], np.take_along_axis(height, first, 1)[:, 0]
    rows, columns = rows[:, 0], columns[:, 0]
    # No crop fitted: the largest one in the center whose ratio is allowed.
    centre_width = np.where(columns / rows > wide, np.rint(rows * wide), columns)
    centre_height = np.where(columns / rows < narrow, np.rint(columns / narrow), rows)
    width = np.where(found, width, np.clip(centre_width, 1, columns))
    height = np.where(found, height, np.clip(centre_height, 1, rows))
    top = np.where(found, np.floor(uniform[:, 20] * (rows - height + 1)), (rows - height) // 2)
    left = np.where(found, np.floor(uniform[:, 21] * (columns - width + 1)), (columns - width) // 2)
    return np.stack([top, left, height, width], axis=1).astype(np.int32)


@pytest.mark.parametrize("ratios", [(3 / 4, 4 / 3), (2.0, 3.0)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
def test_draws_equal_those_of_numpy(scale: tuple[float, float], ratios: tuple[float, float]) -> None:
    """Compiled, and as they are in Python where numba is missing."""
    rows = 3000
    keys = np.random.default_rng(2).integers(0, 1 << 63, rows, dtype=np.uint64) * np.uint64(2)
    sizes = np.random.default_rng(1).integers(1, 700, (rows, 2))
    scales = np.tile(scale, (rows, 1))
    uniform, crops = np.empty((rows, 38)), np.empty((rows, 4), np.int32)
    draw_uniform(keys, uniform)
    np.testing.assert_array_equal(uniform, reference_draws(keys, 38))
    log_ratios = math.log(ratios[0]), math.log(ratios[1])
    draw_crops(sizes, scales, log_ratios, uniform, 10, 20, crops)
    np.testing.assert_array_equal(crops, reference_crops(sizes, scales, ratios, uniform))

    few = 40
    plain, plain_crops = np.empty((few, 38)), np.empty((few, 4), np.int32)
    with np.errstate(over="ignore"):
        draw_uniform.py_func(keys[:few], plain)
    draw_crops.py_func(sizes[:few], scales[:few], log_ratios, plain, 10, 20, plain_crops)
    np.testing.assert_array_equal(plain, uniform[:few])
    np.testing.assert_array_equal(plain_crops, crops[:few])


def test_multi_crop_has_large_and_small_views() -> None:
    recipe = get_recipe("swav-multicrop")
    assert view_sizes(recipe, 224, 8) == (224, 224, 96, 96, 96, 96, 96, 96)
    with ViewLoader(Store(), recipe, view_size=28, views=8, batch_size=4, seed=0) as loader:
        batch = next(loader.epoch(0))
    assert [tuple(p.shape) for p in batch.pixels] == [(8, 3, 28, 28), (24, 3, 12, 12)]
    assert [g.tolist() for g in batch.groups] == [np.repeat(range(4), 2).tolist(), np.repeat(range(4), 6).tolist()]


def test_parameters_follow_their_distributions() -> None:
    from scipy import stats

    count = 4000
    recipe = dataclasses.replace(RECIPES["photos"], quarter_turns=True, vertical_flip=0.25, solarize_probability=0.1)
    table = draw_parameters(recipe, np.full((count, 2), 400), np.arange(count), 1, seed=0, epoch=0, view_size=96)
    area = table.height * table.width / 400**2
    ratio = np.log(table.width / table.height)
    assert stats.kstest(table.hue, "uniform", (-0.2, 0.4)).pvalue > 1e-3
    assert stats.kstest(table.factors[:, 0], "uniform", (0.2, 1.6)).pvalue > 1e-3
    assert stats.kstest(table.factors[:, 1], "uniform", (0.2, 1.6)).pvalue > 1e-3
    assert stats.kstest(table.factors[:, 2], "uniform", (0.2, 1.6)).pvalue > 1e-3
    blurred = table.sigma[table.sigma > 0]
    assert stats.kstest(blurred, "uniform", (0.1, 1.9)).pvalue > 1e-3
    small = area < 0.6  # crops that fit whatever their ratio: nothing was rejected
    assert stats.kstest(area[small], "uniform", (0.08, 0.52)).pvalue > 1e-3
    assert stats.kstest(ratio[small], "uniform", (np.log(3 / 4), 2 * np.log(4 / 3))).pvalue > 1e-3
    chances = {"flip": 0.5, "flop": 0.25, "jitter": 0.8, "grey": 0.2, "solarise": 0.1}
    for name, chance in chances.items():
        assert stats.binomtest(int(getattr(table, name).sum()), count, chance).pvalue > 1e-3, name
    assert stats.binomtest(len(blurred), count, 0.5).pvalue > 1e-3
    assert stats.chisquare(np.bincount(table.turns, minlength=4)).pvalue > 1e-3
    orders = np.unique(table.order @ [64, 16, 4, 1], return_counts=True)[1]
    assert len(orders) == 24
    assert stats.chisquare(orders).pvalue > 1e-3


def test_crops_lie_inside_the_image() -> None:
    sizes = np.random.default_rng(0).integers(1, 300, (500, 2))
    table = draw_parameters(WHOLE, sizes, np.arange(500), 2, seed=0, epoch=0, view_size=32)
    rows, columns = np.repeat(sizes[:, 0], 2), np.repeat(sizes[:, 1], 2)
    assert (table.height >= 1).all()
    assert (table.width >= 1).all()
    assert ((table.top >= 0) & (table.top + table.height <= rows)).all()
    assert ((table.left >= 0) & (table.left + table.width <= columns)).all()


def test_recipes_survive_yaml_and_say_what_is_wrong() -> None:
    for recipe in RECIPES.values():
        assert Recipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(S2R2Error, match="photos"):
        get_recipe("photo")
    with pytest.raises(S2R2Error, match="crop_scale"):
        Recipe(crop_scale=(0.0, 1.0))
    with pytest.raises(S2R2Error, match="colour"):
        Recipe.from_dict({"colour": 1})


def test_former_names_of_settings_are_read() -> None:
    recipe = Recipe.from_dict({"grey_probability": 0.3, "solarise_probability": 0.1})
    assert (recipe.grayscale_probability, recipe.solarize_probability) == (0.3, 0.1)
    with pytest.raises(S2R2Error, match="grey_probability: 2: must be a probability"):
        Recipe.from_dict({"grey_probability": 2})


@pytest.mark.parametrize("wrong", [{"view_size": 0}, {"view_size": 10**6}, {"views": 0}, {"views": 1.5}, {"seed": -1}])
def test_a_sheet_with_wrong_numbers_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(S2R2Error, match="must be") as error:
        views_sheet([np.zeros((40, 40, 3), np.uint8)], Recipe(), **{"view_size": 32, "views": 2, **wrong})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [("image-size", 0), ("image-size", -5), ("image-size", 10**6), ("views", 0), ("images", 0), ("seed", -1)],
)
def test_impossible_numbers_are_refused_before_a_photo_is_opened(
    option: str, value: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["views", str(tmp_path / "no such folder"), f"--{option}", str(value)])
    assert re.fullmatch(rf"s2r2: --{option} is {value}: must be .*\n", capsys.readouterr().err)


def test_a_recipe_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("hue: 0.05\ncrop_scale: [0.5, 1.0]\n")
    assert get_recipe(str(path)) == Recipe(hue=0.05, crop_scale=(0.5, 1.0))
    for content, reason in (
        ("mean: [0, 0, 0]\nhue: 3", "mine.yaml, line 2: hue: 3: must be between"),
        ("hue: 1e-1\nhew: 0.1", "line 2: hew: there is no such setting; did you mean hue"),
        ("quarter_turns: yes", "true or false"),
        ("crop_scale: 0.5", "list of 2"),
        ("brightness: .inf", "finite"),
        ("hue: 2\nstd: [0, 1, 1]\nblur_sigma: [2, 1]", "3 mistakes"),
        ("- hue", "NAME: VALUE"),
        ("hue: [", "line 1"),
        ("", "empty"),
    ):
        path.write_text(content)
        with pytest.raises(S2R2Error, match=reason):
            get_recipe(str(path))
    with pytest.raises(S2R2Error, match="No such file"):
        get_recipe(str(tmp_path / "none.yaml"))


def test_an_error_in_a_thread_reaches_the_caller_and_threads_end() -> None:
    import threading

    class Broken(Store):
        def __getitem__(self, index: int) -> np.ndarray:
            raise S2R2Error("the file is gone")

    before = threading.active_count()
    with ViewLoader(Broken(), WHOLE, view_size=16, views=2, batch_size=8, seed=0) as loader, pytest.raises(S2R2Error):
        next(loader.epoch(0))
    assert threading.active_count() == before
