"""Numbers that no command can work with: one line, whatever the option."""

from pathlib import Path

import pytest

from s2r2.cli import main

E = "untrained:test_resnet"
NUMBERS = [
    *(["embed", E, "PHOTOS", "--out", "OUT/a.parquet", "--batch-size", number] for number in ("0", "-1")),
    ["index", E, "PHOTOS", "--index", "OUT/index", "--approximate-from", "-1"],
    *(["search", "INDEX", "PHOTOS/red/0.jpg", "-k", number] for number in ("0", "-5")),
    *(["search", "INDEX", "PHOTOS/red/0.jpg", "--box", box] for box in ("0,0,nan,1", "0,0,0,0", "1,2,3", "0,0,1e9,1")),
    *(["duplicates", "INDEX", "--threshold", number] for number in ("nan", "inf", "2", "-0.1")),
    *(["serve", "INDEX", "--port", number] for number in ("-1", "70000")),
    *(["views", "PHOTOS", "--picture", "OUT/a.png", what, "-1"] for what in ("--views", "--images", "--image-size")),
]  # fmt: skip


@pytest.mark.parametrize("command", NUMBERS, ids=" ".join)
def test_a_number_that_cannot_be_is_refused_in_a_line(
    command: list[str], served: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"PHOTOS": served[1] / "photos", "INDEX": served[1] / "index", "OUT": tmp_path}
    for name, place in places.items():
        command = [part.replace(name, str(place)) for part in command]
    with pytest.raises(SystemExit) as ended:
        main(command)
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2
    assert command[-1].lstrip("-").split(".")[0] in said
    assert "\n" not in said
    assert list(tmp_path.iterdir()) == []
