"""From what a reader thought before to what follows: arithmetic that a page does for its reader.

Posterior odds are the prior odds times the likelihood ratio. The prior is the reader's own, so a
page prints a row of them and states no posterior as its own.
"""

from dataclasses import dataclass

PRIORS = (0.01, 0.1, 0.5, 0.9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """Odds on proposition 1 after the evidence, for one who held a probability before it."""

    prior: float
    odds: float

    @property
    def probability(self) -> float:
        """The same odds as a probability."""
        return self.odds / (1 + self.odds)


def updates(log10_lr: float) -> list[Update]:
    """Return what follows from a likelihood ratio for each of `PRIORS`."""
    return [Update(prior=prior, odds=prior / (1 - prior) * 10**log10_lr) for prior in PRIORS]
