"""Whatever a message advises has been done by a test, in the state that made the message, and has helped."""

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest
from collecting import Place, advice, is_piece, pattern
from elsewhere import ELSEWHERE, NO_ADVICE, NOT_HERE
from performing import CASES, Case, Shared, State

TESTS = Path(__file__).parent.parent
for module in sorted(Path(__file__).parent.glob("cases_*.py")):
    importlib.import_module(module.stem)
REGISTERS = {
    "CASES": {case.piece for case in CASES},
    "ELSEWHERE": ELSEWHERE,
    "NOT_HERE": NOT_HERE,
    "NO_ADVICE": NO_ADVICE,
}


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return Shared(tmp_path_factory.mktemp("remedies"))


@pytest.fixture
def state(shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.chdir(tmp_path)
    return State(shared, tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def places() -> list[Place]:
    return advice()


def test_every_advice_is_entered_once(places: list[Place]) -> None:
    """One that is not: perform it in a ``case``, name the test that does, or say why no machine of tests can."""
    pieces = [(name, piece) for name, register in REGISTERS.items() for piece in register]
    wrong = []
    for place in places:
        found = [(name, piece) for name, piece in pieces if is_piece(piece, place.text)]
        if len(found) != 1:
            wrong.append(f"{place.where} {place.text!r}: {found or 'is not entered'}")
    assert not wrong, "\n".join([f"{len(wrong)}:", *wrong])


def test_every_entry_is_of_one_message(places: list[Place]) -> None:
    texts = {place.text for place in places}  # the same words may stand in several places
    for name, register in REGISTERS.items():
        for piece in register:
            found = [text for text in texts if is_piece(piece, text)]
            assert len(found) == 1, f"{name}: {piece!r} is in {len(found)} messages: {found}"


def test_the_tests_elsewhere_are_there() -> None:
    there = Counter(
        (path.name, name)
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    )
    for piece, test in ELSEWHERE.items():
        assert there[tuple(test.split("::"))], f"{piece!r}: there is no {test}"


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case.slow else [], id=case.piece) for case in CASES]
)
def test_the_remedy_helps(case: Case, state: State) -> None:
    said = state.said(case.wrong)
    assert pattern(case.piece).search(said), said
    case.right(state, said)
