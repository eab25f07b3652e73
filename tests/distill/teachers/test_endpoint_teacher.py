"""A served teacher says what the same model says on disk, or one sentence tells why it cannot."""

import json
import math

import httpx2
import pytest
import torch

from audit.endpoint import Endpoint, EndpointConfig
from audit.errors import EndpointError
from distill.errors import TeacherError
from distill.heads import logits
from distill.teachers.endpoint import EndpointTeacher
from distill.teachers.local import LocalTeacher
from tests.fakes.dialects import Behaviour
from tests.fakes.endpoints import Fault, Server, TinyModel, speaking_teacher
from tests.fakes.teachers import byte_pairs, sentences

CPU = torch.device("cpu")
PROMPTS = ["The miller", "A young clerk weighs"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return speaking_teacher(tmp_path_factory.mktemp("teachers") / "tiny")


@pytest.fixture(scope="module")
def model(path):
    return TinyModel(path)


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.tokenizer


@pytest.fixture(scope="module")
def local(path):
    return LocalTeacher("local", path, device=CPU, dtype=torch.float32)


@pytest.fixture
def teach(tmp_path, tokenizer):
    """Return a function that makes a teacher of a server; all are closed at the end."""
    made = []

    def make(server, *, api="completions", log="log.jsonl", own=None, top=5, **changes):
        config = EndpointConfig(url=server.url, model="tiny", api=api, retries=2, **changes)
        endpoint = Endpoint(config, tmp_path / log, wait=lambda stop, seconds: stop.is_set())
        made.append(endpoint)
        return EndpointTeacher("served", endpoint, own or tokenizer, top=top)

    yield make
    for endpoint in made:
        endpoint.close()


@pytest.fixture
def served(tmp_path, tokenizer):
    """Return a function that asks a teacher whose server gives one chat answer to everything."""

    def answer(text, entries, *, finish="length", usage=None):
        choice = {"finish_reason": finish, "message": {"content": text}}
        choice["logprobs"] = {"content": entries}
        body = {"model": "m", "choices": [choice], "usage": usage}

        def server(request):
            return httpx2.Response(200, content=json.dumps(body).encode())

        config = EndpointConfig(url="http://host/v1", model="m")
        (tmp_path / "served.jsonl").unlink(missing_ok=True)
        transport = httpx2.MockTransport(server)
        with Endpoint(config, tmp_path / "served.jsonl", transport=transport) as endpoint:
            teacher = EndpointTeacher("served", endpoint, tokenizer, top=3)
            return teacher.answer_with_top(["p"], max_tokens=9, temperature=1)[0]

    return answer


@torch.inference_mode()
def logp(local, ids) -> torch.Tensor:
    hidden = local.hidden(torch.tensor([ids]))[0]
    return logits(hidden, local.head).double().log_softmax(-1)


def sequences(tokenizer, count=3, length=12) -> torch.Tensor:
    ids = tokenizer(sentences(40, seed=8))["input_ids"]
    return torch.tensor(ids[: count * length]).reshape(count, length)


def test_it_writes_what_the_model_writes(model, teach):
    with Server(model) as server:
        texts = teach(server).answer(PROMPTS, max_tokens=12, temperature=0)
        chat = teach(server, api="chat", log="chat").answer(PROMPTS, max_tokens=12, temperature=0)
    assert [set(text.split()) & {"the", "a"} != set() for text in texts] == [True, True]
    assert all(chat)
    assert chat != texts


def test_samples_and_seeds_are_asked_apart_and_once(model, teach):
    with Server(model) as server:
        teacher = teach(server)
        drawn = [
            teacher.answer(PROMPTS, max_tokens=12, temperature=1, seed=seed, sample=sample)
            for seed, sample in ((1, 0), (2, 0), (1, 1), (1, 0))
        ]
        assert server.posts == 6
    assert drawn[0] == drawn[2] == drawn[3] != drawn[1]


@pytest.mark.parametrize("dialect", ["vllm", "sglang", "llama.cpp", "openai"])
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_its_likeliest_tokens_are_the_local_models(model, teach, local, tokenizer, dialect, api):
    with Server(model, dialect) as server:
        teacher = teach(server, api=api)
        answers = teacher.answer_with_top(PROMPTS, max_tokens=16, temperature=1.0, seed=3)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        turns = [{"role": "user", "content": prompt}]
        chat = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before = tokenizer(chat if api == "chat" else prompt)["input_ids"]
        assert answer.cut == 0
        assert len(answer.tokens) >= 8
        assert tokenizer.decode(answer.tokens) == answer.text
        expected = logp(local, [*before, *answer.tokens])[len(before) - 1 : -1].exp()
        signal = answer.signal
        assert signal.head_ids_NH.shape[0] == len(answer.tokens)
        found = expected.gather(1, signal.head_ids_NH).float()
        used = signal.head_p_NH > 0
        assert torch.allclose(signal.head_p_NH[used], found[used], atol=1e-5)
        assert (used.sum(-1) >= 5).all()
        best = expected.topk(5).indices
        assert (signal.head_ids_NH[:, :5].sort().values == best.sort().values).all()
        total = signal.head_p_NH.sum(-1) + signal.tail_mass_N
        assert torch.allclose(total, torch.ones_like(total), atol=1e-5)
        assert signal.tail_ids_NR.shape[1] == 0
        assert signal.entropy_N.isnan().all()


def test_no_head_holds_a_token_twice(model, teach):
    with Server(model, "llama.cpp") as server:
        answers = teach(server).answer_with_top(PROMPTS, max_tokens=24, temperature=1.0, seed=4)
    for answer in answers:
        for ids, p in zip(answer.signal.head_ids_NH, answer.signal.head_p_NH, strict=True):
            kept = ids[p > 0].tolist()
            assert len(kept) == len(set(kept))


def test_the_end_token_is_kept_where_the_server_scores_it(served, tokenizer):
    eos = tokenizer.eos_token_id
    entries = [entry("a", 0.9), entry(" b", 0.8), entry("</s>", 0.7)]
    answer = served("a b", entries, finish="stop")
    assert answer.tokens[-1] == eos
    assert answer.finished
    assert answer.signal.head_ids_NH[-1, 0] == eos
    assert answer.signal.head_p_NH[-1, 0] == pytest.approx(0.7)


def entry(text, p, spelt=None, top=(), **more):
    listed = {"token": text, "logprob": math.log(p), **more}
    if spelt is not None:
        listed["bytes"] = list(spelt)
    return listed | {"top_logprobs": [*top, dict(listed)]}


def test_what_the_student_has_no_token_for_counts_as_the_rest(served):
    strange = {"token": "ZZZZ", "logprob": math.log(0.3)}
    answer = served("a", [entry("a", 0.5, top=[strange])])
    assert answer.signal.head_p_NH.tolist() == [[0.5]]
    assert answer.signal.tail_mass_N.item() == pytest.approx(0.5)


def test_a_written_token_that_is_not_among_the_likeliest_is_named_too(served):
    answer = served("a", [{**A, "logprob": math.log(0.1), "top_logprobs": [B]}])
    assert answer.signal.head_p_NH.tolist()[0] == pytest.approx([0.5, 0.1])
    assert answer.signal.tail_mass_N.item() == pytest.approx(0.4)


def test_half_a_character_is_known_by_its_bytes_or_cut_off_with_what_follows(served, tokenizer):
    first, second = "é".encode()[:1], "é".encode()[1:]
    letters = [entry(letter, 0.5) for letter in "abcdefghijk"]
    spelt = [*letters, entry("\ufffd", 0.5, first), entry("\ufffd", 0.5, second), entry("a", 0.5)]
    answer = served("abcdefghijkéa", spelt)
    assert tokenizer.decode(answer.tokens) == "abcdefghijkéa"
    shown = "\ufffd".encode()  # what vLLM gives as their bytes
    lost = [*letters, entry("\ufffd", 0.5, shown), entry("\ufffd", 0.5, shown), entry("a", 0.5)]
    answer = served("abcdefghijkéa", lost)
    assert tokenizer.decode(answer.tokens) == "abcdefghijk"
    assert answer.cut == 3
    assert answer.signal.head_ids_NH.shape[0] == 11


def test_tokens_named_by_id_are_taken_by_it(model, teach, tokenizer):
    with Server(model) as server:
        named = teach(server, extra={"return_tokens_as_token_ids": True})
        by_id = named.answer_with_top(PROMPTS, max_tokens=12, temperature=0)
        by_text = teach(server, log="b").answer_with_top(PROMPTS, max_tokens=12, temperature=0)
    assert [answer.tokens for answer in by_id] == [answer.tokens for answer in by_text]
    assert torch.equal(by_id[0].signal.head_ids_NH, by_text[0].signal.head_ids_NH)


def test_another_tokenizers_ids_are_noticed(model, teach):
    other = byte_pairs([sentences(200, seed=3)[::-1]], 300)
    with Server(model, "llama.cpp") as server:
        teacher = teach(server, own=other)
        with pytest.raises(TeacherError, match=r"the student's is b'.*'; their tokenizers differ"):
            teacher.answer_with_top(PROMPTS, max_tokens=12, temperature=0)


def test_another_tokenizers_tokens_are_noticed(served):
    entries = [entry("distill", 0.5), entry("eries", 0.5)]
    with pytest.raises(TeacherError, match="1 of the first 1 tokens it writes are not tokens"):
        served("distilleries", entries)


A, B = entry("a", 0.5), entry("b", 0.5)


@pytest.mark.parametrize(
    ("text", "entries", "usage", "said"),
    [
        ("abc", [A, B], None, r"scores only 2 of the text's 3 bytes"),
        ("ab", [B, A], None, r"scores another text: token 1 is b'b'"),
        ("a", [A, B], None, r"scores 2 tokens, but only 1 are text"),
        ("ab", [A, B], {"completion_tokens": 1}, r"scores 2 tokens of an answer of 1"),
        ("a", [{**A, "logprob": math.nan}], None, "holds nan where a log-probability should"),
        ("a", [{**A, "logprob": None}], None, "holds None where a log-probability should"),
        ("a", [{**A, "logprob": 0.7}], None, r"holds a log-probability above 0, 0\.7"),
        ("a", [{**A, "top_logprobs": [A, B, B]}], None, "probabilities that add up to 1.5"),
        ("a", ["a"], None, "an entry of logprobs without a token"),
    ],
)
def test_scores_that_cannot_be_true_are_refused(served, text, entries, usage, said):
    with pytest.raises(EndpointError, match=said) as caught:
        served(text, entries, usage=usage)
    assert "on line 1 of its log" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "entries", "finish", "kept"),
    [
        ("ab", [entry(" a", 0.5), B], "length", 2),
        ("ab", [A, B, entry("\n", 0.5)], "length", 2),
        ("ab", [A, B, entry("<|end|>", 0.5)], "stop", 2),
        ("a", [A, entry("b.", 0.5)], "stop", 1),
        ("", [entry("</s>", 0.5)], "stop", 1),
    ],
)
def test_blanks_and_ends_that_a_server_leaves_out_of_the_text_are_no_fault(
    served, text, entries, finish, kept
):
    answer = served(text, entries, finish=finish)
    assert len(answer.tokens) == kept


def test_scores_of_given_tokens_are_the_local_models(model, teach, local, tokenizer):
    token_BS = sequences(tokenizer)
    with Server(model) as server:
        told = []
        signal = teach(server).score(token_BS, lambda *at: told.append(at))
        assert all(body["prompt"] in token_BS.tolist() for body in server.bodies)
        assert all(body["temperature"] == 1 for body in server.bodies)
    assert told[-1] == (3, 3)
    expected = torch.cat([logp(local, row)[:-1] for row in token_BS.tolist()]).exp()
    found = expected.gather(1, signal.head_ids_NH).float()
    used = signal.head_p_NH > 0
    assert torch.allclose(signal.head_p_NH[used], found[used], atol=1e-5)
    assert signal.head_p_NH.shape[0] == 3 * 11
    labels = token_BS[:, 1:].reshape(-1, 1)
    assert (signal.head_ids_NH == labels).any(-1).all()
    assert (used.sum(-1) >= 5).all()


def test_scores_come_from_the_log_the_second_time(model, teach, tokenizer):
    token_BS = sequences(tokenizer)
    with Server(model) as server:
        teacher = teach(server)
        first = teacher.score(token_BS)
        again = teacher.score(token_BS.flip(0))
        assert server.posts == 3
    assert torch.equal(first.head_p_NH[:11], again.head_p_NH[-11:])


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.SHORT, "scores 11 tokens of a prompt of 12"),
        (Fault.NAN, "holds nan where a log-probability should stand"),
    ],
)
def test_a_prompts_scores_that_cannot_be_true_are_refused(model, teach, tokenizer, fault, said):
    with Server(model, plan={1: fault}) as server:
        teacher = teach(server, concurrency=1)
        with pytest.raises(EndpointError, match=said):
            teacher.score(sequences(tokenizer))
        posts = server.posts
        with pytest.raises(EndpointError, match=said):
            teacher.score(sequences(tokenizer))
        assert server.posts == posts


def test_scores_of_other_tokens_than_were_sent_are_refused(tmp_path, tokenizer):
    one = {"logprob": -1.0, "rank": 1, "decoded_token": "x"}
    rows = [None, {"7": one}, {"9": one}]
    body = {"model": "m", "choices": [{"text": "x", "prompt_logprobs": rows}]}

    def answer(request):
        return httpx2.Response(200, json=body)

    config = EndpointConfig(url="http://host/v1", model="m")
    transport = httpx2.MockTransport(answer)
    with Endpoint(config, tmp_path / "log", transport=transport) as endpoint:
        teacher = EndpointTeacher("served", endpoint, tokenizer)
        assert teacher.score(torch.tensor([[5, 7, 9]])).head_ids_NH.tolist() == [[7], [9]]
        with pytest.raises(EndpointError, match="no score for token 1 of the prompt, 9"):
            teacher.score(torch.tensor([[5, 9, 7]]))


@pytest.mark.parametrize("dialect", ["sglang", "llama.cpp"])
def test_a_server_without_prompt_logprobs_is_named_with_the_way_out(
    model, teach, tokenizer, dialect
):
    with Server(model, dialect) as server:
        teacher = teach(server)
        with pytest.raises(TeacherError, match=r"without prompt_logprobs, which vLLM gives; ser"):
            teacher.score(sequences(tokenizer))


def test_a_server_that_ignores_logprobs_is_named_with_the_way_out(model, teach):
    with Server(model, "transformers") as server:
        teacher = teach(server, api="chat", accepted_models=("tiny@main",))
        with pytest.raises(TeacherError, match="answers without log-probabilities; set says: text"):
            teacher.answer_with_top(PROMPTS, max_tokens=4, temperature=0)


def test_scores_of_temperature_zero_leave_one_token_and_no_rest(model, teach, tokenizer):
    with Server(model, behaviour=(Behaviour.FROZEN,)) as server:
        signal = teach(server).score(sequences(tokenizer, count=1))
    assert signal.head_p_NH.sum(-1).tolist() == [1.0] * 11  # for the self-test of agreement to see
    assert signal.tail_mass_N.tolist() == [0.0] * 11


def test_a_limit_field_of_another_name_is_used_everywhere(model, teach, tokenizer):
    with Server(model) as server:
        teacher = teach(server, limit_field="max_completion_tokens")
        teacher.answer(PROMPTS, max_tokens=4, temperature=0)
        teacher.score(sequences(tokenizer))
        assert all("max_tokens" not in body for body in server.bodies)
        assert all("max_completion_tokens" in body for body in server.bodies)
