"""What is watched while a model trains on preference pairs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from rftfast.train.metrics import StepMetrics
from rftfast.train.preference_loss import Sums


@dataclass(frozen=True)
class PreferenceMetrics(StepMetrics):
    """One step; ``loss`` is a mean over pairs. A reward is β · (log π − log π_ref) of a completion."""

    pairs: int
    preference_loss: float
    """Without the supervised term."""
    sft_loss: float
    """Cross-entropy of the chosen completions, a mean over their tokens, whether it is trained or not."""
    chosen_reward: float
    rejected_reward: float
    margin: float
    """The chosen's reward less the rejected's."""
    accuracy: float
    """Share of pairs with a margin above 0; a margin of 0 counts as half a pair."""
    kl: float
    """Mean over completions of log π_ref − log π, in nats: an estimate of KL(π_ref ‖ π) as far as they are samples of the
    reference."""
    validation_accuracy: float | None = None
    """``accuracy`` and ``margin`` of the pairs that are not trained on; None where they were not measured."""
    validation_margin: float | None = None

    @classmethod
    def of(cls, metrics: StepMetrics, sums: Sums, pairs: int, chosen_tokens: int) -> PreferenceMetrics:
        chosen, rejected = sums.chosen_reward / pairs, sums.rejected_reward / pairs
        return cls(
            **asdict(metrics),
            pairs=pairs,
            preference_loss=sums.loss / pairs,
            sft_loss=sums.sft / chosen_tokens,
            chosen_reward=chosen,
            rejected_reward=rejected,
            margin=chosen - rejected,
            accuracy=sums.correct / pairs,
            kl=sums.moved / (2 * pairs),
        )

    def validated(self, loss: float, sums: Sums, pairs: int) -> PreferenceMetrics:
        """With what was measured after the step on ``pairs`` pairs that are not trained on."""
        return replace(
            self,
            validation_loss=loss,
            validation_accuracy=sums.correct / pairs,
            validation_margin=(sums.chosen_reward - sums.rejected_reward) / pairs,
        )

    def shown(self) -> str:
        measured = "" if self.validation_loss is None else f", validation {self.validation_shown()}"
        return f"loss {self.loss:.3f}, margin {self.margin:.2f}, {100 * self.accuracy:.0f} % right, KL {self.kl:.2f}{measured}"

    def validation_shown(self) -> str:
        assert self.validation_accuracy is not None
        return (
            f"loss {self.validation_loss:.4f}, margin {self.validation_margin:.2f},"
            f" {100 * self.validation_accuracy:.0f} % right"
        )
