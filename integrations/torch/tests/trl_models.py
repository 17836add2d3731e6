"""Tiny models, a tokenizer and preferences, made here: nothing is downloaded."""

import random

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

WORDS = 90
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "max_position_embeddings": 64}  # fmt: skip


def tokenizer():
    vocab = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": 3 + i for i in range(WORDS)}}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def model(kind, folder=None, seed=0):
    """A model at random, and saved into `folder`, whence TRL loads a reference like it."""
    torch.manual_seed(seed)
    kinds = {
        "llama": (LlamaForCausalLM, LlamaConfig, {"vocab_size": 97, "tie_word_embeddings": False}),
        # The embedding is the head, and the vocabulary is padded beyond the tokenizer's.
        "qwen": (Qwen2ForCausalLM, Qwen2Config, {"vocab_size": 128, "tie_word_embeddings": True}),
        "gemma": (Gemma2ForCausalLM, Gemma2Config, {"vocab_size": 97, "final_logit_softcapping": 5.0, "head_dim": 8}),
        "cohere": (CohereForCausalLM, CohereConfig, {"vocab_size": 97, "logit_scale": 0.25}),
    }
    of_model, of_config, own = kinds[kind]
    made = of_model(of_config(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=1, **own))
    # Logits of an untrained model are all alike; these differ.
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(15)
    if folder is not None:
        made.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    return made


def preferences(count=12, seed=0):
    words = random.Random(seed)

    def text(least, most):
        return " ".join(f"w{words.randrange(WORDS)}" for _ in range(words.randint(least, most)))

    rows = [{"prompt": text(1, 4), "chosen": " " + text(1, 6), "rejected": " " + text(1, 6)} for _ in range(count)]
    return Dataset.from_list(rows)
