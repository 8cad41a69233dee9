"""Garbage collection waits while packages are imported, and goes on afterwards, whatever happens."""

import gc

import pytest

from s2r2.system.quick_imports import collection_paused


def test_collection_pauses_and_goes_on_even_after_an_error() -> None:
    def fail() -> None:
        with collection_paused():
            assert not gc.isenabled()
            with collection_paused():
                pass
            assert not gc.isenabled()  # the inner one ends nothing that it did not begin
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert gc.isenabled()


def test_a_caller_who_has_switched_collection_off_keeps_it_off() -> None:
    gc.disable()
    try:
        with collection_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
