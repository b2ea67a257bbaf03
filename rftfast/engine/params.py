"""What a caller asks of the sampler, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field

from rftfast.errors import UserError


@dataclass(frozen=True)
class SamplingParams:
    """How paths are drawn. Filters apply in the order temperature, top-k, top-p, min-p, as in transformers."""

    k: int = 1
    """Samples a prompt."""
    temperature: float = 0.7
    """0 is greedy; the paper samples at 0.7."""
    top_p: float = 1.0
    """Smallest set of likeliest tokens whose probability sum reaches this; 1 is off."""
    top_k: int = 0
    """The k likeliest tokens only; 0 is off."""
    min_p: float = 0.0
    """Tokens at least this fraction as likely as the likeliest; 0 is off."""
    max_tokens: int = 256
    """New tokens at most, an EOS included."""
    stop: tuple[str, ...] = ()
    """A path ends where one of these strings appears; the text is cut before it."""
    seed: int = 0
    """Run seed: with a request's name and the sample index it fixes all noise."""
    ignore_eos: bool = False
    """Draw to max_tokens whatever comes (for measurements)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        checks = (
            (self.k >= 1, f"k is {self.k}: ask for at least 1 sample"),
            (0 <= self.temperature < 1e4, f"temperature is {self.temperature}: use 0 (greedy) or a positive number"),
            (0 < self.top_p <= 1, f"top-p is {self.top_p}: use a number above 0 and up to 1 (off)"),
            (self.top_k >= 0, f"top-k is {self.top_k}: use 0 (off) or a positive number"),
            (0 <= self.min_p <= 1, f"min-p is {self.min_p}: use a number from 0 (off) to 1"),
            (self.max_tokens >= 1, f"max-tokens is {self.max_tokens}: use at least 1"),
            (all(self.stop), "a stop string is empty: leave it out"),
        )
        for good, message in checks:
            if not good:
                raise UserError(message)


@dataclass(frozen=True)
class Request:
    """``len(samples)`` paths to draw after ``tokens``.

    ``name`` is the question's id: it and ``params.seed`` fix the noise. ``tokens`` may be any prefix, a fork in the
    middle of an earlier path included; prefixes that are equal are computed and stored once, whoever asks.
    """

    name: str
    tokens: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    samples: tuple[int, ...] | None = None
    """Sample indices to draw; all of range(k) by default."""

    def indices(self) -> tuple[int, ...]:
        return tuple(range(self.params.k)) if self.samples is None else self.samples


@dataclass(frozen=True)
class Generation:
    """One finished path. ``logprobs`` are natural logs under the model itself (temperature 1, nothing cut off), one for
    each of ``token_ids``; an EOS and the tokens of a stop string are among them, and ``text`` is without both."""

    name: str
    sample_index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    """eos, stop, length, or the word of the monitor that ended it."""

    @property
    def logprob(self) -> float:
        """Sum of the log-probabilities."""
        return float(sum(self.logprobs))
