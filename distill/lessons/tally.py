"""What became of a teacher's answers in one run, counted once for terminal, record and bill."""

from dataclasses import asdict, dataclass
from pathlib import Path

from distill import files
from distill.config import TeacherConfig
from distill.materials import material
from distill.rollout.rejection import Summary
from distill.session import Session


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What answers took.

    Attributes:
        cut: of them, those that ended at `max_new_tokens`.
        read: tokens of prompts, each as often as it was answered; 0 of a served teacher.
        written: tokens of answers; 0 of a served teacher.
    """

    cut: int
    read: int = 0
    written: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What became of a teacher's answers in one run; `asked` is the sum of the four that follow.

    Attributes:
        sha256: of the file of those that were kept, or of the log of a server that scored them.
        asked: answers.
        kept: that the student learns from.
        rejected: that no checker accepts, or that say nothing.
        spare: accepted, but the same as another, or more than a prompt may have.
        dropped: scored ones whose prompt leaves no room in a window.
        cut: of all, those cut short: at `max_new_tokens`, at a token that the student does not
            have, or at a window's end.
        read: tokens a teacher on disk read for them.
        written: tokens a teacher on disk wrote.
    """

    sha256: str
    asked: int
    kept: int
    rejected: int
    spare: int = 0
    dropped: int = 0
    cut: int = 0
    read: int = 0
    written: int = 0

    def in_words(self) -> str:
        """Return the counts as a phrase; what there was none of is left out."""
        counts = {
            "kept": self.kept,
            "rejected": self.rejected,
            "spare": self.spare,
            "without room in a window": self.dropped,
            "cut short": self.cut,
        }
        said = [f"{count:,} {name}" for name, count in counts.items() if count or name == "kept"]
        return f"{self.asked:,} answers: {', '.join(said)}"


def of_samples(summary: Summary, taken: Taken, sha256: str) -> Tally:
    """Return the tally of answers that checkers have seen; `sha256` is of those kept."""
    return Tally(
        sha256=sha256,
        asked=summary.answers,
        kept=summary.kept,
        rejected=summary.answers - summary.accepted,
        spare=summary.accepted - summary.kept,
        **asdict(taken),
    )


def keep(session: Session, config: TeacherConfig, counted: Tally, more: str = "") -> None:
    """Say what became of the answers, and leave it for the record."""
    session.say(f"{config.name}: {counted.in_words()}{more}")
    files.write_json(_file(session, config), asdict(counted))


def _file(session: Session, config: TeacherConfig) -> Path:
    # The run's own: of the same answers another run, with other windows, may lose others.
    return session.out / "answers" / f"{session.place(config.name).name}.json"


def of_run(session: Session, config: TeacherConfig) -> Tally | None:
    """Return what became of a teacher's answers in this run; None for one that wrote none."""
    if config.answers is None:
        return None
    return Tally(**files.read_json(_file(session, config)))


def wrote(session: Session, config: TeacherConfig) -> tuple[int, int] | None:
    """Return the tokens a teacher on disk read and wrote for its answers, once they are there."""
    found = of_run(session, config)
    return None if found is None or config.path is None else (found.read, found.written)


def line(session: Session, config: TeacherConfig) -> dict[str, str] | None:
    """Return the record's line of a teacher's answers; None for one that wrote none."""
    found = of_run(session, config)
    if found is None:
        return None
    name = f"answers, {config.name}"
    return material(name, "answers a teacher wrote", found.sha256, found.in_words())
