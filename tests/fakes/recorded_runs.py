"""A finished run that has every kind of file: signals, logs, answers, rollouts, labels."""

from dataclasses import replace
from pathlib import Path

from audit.question import EndpointConfig
from distill.aigc import AigcConfig
from distill.config import TrainConfig
from distill.rollout.config import RolloutConfig
from tests.fakes.endpoints import TINY, Server, TinyModel, speaking_teacher
from tests.fakes.sessions import answers, carried_out, prompts_file, served_teacher, small_config


def everything(place: Path) -> Path:
    """Carry out a run of two steps in `place`: teachers on disk and served, and a served writer."""
    place.mkdir(parents=True, exist_ok=True)
    speaking_teacher(place / "teacher", steps=60)
    how = answers(prompts_file(place / "prompts.jsonl"))
    with Server(TinyModel(place / "teacher")) as server:
        near = replace(small_config(place).teachers[0], answers=how)
        far = served_teacher(server, api="chat", answers=replace(how, max_new_tokens=5))
        scored = served_teacher(server, api="chat", says="top_logprobs", top=5, answers=how)
        asked = EndpointConfig(url=server.url, model=TINY, api="completions")
        text = replace(
            small_config(place).text, sequence_length=64, tokenizer=str(place / "teacher")
        )
        writes = RolloutConfig(
            fraction=0.5, max_new_tokens=4, prompt_tokens=4, endpoint=asked, owned=True
        )
        config = small_config(
            place,
            teachers=(near, far, replace(scored, name="scored")),
            text=text,
            rollout=writes,
            train=TrainConfig(steps=2, batch_size=4),
            aigc=AigcConfig(label="1"),
        )
        return carried_out(config, place / "run").out
