"""One target of fuzzing.py under atheris, started by ``fuzzing.py --atheris``."""

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["s2r2.images"]):
    import fuzzing
    import s2r2.images.decoding.decoder
    import s2r2.images.sources.opening  # noqa: F401 (to be instrumented)
    from s2r2.images import source_kinds

    source_kinds()  # imports their modules


def main(name: str, seconds: str, seed: str, artifacts: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.chdir(folder)
        target = fuzzing.TARGETS[name](folder)
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, content in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(content)

        def test(content: bytes) -> None:
            outcome = fuzzing.attempt(target, content)
            if outcome not in ("", "refused"):
                raise SystemError(outcome)

        limits = [f"-timeout={int(fuzzing.LIMIT)}", f"-rss_limit_mb={fuzzing.MEMORY >> 20}", "-max_len=65536"]
        options = [f"-max_total_time={seconds}", f"-seed={seed}", "-print_final_stats=1", "-verbosity=1"]
        options.append(f"-artifact_prefix={artifacts}")
        atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], test)
        atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
