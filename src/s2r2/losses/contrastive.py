"""NT-Xent, the objective of SimCLR, for two views of an image or any number of them.

With similarities ``s_qj = z_q . z_j / T``, P_q the other views of q's image and N_q the views of other images:

    outside                 mean over p in P_q of  -log e^s_qp / sum over j != q of e^s_qj
    inside                  -log  sum over p of e^s_qp / sum over j != q of e^s_qj
    geometric               mean over p in P_q of  -log l_qp,    l_qp = e^s_qp / (e^s_qp + sum over n in N_q of e^s_qn)
    arithmetic              -log  mean over p in P_q of  l_qp
    sufficient-statistics   as l, of the view q against the mean of its positives m_q, the negatives scored by m_q

``outside`` and ``inside`` are the two forms of Khosla et al. (SupCon, arXiv 2004.11362, eq. 2 and 3), the last three
those of Shidani et al. (*Poly-View Contrastive Learning*, arXiv 2403.05490). With two views all of them are NT-Xent
(Chen et al., SimCLR, arXiv 2002.05709, eq. 1), averaged over views.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2r2.errors import ArgumentError
from s2r2.losses.batch import Batch, assemble, check_arguments
from s2r2.losses.distributed import Distributed
from s2r2.losses.memory_bank import MemoryBank
from s2r2.losses.ranking import full_precision
from s2r2.losses.refusals import check_above_zero, check_rule, eager, refuse_transforms, zero_without_pairs

FORMS = ("outside", "inside", "geometric", "arithmetic", "sufficient-statistics")
_QUERIES_AT_ONCE = 4096


class NTXentLoss(nn.Module):
    """Contrastive loss over views: ``NTXentLoss(0.1)(embeddings, groups)``, the same call as the ranking losses.

    Args:
        temperature: T, above 0; an attribute that may change at any step. SimCLR: 0.1 on ImageNet, 0.5 on CIFAR-10.
        form: How several positives are combined, one of ``FORMS``; with two views there is no difference.
        distributed: As in :class:`~s2r2.losses.RankingLoss`: exact over processes.
        bank: Embeddings of recent steps as more negatives.
        no_pairs: As in :class:`~s2r2.losses.RankingLoss`.
        check_finite: As in :class:`~s2r2.losses.RankingLoss`: False skips the look for NaN on an accelerator.

    Raises:
        S2R2Error: Unknown form, or a temperature that is not above 0.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        form: str = "outside",
        distributed: Distributed = "auto",
        bank: MemoryBank | None = None,
        check_finite: bool = True,
        no_pairs: str = "error",
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.form = form
        self.distributed = distributed
        self.bank = bank
        self.check_finite = check_finite
        self.no_pairs = no_pairs
        self._check_settings()

    def _check_settings(self) -> None:
        if self.form not in FORMS:
            raise ArgumentError(f"form is {self.form!r}; choose one of {', '.join(FORMS)}")
        check_above_zero(temperature=self.temperature)
        check_rule(self.no_pairs)

    @eager
    def forward(self, embeddings: Tensor, groups: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            embeddings: ``(N, D)`` of unit length.
            groups: Which image each comes from, ``(N,)`` integers.

        Returns:
            Scalar, the mean over embeddings that have a positive; over processes as
            :mod:`s2r2.losses.distributed` says.

        Raises:
            S2R2Error: Wrong shapes or types, NaN or infinity, or no embedding with a positive.
        """
        self._check_settings()
        check_arguments(embeddings, groups)
        refuse_transforms(embeddings)
        with full_precision(embeddings.device):
            batch = assemble(embeddings, groups, distributed=self.distributed, bank=self.bank)
            if self.check_finite or embeddings.device.type == "cpu":
                batch.check_finite()
            if batch.total == 0:
                reason = f"no group occurs twice among {len(groups)} embeddings; give each image two views"
                loss, scale = zero_without_pairs(self.no_pairs, reason, batch.queries, batch.candidates).sum(), 1.0
            else:
                loss, scale = self._everybody(batch), batch.world_size / batch.total
        if self.bank is not None and torch.is_grad_enabled():
            self.bank.add(batch.fresh, batch.fresh_groups)
        return loss * scale

    def _everybody(self, batch: Batch) -> Tensor:
        """Sum of the losses of all valid queries of this process."""
        count = len(batch.relevance)
        parts = [self._sum(batch, i, min(i + _QUERIES_AT_ONCE, count)) for i in range(0, count, _QUERIES_AT_ONCE)]
        # A process without queries still takes part in the exchange of gradients.
        return torch.stack(parts).sum() if parts else 0.0 * batch.candidates.sum()

    def _sum(self, batch: Batch, first: int, last: int) -> Tensor:
        """Sum of the losses of the valid queries ``first:last``."""
        relevance, candidates = batch.relevance, batch.candidates
        own, same = relevance.own[first:last], relevance.query_ids[first:last, None] == relevance.candidate_ids
        positive = same.scatter(1, own[:, None], False)
        count = positive.sum(1).to(candidates)
        if self.form == "sufficient-statistics":
            means = positive.to(candidates) @ candidates / count[:, None]
            scores = means @ candidates.T / self.temperature
            hit = scores.gather(1, own[:, None])[:, 0]
            against = scores.masked_fill(same, -torch.inf).logsumexp(1)
            return (torch.logaddexp(hit, against) - hit).sum()
        scores = batch.queries[relevance.rows[first:last]] @ candidates.T / self.temperature
        if self.form in ("outside", "inside"):
            everything = scores.masked_fill(same & ~positive, -torch.inf).logsumexp(1)
            if self.form == "inside":
                return (everything - scores.masked_fill(~positive, -torch.inf).logsumexp(1)).sum()
            return (everything - (scores * positive).sum(1) / count).sum()
        against = scores.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
        likelihood = scores - torch.logaddexp(scores, against)  # log l_qp
        if self.form == "geometric":
            return -((likelihood * positive).sum(1) / count).sum()
        return (count.log() - likelihood.masked_fill(~positive, -torch.inf).logsumexp(1)).sum()
