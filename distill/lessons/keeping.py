"""Where one teacher's signals of a run are kept, under which keys; asked once, then read."""

import numpy as np

from distill.batches import Array, WindowRows
from distill.config import TeacherConfig
from distill.lessons.lesson import Said
from distill.session import Session
from distill.signals import Head
from distill.store import capture
from distill.store.capture import Ask
from distill.store.shard import Key, Mode
from distill.store.store import Store
from distill.teachers.local import LocalTeacher
from distill.teachers.stored import Signals
from distill.text.corpus import Windows


class Keeping:
    """One teacher's place in the signals of a run."""

    def __init__(self, session: Session, config: TeacherConfig) -> None:
        """Take the place of the teacher that `config` names."""
        self.session = session
        self.config = config
        self.place = session.place(config.name)

    def key(
        self,
        mode: Mode,
        teacher_sha256: str,
        dtype: str,
        rows: int,
        *,
        head: int | None = None,
        tail: int | None = None,
        logp: bool = False,
    ) -> Key:
        """Return what a store is of.

        Args:
            mode: what is kept at each position.
            teacher_sha256: of its weights, or of what stands for them.
            dtype: of its products.
            rows: tokens that its ids count.
            head: likeliest tokens kept, in modes that keep them.
            tail: sampled ones.
            logp: whether the log-probability of the text is kept with it, in mode `text`.
        """
        settings: dict[str, object] = {
            "dtype": dtype,
            "shard_tokens": self.session.config.signal.shard_tokens,
        }
        settings |= {} if head is None else {"head": head}
        settings |= {} if tail is None else {"tail": tail}
        settings |= {"logp": True} if logp else {}
        return Key(mode=mode, teacher_sha256=teacher_sha256, vocab_size=rows, settings=settings)

    def fill(self, reader: capture.Teacher, windows: Windows, store: Store, stage: str) -> None:
        """Have a teacher on disk read the windows that are not in the store yet."""
        self.keep(capture.asking(reader, store.key), windows, store, stage)

    def keep(self, ask: Ask, windows: Windows, store: Store, stage: str = "capture") -> None:
        """Keep what `ask` says of the windows that are not in the store yet."""
        had, session = store.tokens, self.session
        capture.keep(ask, windows, store, session.progress, stage=stage, worker=session.worker)
        if store.tokens and stage == "capture":
            known = f", {had:,} of them there already" if had else ""
            size = store.size_bytes() / store.tokens
            session.say(
                f"signal of {self.config.name}: {store.tokens:,} tokens at {size:.0f} bytes{known}"
            )


def of_windows(store: Store, head: Head | None, window_W: Array, windows: Windows) -> Said:
    """Return a store's signals, whose windows are these of the text, in this order.

    Args:
        store: a row a position.
        head: the teacher's, for mode `hidden`.
        window_W: which windows, increasing.
        windows: all of that side of the text.
    """
    count, length = windows.weights.shape
    first_W = np.full(count, -1)
    first_W[window_W] = np.arange(len(window_W)) * length
    return Said(voices=((Signals(store, head), WindowRows(first_W)),), stores=(store,))


def dtype_of(teacher: LocalTeacher) -> str:
    """Return the name of the dtype of a teacher's products."""
    return str(teacher.head.weight_VT.dtype).removeprefix("torch.")
