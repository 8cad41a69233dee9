"""SwAV: views of an image must agree about which prototypes they belong to (Caron et al., arXiv 2006.09882).

Each full-size view is given a *code*: its soft assignment to K prototypes, made equal in size over the batch by
Sinkhorn's iterations. Every other view of the image, small ones too, must predict it:

    loss = mean over the two full-size views c of  mean over views v != c of  - sum over k of q_ck log p_vk
    p_v  = softmax over k of  z_v . c_k / T                                                    (eq. 2)
    q    = Sinkhorn of  exp(z . c_k / epsilon)                                                 (eq. 3 to 5)
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

from s2r2.errors import ArgumentError, NonFiniteError
from s2r2.losses.batch import check_arguments, largest_number
from s2r2.losses.distributed import Distributed, gather, gather_sizes, process_group
from s2r2.losses.memory_bank import MemoryBank
from s2r2.losses.ranking import full_precision
from s2r2.losses.refusals import check_above_zero, check_whole, refuse_transforms

CODED_VIEWS = 2


@torch.no_grad()
def sinkhorn(
    scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Codes of equally used prototypes: each row sums to 1, columns to about the same.

    In float32 at least, with the largest score of all processes subtracted first: neither overflows.

    Args:
        scores: Embeddings times prototypes, ``(N, K)``, in [-1, 1].
        epsilon: Smoothness of the codes, above 0.
        iterations: Of normalizing prototypes, then images.
        group: Processes whose rows belong to one batch.

    Returns:
        ``(N, K)``, float64 for float64 scores and otherwise float32.

    Raises:
        S2R2Error: A setting is not above 0.
    """
    check_above_zero(epsilon=epsilon)
    check_whole(1, iterations=iterations)

    def over_processes(value: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        if group is not None:
            dist.all_reduce(value, operation, group=group)
        return value

    logits = (scores if scores.dtype == torch.float64 else scores.float()) / epsilon
    largest = logits.max() if len(logits) else logits.new_tensor(-torch.inf)
    codes = torch.exp(logits - over_processes(largest.clone(), dist.ReduceOp.MAX))
    tiny = torch.finfo(codes.dtype).tiny
    codes = codes / over_processes(codes.sum())
    for _ in range(iterations):
        codes = codes / over_processes(codes.sum(0)).clamp_min(tiny) / codes.shape[1]
        codes = codes / codes.sum(1, keepdim=True).clamp_min(tiny)
    return codes


class SwAVLoss(nn.Module):
    """The loss with its prototypes and its queue: ``SwAVLoss(128, prototypes=100)(embeddings, groups)``.

    The prototypes have no bias and are brought to unit length before every use. They must be given to the optimizer.

    Args:
        width: D, numbers in an embedding.
        prototypes: K. About ten times the classes one expects, and below the number of images that make the codes
            (batch and queue): else Sinkhorn spreads single images over many prototypes and the loss stays at ln K.
        temperature: T, above 0; an attribute.
        epsilon: Smoothness of the codes, above 0; lower is sharper. 0.03 or below where the loss stays at ln K.
        iterations: Of Sinkhorn.
        queue: Embeddings of each full-size view remembered to make codes in small batches; 0 for none. Used once
            full, scored anew by the prototypes of the day.
        distributed: As in :class:`~s2r2.losses.RankingLoss`.
        check_finite: Likewise.

    Attributes:
        queue_active: Whether the queue is filled and used: false until the embeddings are worth remembering.
    """

    def __init__(
        self,
        width: int,
        prototypes: int = 3000,
        *,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue: int = 0,
        distributed: Distributed = "auto",
        check_finite: bool = True,
    ) -> None:
        super().__init__()
        check_whole(2, width=width, prototypes=prototypes)
        check_whole(1, iterations=iterations)
        check_whole(0, queue=queue)
        check_above_zero(temperature=temperature, epsilon=epsilon)
        self.temperature = temperature
        self.epsilon = epsilon
        self.iterations = iterations
        self.check_finite = check_finite
        self.distributed = distributed
        self.queue_active = False
        self.prototypes = nn.Parameter(normalize(torch.randn(prototypes, width), dim=1))
        self.queues = nn.ModuleList(MemoryBank(queue, width) for _ in range(CODED_VIEWS if queue else 0))

    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            embeddings: ``(N, D)`` of unit length; the first two of each group are its full-size views.
            groups: Which image each comes from, ``(N,)`` integers; every image has the same number of views.

        Returns:
            Scalar: the mean over this process's images. Codes are those of all processes together; averaging
            gradients over processes, as DDP does, gives those of one process if all hold equally many images.

        Raises:
            S2R2Error: Wrong shapes or types, images with different numbers of views, NaN or infinity.
        """
        check_above_zero(temperature=self.temperature, epsilon=self.epsilon)
        check_whole(1, iterations=self.iterations)
        check_arguments(embeddings, groups)
        refuse_transforms(embeddings)
        if embeddings.shape[1] != self.prototypes.shape[1]:
            raise ArgumentError(f"embeddings are {embeddings.shape[1]} wide, the prototypes {self.prototypes.shape[1]}")
        views = _views(embeddings, groups)  # (B, V, D)
        looked_at = self.check_finite or embeddings.device.type == "cpu"
        if looked_at and not _all_finite(views, process_group(self.distributed)):
            raise NonFiniteError(
                "embeddings are not finite, or too large to multiply; look for a diverging learning rate or a broken "
                "image, and normalize embeddings first"
            )
        with full_precision(embeddings.device):
            dtype = embeddings.dtype if embeddings.dtype == torch.float64 else torch.float32
            views = views.to(dtype)
            prototypes = normalize(self.prototypes.to(dtype), dim=1)
            scores = views @ prototypes.T  # (B, V, K)
            predictions = log_softmax(scores / self.temperature, dim=2)
            total = predictions.sum(1)
            losses = []
            for coded in range(CODED_VIEWS):
                codes = self._codes(coded, views[:, coded].detach(), prototypes.detach())
                others = total - predictions[:, coded]
                losses.append(-(codes * others).sum(1).mean() / (views.shape[1] - 1))
        return torch.stack(losses).mean()

    def _codes(self, coded: int, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        """Codes ``(B, K)`` of one of the full-size views, with those remembered."""
        group = process_group(self.distributed)
        rows = embeddings
        if self.queue_active and len(self.queues):
            queue = self.queues[coded]
            assert isinstance(queue, MemoryBank)
            if len(queue) == len(queue.embeddings):
                remembered = queue.contents(like=embeddings)[0]
                if group is not None:  # every process remembers the same: each adds its share
                    remembered = remembered.tensor_split(dist.get_world_size(group))[dist.get_rank(group)]
                rows = torch.cat([embeddings, remembered])
            if self.training and torch.is_grad_enabled():
                everybody = embeddings if group is None else gather(embeddings, gather_sizes(embeddings, group), group)
                queue.add(everybody, torch.zeros(len(everybody), dtype=torch.int64, device="cpu"))
        codes = sinkhorn(rows @ prototypes.T, epsilon=self.epsilon, iterations=self.iterations, group=group)
        return codes[: len(embeddings)]


def _all_finite(values: Tensor, group: dist.ProcessGroup | None) -> bool:
    """Whether all numbers of all processes are finite and can be multiplied: all of them raise, or none does."""
    finite = (values.detach().abs() <= largest_number(torch.promote_types(values.dtype, torch.float32))).all().float()
    if group is not None:
        dist.all_reduce(finite, dist.ReduceOp.MIN, group=group)
    return bool(finite)


def _views(embeddings: Tensor, groups: Tensor) -> Tensor:
    """``(B, V, D)``: the views of each image in their order."""
    _, counts = torch.unique(groups, return_counts=True)
    if not len(counts) or int(counts.min()) != int(counts.max()) or int(counts.max()) < CODED_VIEWS:
        raise ArgumentError("SwAV needs the same number of views, two or more, of every image")
    order = torch.argsort(groups, stable=True).to(embeddings.device, non_blocking=True)
    return embeddings[order].unflatten(0, (len(counts), -1))
