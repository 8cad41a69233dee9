"""How a command ends whose threads are still at work."""

import pytest

import preloaded

BUSY = """
import threading, time
import torch
import s2r2.__main__, s2r2.cli


def work():
    number = torch.ones(1, requires_grad=True)
    product = number * 2
    product.register_hook(wait)
    product.backward()  # in C++, which calls the hook


def wait(_):
    working.set()
    while True:
        time.sleep(0.0005)


def busy():
    threading.Thread(target=work, daemon=True).start()
    working.wait()
    print("ended")


working = threading.Event()
"""


def test_a_thread_in_the_middle_of_cpp_code_does_not_abort_the_process() -> None:
    """As when the server is ended while it loads an encoder."""
    done = preloaded.run("-c", BUSY + "s2r2.cli.main = busy\ns2r2.__main__.main()")
    assert (done.returncode, done.stdout) == (0, "ended\n")


@pytest.mark.slow
@pytest.mark.parametrize(("main", "code"), [("raise SystemExit(2)", 2), ("raise ValueError", 1)])
def test_other_ends_are_as_ever(main: str, code: int) -> None:
    program = f"import s2r2.__main__, s2r2.cli\ndef main():\n    {main}\ns2r2.cli.main = main\ns2r2.__main__.main()"
    assert preloaded.run("-c", program).returncode == code
