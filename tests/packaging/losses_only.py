"""With the core alone: the losses compute, agree with their definition, and the command line says what is missing.

``.ci/wheel`` runs this with the wheel installed, and nothing else than it asks for.
"""

import importlib.metadata
import subprocess
import sys
import time

begin = time.perf_counter()
import torch  # noqa: E402

with_torch = time.perf_counter()
from s2r2.losses import NTXentLoss, SmoothAPLoss, smooth_ap_definition  # noqa: E402

beside_torch = time.perf_counter() - with_torch


def main() -> None:
    heavy = {"rich", "yaml", "tyro", "scipy", "PIL", "timm", "torchvision", "pyarrow"} & set(sys.modules)
    assert not heavy, heavy
    assert beside_torch < max(0.3, 0.3 * (with_torch - begin)), f"importing the losses took {beside_torch:.2f} s"
    torch.manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(64, 16), dim=1).requires_grad_()
    groups = torch.arange(8).repeat_interleave(8)
    for backend in ("torch", "numba"):
        loss = SmoothAPLoss(0.05, backend=backend)(embeddings, groups)
        loss.backward()
        expected = smooth_ap_definition(embeddings, groups, 0.05)
        assert torch.allclose(loss, expected.to(loss.dtype), atol=1e-4), (backend, float(loss), float(expected))
    assert torch.isfinite(NTXentLoss(0.1)(embeddings, groups))
    refused = subprocess.run([sys.executable, "-m", "s2r2", "train", "photos"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "pip install 's2r2[train]'" in refused.stderr, refused.stderr
    versions = (f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numpy", "numba"))
    print(f"losses    {', '.join(versions)}: imported in {beside_torch:.2f} s beside torch")


main()
