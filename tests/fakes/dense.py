"""Dense teachers of random weights, of every kind that is read, text, and what is left of them."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from distill.loss.divergences import forward_kl
from student import weights
from student.documents import Documents
from student.model import Student
from student.vocabulary import Vocabulary

VOCABULARY = Vocabulary(size=97, bos=0, eos=1, pad=2)
SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def teachers() -> dict[str, PreTrainedModel]:
    """Return a teacher of each kind: grouped heads, as many keys as queries, biases, scaling."""
    wide = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 4}
    made = {
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
        "llama, biases everywhere": LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True)),
        "llama 3's frequencies": LlamaForCausalLM(LlamaConfig(**SMALL, rope_parameters=LLAMA3)),
        "mistral, wide heads": MistralForCausalLM(
            MistralConfig(**wide, head_dim=16, sliding_window=None)
        ),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    }
    return {name: stirred(model) for name, model in made.items()}


def stirred(model: PreTrainedModel, seed: int = 1) -> PreTrainedModel:
    """Return the model with weights, norms and biases at which every term matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.normal_(0, 0.3, generator=generator)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0, 0.15, generator=generator)
    return model.float().eval()


def text(windows: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """Return random tokens `[B, S]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY.size, (windows, tokens), generator=generator)


@torch.no_grad()
def logits(model: PreTrainedModel | Student, token_BS: torch.Tensor) -> torch.Tensor:
    """Return what a teacher or a student says after each token, `[B S, V]`."""
    if isinstance(model, Student):
        documents = Documents([token_BS.shape[1]] * len(token_BS), token_BS.device)
        return model.logits(model(token_BS.flatten(), documents).hidden_ND)
    return model(input_ids=token_BS).logits.flatten(0, 1)


def divergence(
    teacher: PreTrainedModel, student: PreTrainedModel | Student, token_BS: torch.Tensor
) -> float:
    """Return the mean forward KL of a student to its teacher, in nats."""
    log_p, log_q = (logits(m, token_BS).double().log_softmax(-1) for m in (teacher, student))
    return float(forward_kl(log_p, log_q).mean())


def come_back(student: Student, path: Path) -> tuple[Student, Any]:
    """Return the student as it is read again from `path`, and as transformers reads it."""
    weights.save(student, None, path)
    again = Student.load(path)
    assert again.config == student.config
    return again, AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def decode_alike(model: Any, theirs: Any, student: Student, prompt_BS: torch.Tensor) -> bool:
    """Tell whether all three go on alike from a prompt, with their caches."""
    asked = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 2, "eos_token_id": 96}
    prompt = prompt_BS.shape[1]
    said = model.generate(prompt_BS, **asked)[0, prompt:].tolist()
    same = theirs.generate(prompt_BS, **asked)[0, prompt:].tolist() == said
    return same and student.generate(prompt_BS, max_new_tokens=12, stop=[96])[0] == said
