"""Servers as they are, on loopback: preflight tells the truth of them, and teachers teach there.

`transformers serve` wants accelerate, fastapi, openai and uvicorn; llama-cpp-python, built from its
sources, serves the embedded teacher's GGUF file. Tests are skipped where a server is not installed.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx2
import pytest
import torch

from audit import preflight
from audit.endpoint import Endpoint, EndpointConfig
from distill.errors import TeacherError
from distill.signals import Hidden
from distill.teachers import embedded
from distill.teachers.agreement import THRESHOLD, compare
from distill.teachers.endpoint import EndpointTeacher
from distill.teachers.local import LocalTeacher
from student import weights
from tests.fakes.endpoints import Server, TinyModel, speaking_teacher

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PROMPTS = ["The miller", "A young clerk weighs"]


def installed(*names):
    return all(importlib.util.find_spec(name) for name in names)


@contextmanager
def running(arguments, path, log, **environment):
    """Run a server until the end of the `with`; give its url once `path` answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *arguments, "--host", "127.0.0.1", "--port", str(port)],
            env=settings,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            while not answers(f"http://127.0.0.1:{port}{path}"):
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def answers(url):
    try:
        return httpx2.get(url).status_code == httpx2.codes.OK
    except httpx2.TransportError:
        return False


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return speaking_teacher(tmp_path_factory.mktemp("teachers") / "tiny")


@pytest.fixture(scope="module")
def transformers_url(tmp_path_factory):
    if not installed("accelerate", "fastapi", "openai", "uvicorn"):
        pytest.skip("transformers serve needs pip install 'transformers[serving]'")
    place = tmp_path_factory.mktemp("served")
    (place / "home" / "hub").mkdir(parents=True)
    code = "from transformers.cli.transformers import main; main()"
    arguments = ["-c", code, "serve", "--device", "cpu"]
    home = str(place / "home")
    with running(arguments, "/health", place / "log.txt", HF_HOME=home) as url:
        yield url


def test_transformers_serve_is_what_its_imitation_is(tmp_path, model, transformers_url):
    config = EndpointConfig(url=transformers_url, model=str(model), concurrency=1)
    with Endpoint(config, tmp_path / "real.jsonl") as endpoint:
        real = preflight.run(endpoint)
    with Server(TinyModel(model), "transformers") as server:
        config = EndpointConfig(url=server.url, model="tiny", concurrency=1)
        with Endpoint(config, tmp_path / "fake.jsonl") as endpoint:
            fake = preflight.run(endpoint)
    assert [(row.name, row.outcome) for row in real.checks] == [
        (row.name, row.outcome) for row in fake.checks
    ]
    real.require(["text"])
    assert real.find("top_logprobs").seen == "asked for, and left out without a word"
    assert real.find("temperature").outcome == "failed"


def test_transformers_serve_teaches_by_text_and_by_nothing_else(tmp_path, model, transformers_url):
    local = LocalTeacher("local", model, device=CPU, dtype=torch.float32)
    config = EndpointConfig(url=transformers_url, model=str(model), api="completions")
    with Endpoint(config, tmp_path / "log.jsonl") as endpoint:
        teacher = EndpointTeacher("served", endpoint, local.tokenizer)
        texts = teacher.answer(PROMPTS, max_tokens=12, temperature=0)
        for prompt, text in zip(PROMPTS, texts, strict=True):
            ids = local.tokenizer(prompt, return_tensors="pt")
            out = local.model.generate(**ids, do_sample=False, max_new_tokens=12)
            assert text == local.tokenizer.decode(out[0, ids["input_ids"].shape[1] :])
        with pytest.raises(TeacherError, match="answers without log-probabilities"):
            teacher.answer_with_top(PROMPTS, max_tokens=4, temperature=0)


def test_transformers_serve_samples_where_its_generation_config_is_told_to(
    tmp_path, model, transformers_url
):
    # Its own field; without it temperature 1 is greedy, which preflight reports.
    extra = {"generation_config": '{"do_sample": true, "max_new_tokens": 1024}'}
    config = EndpointConfig(url=transformers_url, model=str(model), extra=extra, concurrency=1)
    with Endpoint(config, tmp_path / "log.jsonl") as endpoint:
        preflight.run(endpoint).require(["text", "sampling"])


@pytest.fixture(scope="module")
def llama_url(tmp_path_factory):
    if not installed("llama_cpp", "starlette_context"):
        pytest.skip("llama-cpp-python[server] is not installed")
    arguments = ["-m", "llama_cpp.server", "--model", str(embedded.locate()), "--model_alias"]
    arguments += ["smol", "--n_ctx", "512", "--n_threads", "1", "--logits_all", "true"]
    with running(arguments, "/v1/models", tmp_path_factory.mktemp("llama") / "log.txt") as url:
        yield url


# Its default penalty makes the likeliest token another one than its log-probabilities say.
PLAIN = {"repeat_penalty": 1.0}


@pytest.mark.llama
def test_llama_cpp_python_gives_top_logprobs_and_its_echo_is_not_to_be_trusted(tmp_path, llama_url):
    config = EndpointConfig(
        url=llama_url, model="smol", api="completions", concurrency=1, extra=PLAIN
    )
    with Endpoint(config, tmp_path / "log.jsonl") as endpoint:
        found = preflight.run(endpoint, top=5)
    found.require(["text", "sampling", "top_logprobs", "raw_logprobs"])
    assert found.find("prompt_logprobs").seen == "asked for, and left out without a word"
    assert found.find("echo").outcome == "failed"  # one position late: there is no begin token


@pytest.mark.llama
def test_llama_cpp_python_says_what_the_dequantised_teacher_says(tmp_path, llama_url):
    local = embedded.ensure(lambda sentence: None)
    teacher = LocalTeacher("local", local, device=CPU, dtype=torch.float32)
    config = EndpointConfig(
        url=llama_url, model="smol", api="completions", concurrency=1, extra=PLAIN
    )
    with Endpoint(config, tmp_path / "log.jsonl") as endpoint:
        served = EndpointTeacher("served", endpoint, weights.load_tokenizer(local), top=10)
        prompts = ["The capital of France is", "Water boils when"]
        answers = served.answer_with_top(prompts, max_tokens=12, temperature=1.0, seed=1)
    for prompt, answer in zip(prompts, answers, strict=True):
        before = teacher.tokenizer(prompt)["input_ids"]
        assert teacher.tokenizer.decode(answer.tokens) == answer.text
        tokens = torch.tensor([[*before, *answer.tokens]])
        with torch.inference_mode():
            states = teacher.hidden(tokens)[0, len(before) - 1 : -1]
        kl_N, same_N = compare(answer.signal, Hidden(states, teacher.head))
        print(f"{prompt}: KL {kl_N.mean():.4f}, same best {same_N.float().mean():.2f}")
        assert kl_N.mean() < THRESHOLD
