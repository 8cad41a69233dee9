"""The whole evaluation on small stores: rows, columns, notes, pictures."""

import io
import json

import numpy as np
import pytest

from s2r2.errors import S2R2Error
from s2r2.evaluation import Evaluation, evaluate, fine_tune, held_out_views, rank_views, view_average_precision
from s2r2.evaluation.evaluating import RAW
from s2r2.evaluation.protocols.fine_tuning import FineTuningPlan, labeled_share
from s2r2.evaluation.protocols.raw_pixels import raw_pixel_features
from s2r2.evaluation.task import build_task
from s2r2.images import PixelStore, open_source
from s2r2.system.console import PlainConsole
from s2r2.views import draw_parameters, get_recipe, render_views


def oracle(store):
    """An "encoder" that knows the labels."""
    return store.labels.targets + 0.01


@pytest.fixture(scope="module")
def found(stores, encoder, tmp_path_factory) -> tuple[Evaluation, object]:
    folder = tmp_path_factory.mktemp("run")
    encoders = {"untrained encoder": encoder, "tiny": encoder, "oracle": oracle}
    return evaluate(encoders, *stores, recipe=get_recipe("mild"), folder=folder, draws=100), folder


def test_rows_are_raw_pixels_features_embeddings_and_functions(found):
    rows = [(row.encoder, row.output) for row in found[0].rows]
    assert rows == [
        (RAW, "pixels"),
        ("untrained encoder", "feature"),
        ("untrained encoder", "embedding"),
        ("tiny", "feature"),
        ("tiny", "embedding"),
        ("oracle", "feature"),
    ]


def test_an_encoder_that_knows_the_labels_gets_everything_right_and_pixels_do_not(found):
    figures = found[0].row("oracle").figures
    for name in ("map", "map@r", "recall@1", "recall@10", "knn@6", "probe"):
        assert figures[name].value == 1, name
    assert figures["map"].count == 40
    assert found[0].row(RAW).figures["map"].value < 0.9


def test_every_figure_has_a_column_with_an_explanation_and_lies_in_its_interval(found):
    for row in found[0].rows:
        for name, figure in row.figures.items():
            assert len(found[0].columns[name].explanation) > 20
            assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9


def test_json_comes_back_as_it_went(found):
    evaluation, folder = found
    text = (folder / "evaluation.json").read_text()
    assert "NaN" not in text
    again = Evaluation.load(folder)
    assert again.to_dict() == json.loads(text) == evaluation.to_dict()


@pytest.mark.parametrize("width", [80, 200])
def test_the_printed_table_fits_and_has_every_row(found, width):
    output = io.StringIO()
    found[0].print(PlainConsole(file=output, width=width))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for name in ("raw pixels", "tiny, head", "oracle"):
        assert any(line.strip().startswith(name) for line in lines)
    assert "100.0" in output.getvalue()


def test_rankings_mark_right_and_wrong_and_their_pictures_are_there(found):
    evaluation, folder = found
    for kind in ("rankings", "worst"):
        queries = evaluation.pictures[kind]["queries"]
        assert queries
        for query in queries:
            assert len(query["neighbours"]) == 10
            assert query["key"] not in [n["key"] for n in query["neighbours"]]
            for neighbour in query["neighbours"]:
                assert neighbour["right"] == (neighbour["labels"] == query["labels"])
                assert (folder / neighbour["picture"]).is_file()
    assert (folder / evaluation.pictures["map"]["picture"]).is_file()
    shares = np.array(evaluation.pictures["confusion"]["shares"])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-3)


def test_queries_shown_come_from_different_classes(found):
    labels = [tuple(q["labels"]) for q in found[0].pictures["rankings"]["queries"]]
    assert len(set(labels)) == 4


def test_unlabeled_images_are_judged_by_their_views_and_health_alone(unlabeled, encoder, tmp_path):
    evaluation = evaluate({"tiny": encoder}, None, unlabeled, recipe=get_recipe("mild"), folder=tmp_path, draws=50)
    assert list(evaluation.columns) == ["view_ap"]
    row = evaluation.row("tiny", "embedding")
    assert 0 < row.figures["view_ap"].value <= 1
    assert row.health["effective_rank"] >= 1
    assert row.health["alignment"] is not None
    assert any("no labels" in note for note in evaluation.notes)
    neighbour = evaluation.pictures["rankings"]["queries"][0]["neighbours"][0]
    assert neighbour["right"] is None


def test_without_training_images_knn_asks_the_other_test_images(stores):
    evaluation = evaluate({"oracle": oracle}, None, stores[1], draws=20)
    assert evaluation.row("oracle").figures["knn@4"].value == 1
    assert "probe" not in evaluation.columns
    assert any("No labeled training images" in note for note in evaluation.notes)


def test_multi_label_images_get_their_own_protocols(tmp_path, build_store, striped_photos):
    photos, labels = striped_photos(60, 4, seed=5)
    targets = (labels[:, None] == np.arange(5)) | (np.arange(60) % 3 == 0)[:, None] * (np.arange(5) == 4)
    train = build_store(tmp_path, photos[:40], targets[:40], "many train")
    test = build_store(tmp_path, photos[40:], targets[40:], "many test")
    evaluation = evaluate({"oracle": oracle}, train, test, draws=20, folder=tmp_path / "out", protocols=["svm"])
    figures = evaluation.row("oracle").figures
    assert figures["ndcg"].value > 0.95
    assert figures["probe"].value == figures["svm"].value == 1
    assert figures["probe"].count == 5
    assert "confusion" not in evaluation.pictures


def test_singletons_unlabeled_and_duplicate_images_are_reported(tmp_path, build_store, striped_photos):
    photos, labels = striped_photos(30, 3, seed=6)
    targets = labels[:, None] == np.arange(4)
    targets[0] = False  # no label
    targets[1] = np.arange(4) == 3  # the only one of its class
    train = build_store(tmp_path, striped_photos(20, 3, seed=7)[0][:17] + photos[2:5], np.arange(20) % 3, "dup train")
    test = build_store(tmp_path, photos, targets, "dup test")
    evaluation = evaluate({"oracle": oracle}, None, test, draws=20)
    text = " ".join(evaluation.notes)
    assert "1 test image is the only one of its class: it was no query" in text
    assert "1 test image without label was left out" in text
    both = evaluate({}, train, test, draws=20)
    assert both.about["duplicates"] == 3
    copied = "3 of 30 test images have a copy among the training images (same pixels at low resolution)"
    assert f"{copied}: kNN and probe figures are too good." in both.notes
    bare = build_store(tmp_path, photos[2:5] + photos[:1], None, "bare train")
    assert f"{copied.replace('3', '4', 1)}." in evaluate({}, bare, test, draws=20).notes


def test_unlabeled_test_images_of_labeled_training_images_keep_their_rankings(tmp_path, build_store, striped_photos):
    photos, labels = striped_photos(30, 3, seed=6)
    train = build_store(tmp_path, photos[:15], labels[:15], "known train")
    test = build_store(tmp_path, photos[15:], np.zeros((15, 3), bool), "unknown test")
    evaluation = evaluate({"oracle": oracle}, train, test, draws=20, folder=tmp_path / "out")
    assert "map" in evaluation.pictures
    assert "confusion" not in evaluation.pictures  # of no classes


def test_training_images_as_test_images_are_refused(stores):
    with pytest.raises(S2R2Error, match="same images"):
        evaluate({"oracle": oracle}, stores[0], stores[0])


def test_nothing_to_judge_by_is_refused(unlabeled):
    with pytest.raises(S2R2Error, match="has no labels"):
        evaluate({"flat": lambda store: np.ones((len(store), 3))}, None, unlabeled)


def test_an_encoder_function_of_the_wrong_shape_is_refused(stores):
    with pytest.raises(S2R2Error, match=r"must be \(N, D\)"):
        evaluate({"wrong": lambda store: np.ones((3, 3))}, *stores, raw_pixels=False)


def test_unknown_protocols_are_refused_with_a_list(stores):
    with pytest.raises(S2R2Error, match="low-shot, folds, svm, fine-tuning"):
        evaluate({"oracle": oracle}, *stores, protocols=["few-shot"])


def test_low_shot_columns_are_those_that_the_smallest_class_allows(stores):
    evaluation = evaluate({"oracle": oracle}, *stores, raw_pixels=False, protocols=["low-shot"], draws=20)
    names = [name for name in evaluation.columns if name.startswith("low-shot")]
    assert names == ["low-shot@1", "low-shot@10"]
    assert evaluation.row("oracle").figures["low-shot@1"].value == 1


def test_predefined_folds_of_the_published_stl10_are_judged_each_for_itself(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    generator = np.random.default_rng(8)
    for part, count in (("train", 60), ("test", 20)):
        classes = np.arange(count) % 10
        pixels = generator.integers(0, 40, (count, 3, 96, 96), dtype=np.uint8)
        pixels[:, 0] += (classes * 20).astype(np.uint8)[:, None, None]
        pixels.tofile(folder / f"{part}_X.bin")
        (classes + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    folds = [range(20), range(20, 60), range(10, 50)]
    (folder / "fold_indices.txt").write_text("".join(" ".join(map(str, fold)) + "\n" for fold in folds))
    train, test = (
        PixelStore.build(open_source(f"{folder}:{part}"), 16, tmp_path / "stores", progress=False)
        for part in ("train", "test")
    )
    evaluation = evaluate({"oracle": oracle}, train, test, raw_pixels=False, protocols=["folds"], draws=20)
    row = evaluation.row("oracle")
    assert row.details["folds"] == [1, 1, 1]
    assert row.figures["folds"].value == 1
    with pytest.raises(S2R2Error, match="predefined folds"):
        evaluate({"oracle": oracle}, test, train, protocols=["folds"])


def test_an_image_that_equals_the_mean_image_still_has_a_direction(tmp_path, build_store):
    grey = [np.full((8, 8, 3), 120, np.uint8) for _ in range(4)]
    _, rows = raw_pixel_features(None, build_store(tmp_path, grey, None, "grey"), 8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


# S2R2's own task.


def test_held_out_views_are_always_the_same_and_not_those_of_training(unlabeled):
    recipe = get_recipe("mild")
    first, second = (held_out_views(unlabeled, recipe, view_size=16, images=5, views=3) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.groups.tolist() == sorted(first.groups.tolist())
    assert len(first.pixels) == 15
    chosen = np.unique(first.groups)
    seen = draw_parameters(
        recipe, unlabeled.sizes[chosen], unlabeled.image_ids[chosen], 3, seed=0, epoch=0, view_size=16
    )

    training = render_views([unlabeled[int(i)] for i in chosen], seen, 16, mean=recipe.mean, std=recipe.std)
    assert (np.abs(training - first.pixels).reshape(15, -1).max(1) > 0.05).all()


def test_view_ranking_finds_what_an_encoder_knows(unlabeled, encoder):
    recipe = get_recipe("mild")
    value = view_average_precision(encoder, unlabeled, recipe, images=12, views=4)
    assert 0 < value <= 1
    held_out = held_out_views(unlabeled, recipe, view_size=16, images=12, views=4)

    class Oracle:
        def embed_pixels(self, pixels, *, output):
            return np.eye(48, dtype=np.float32)[held_out.groups[:48]] + 1e-3

    assert rank_views(Oracle(), held_out, batch_size=48).mean_average_precision == 1
    assert rank_views(encoder, held_out).mean_average_precision == pytest.approx(value, abs=1e-6)


# Fine-tuning.


def test_a_share_of_the_labels_has_every_class(stores):
    task = build_task(*stores, ks=(1,))
    assert [len(labeled_share(task, share)) for share in (0.01, 0.2, 1.0)] == [4, 12, 60]
    assert set(task.train[labeled_share(task, 0.01)]) == {0, 1, 2, 3}
    with pytest.raises(S2R2Error, match="above 0"):
        labeled_share(task, 0)


@pytest.mark.slow
def test_fine_tuning_learns_and_leaves_the_encoder_alone(stores, encoder):
    task = build_task(*stores, ks=(1,), draws=50)
    before = encoder.fingerprint
    found = fine_tune(encoder, *stores, task, share=1.0, plan=FineTuningPlan(batch_size=20))
    assert found.value > 0.6
    assert encoder.fingerprint == before
    assert encoder.head is not None
