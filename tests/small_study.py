"""A study of seconds for tests: digits, a small network, no methods yet."""

from typing import Any

SMALL_STUDY: dict[str, Any] = {
    "name": "digits",
    "seeds": [0, 1],
    "budgets": [640],
    "config": {
        "backbone": "test_resnet", "image_size": 32, "batch_size": 32, "recipe": "documents", "head_hidden": 32,
        "embedding_dimensions": 16, "check_every": 1,
    },
    "data": {
        "digits": {"train": "digits:test", "tasks": {"classes": {"train": "digits:train", "test": "digits:test"}}},
    },
}  # fmt: skip
