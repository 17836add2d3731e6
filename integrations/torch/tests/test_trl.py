"""The trainer beside TRL's own, from the same seeds on the same data: every number that either of them logs.

How far they may be apart: both compute in f32, in other orders, so a step's gradient differs by rounding, a few 2⁻²⁴ of the largest.
AdamW divides a gradient by its own size, so a weight whose gradient is all rounding moves by as much as the learning rate at each
step, in either direction: 20 steps of 1e-3, in weights that the loss hardly depends on. `BOUND` is a hundredth of that, of a number
or of 1, whichever is larger; what was found is 1e-6.
"""

import warnings

import pytest
import torch
import trl
import trl_models
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import DPOConfig

import dpo_kernels.trl
from dpo_kernels.trl import DPOTrainer

BOUND = 2e-4
STEPS = 20
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": "gaussian"}
LOSSES = (
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero",
    "apo_down", "discopop", "sft", "sigmoid_norm",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with a saved model of each kind."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = str(tmp_path_factory.mktemp(kind))
            trl_models.model(kind, made[kind])
        return made[kind]

    return folder


@pytest.fixture
def calls(monkeypatch):
    """How often a loss of a step was computed by the fused head."""
    counted = []
    original = dpo_kernels.trl.linear_dpo_loss

    def counting(*args, **kwargs):
        counted.append(kwargs["loss"])
        return original(*args, **kwargs)

    monkeypatch.setattr(dpo_kernels.trl, "linear_dpo_loss", counting)
    return counted


def trainer(cls, folder, output, *, lora=False, model=None, ref_model=None, dataset=None, eval_dataset=None,
            data_collator=None, **config):  # fmt: skip
    settings = {
        "max_steps": STEPS, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "logging_steps": 1, "report_to": [],
        "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "bf16": False, "gradient_checkpointing": False,
    }  # fmt: skip
    args = DPOConfig(output_dir=str(output), **{**settings, **config})
    return cls(
        model=folder if model is None else model,
        ref_model=ref_model,
        args=args,
        train_dataset=trl_models.preferences() if dataset is None else dataset,
        eval_dataset=eval_dataset,
        processing_class=trl_models.tokenizer(),
        peft_config=LoraConfig(**LORA) if lora else None,
        data_collator=data_collator,
    )


def trained(*args, **config):
    made = trainer(*args, **config)
    made.train()
    return made.state.log_history


TIMES = ("runtime", "per_second", "flos")


def compare(found, wanted, bound=BOUND, without=()):
    assert len(found) == len(wanted)
    compared = 0
    for ours, theirs in zip(found, wanted):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            if name not in without and not any(time in name for time in TIMES):
                assert abs(ours[name] - value) <= bound * max(1, abs(value)), (
                    f"{name}: {ours[name]}, TRL {value}, {theirs}"
                )
                compared += 1
    assert compared > 10 * len(wanted)


def both(folder, tmp_path, bound=BOUND, **config):
    found = trained(DPOTrainer, folder, tmp_path / "ours", **config)
    compare(found, trained(trl.DPOTrainer, folder, tmp_path / "theirs", **config), bound)
    return found


def of_loss(name):
    return {"loss_type": name, "label_smoothing": 0.1 if name in ("exo_pair", "robust", "aot", "aot_unpaired") else 0.0}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name, folders, tmp_path, calls):
    both(folders("llama"), tmp_path, **of_loss(name))
    assert calls == [[name]] * STEPS


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_with_lora_and_a_tied_head(name, folders, tmp_path, calls):
    both(folders("qwen"), tmp_path, lora=True, max_steps=6, **of_loss(name))
    assert len(calls) == 6


OPTIONS = {
    "a mixture": {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]},
    "a mixture of normalised losses": {"loss_type": ["ipo", "hinge"], "loss_weights": [1.0, 0.5]},
    "forward KL": {"f_divergence_type": "forward_kl"},
    "Jensen-Shannon": {"f_divergence_type": "js_divergence"},
    "alpha divergence": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
    "alpha divergence at 1": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 1.0},
    "LD-DPO": {"ld_alpha": 0.4},
    "WPO": {"use_weighting": True},
    "WPO of a normalised loss": {"use_weighting": True, "loss_type": "ipo"},
    "label smoothing of 0": {"loss_type": "robust", "label_smoothing": 0.0},
    "another beta": {"beta": 0.5},
    "accumulation of 3": {"gradient_accumulation_steps": 3, "max_steps": 8},
    "precomputed references": {"precompute_ref_log_probs": True},
    "precomputed references with LoRA and LD-DPO": {"precompute_ref_log_probs": True, "lora": True, "ld_alpha": 0.4},
    "truncation": {"max_length": 7},
    "padding to a multiple": {"pad_to_multiple_of": 8},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "reentrant gradient checkpointing": {
        "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "gradient checkpointing with LoRA": {"gradient_checkpointing": True, "lora": True},
    "synchronised references": {"sync_ref_model": True, "ref_model_sync_steps": 3},
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_options(option, folders, tmp_path, calls):
    config = {"max_steps": 8, **OPTIONS[option]}
    both(folders("llama"), tmp_path, **config)
    assert len(calls) == config["max_steps"] * config.get("gradient_accumulation_steps", 1)


@pytest.mark.parametrize("kind", ["qwen", "gemma", "cohere"])
def test_heads_of_other_models(kind, folders, tmp_path, calls):
    """A tied head of a padded vocabulary, a soft cap, a logit scale."""
    both(folders(kind), tmp_path, max_steps=8)
    assert len(calls) == 8


def test_padding_free_is_what_it_is_in_trl(folders, tmp_path):
    """TRL 1.16 warns, and pads."""
    both(folders("llama"), tmp_path, max_steps=3, padding_free=True)


def test_bf16_autocast(folders, tmp_path, calls):
    """Products in bf16, whose factors have 8 bits; TRL rounds logits to bf16 and we do not."""
    both(folders("llama"), tmp_path, bound=8 * 2**-8, max_steps=8, bf16=True)
    assert len(calls) == 8


def test_evaluation(folders, tmp_path, calls):
    evaluation = {"first": trl_models.preferences(5, seed=1), "second": trl_models.preferences(4, seed=2)}
    config = {"eval_strategy": "steps", "eval_steps": 3, "max_steps": 6, "per_device_eval_batch_size": 2}
    for precompute in (False, True):
        log = both(folders("llama"), tmp_path, eval_dataset=evaluation, precompute_ref_log_probs=precompute, **config)
        assert sum("eval_first_loss" in entry for entry in log) == 2
    assert len(calls) == 2 * (6 + 2 * (3 + 2))


def test_a_reference_model_that_is_given(folders, tmp_path):
    """Another one than the model at its start, whose log-ratios are not 0 at the first step."""

    def config():
        reference = trl_models.model("llama", seed=5)
        return {"model": AutoModelForCausalLM.from_pretrained(folders("llama")), "ref_model": reference, "max_steps": 6}

    found = trained(DPOTrainer, None, tmp_path / "ours", **config())
    compare(found, trained(trl.DPOTrainer, None, tmp_path / "theirs", **config()))
    assert abs(found[0]["rewards/margins"]) > 1e-3


def test_an_adapter_that_was_trained_before(folders, tmp_path):
    """TRL keeps a copy of it, by the name of "ref", as the reference."""

    def model():
        torch.manual_seed(3)
        base = AutoModelForCausalLM.from_pretrained(folders("llama"))
        return get_peft_model(base, LoraConfig(**{**LORA, "init_lora_weights": False}, task_type="CAUSAL_LM"))

    config = {"max_steps": 6}
    found = trained(DPOTrainer, None, tmp_path / "ours", model=model(), **config)
    compare(found, trained(trl.DPOTrainer, None, tmp_path / "theirs", model=model(), **config))
    assert abs(found[0]["rewards/margins"]) < 1e-5 < abs(found[-2]["rewards/margins"])


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_that_is_resumed_is_the_run_that_was_not(lora, folders, tmp_path):
    config = {"save_strategy": "steps", "save_steps": 3, "max_steps": 7, "lora": lora}
    whole = trained(DPOTrainer, folders("llama"), tmp_path / "whole", **config)
    resumed = trainer(DPOTrainer, folders("llama"), tmp_path / "resumed", **config)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    # TRL counts tokens, and takes the mean of the losses, from where a run is resumed.
    compare(resumed.state.log_history, whole, bound=1e-12, without=("num_tokens", "train_loss"))


class WithoutSomeCompletions:
    """TRL's collator, but every other batch has nothing to score."""

    def __init__(self):
        self.collator = trl.trainer.dpo_trainer.DataCollatorForPreference(pad_token_id=0)
        self.batches = 0

    def __call__(self, examples):
        batch = self.collator(examples)
        self.batches += 1
        if self.batches % 2 == 0:
            batch["completion_mask"] = torch.zeros_like(batch["completion_mask"])
        return batch


def test_a_micro_batch_without_a_scored_token(folders, tmp_path, calls):
    config = {"max_steps": 4, "gradient_accumulation_steps": 2}
    found = trained(DPOTrainer, folders("llama"), tmp_path / "ours", data_collator=WithoutSomeCompletions(), **config)
    wanted = trained(
        trl.DPOTrainer, folders("llama"), tmp_path / "theirs", data_collator=WithoutSomeCompletions(), **config
    )
    compare(found, wanted)
    assert len(calls) == 8


def test_what_is_not_supported_goes_trls_way_with_one_warning(folders, tmp_path, calls):
    dpo_kernels.trl._warn_once.cache_clear()
    config = {"loss_type": ["sigmoid", "sft"], "ld_alpha": 0.5, "max_steps": 4}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = trained(DPOTrainer, folders("llama"), tmp_path / "ours", **config)
    said = [str(warning.message) for warning in caught if "dpo_kernels" in str(warning.message)]
    assert said == ["dpo_kernels: sft counts all tokens once and ld_alpha does not: this goes TRL's way"]
    compare(found, trained(trl.DPOTrainer, folders("llama"), tmp_path / "theirs", **config))
    assert calls == []


def test_label_smoothing_that_one_loss_of_a_sum_does_not_have_goes_trls_way(folders, tmp_path, calls):
    for name in ("aot", "exo_pair", "robust"):
        both(folders("llama"), tmp_path / name, loss_type=[name, "sigmoid_norm"], label_smoothing=0.3, max_steps=2)
    assert calls == []


def test_virtual_tokens_go_trls_way(folders, tmp_path, calls):
    """Where the prompt is empty, the last of them predicts the first token, which TRL does not score."""

    def model():
        torch.manual_seed(3)
        base = AutoModelForCausalLM.from_pretrained(folders("llama"))
        return get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))

    config = {"max_steps": 3, "dataset": trl_models.preferences().map(lambda row: {**row, "prompt": ""})}
    found = trained(DPOTrainer, None, tmp_path / "ours", model=model(), **config)
    compare(found, trained(trl.DPOTrainer, None, tmp_path / "theirs", model=model(), **config))
    assert calls == []


def test_a_head_of_another_kind_goes_trls_way(folders, tmp_path):
    """Also in an evaluation, where no log-prob has a gradient."""

    class Wrapped(torch.nn.Parameter):
        pass

    dpo_kernels.trl._warn_once.cache_clear()
    evaluation = trl_models.preferences(4, seed=1)
    logs = []
    for cls, output in ((DPOTrainer, "ours"), (trl.DPOTrainer, "theirs")):
        made = trainer(cls, folders("llama"), tmp_path / output, eval_dataset=evaluation, max_steps=3,
                       eval_strategy="steps", eval_steps=3)  # fmt: skip
        head = made.model.get_output_embeddings()
        if cls is DPOTrainer:
            head.weight = Wrapped(head.weight.detach())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made.train()
        logs.append(made.state.log_history)
        if cls is DPOTrainer:
            assert any("the head's weight is a Wrapped" in str(warning.message) for warning in caught)
    compare(*logs)


def test_the_head_is_trls_again_outside_of_our_trainer(folders, tmp_path):
    made = trainer(DPOTrainer, folders("llama"), tmp_path / "ours", max_steps=1)
    assert trl.trainer.dpo_trainer.add_fused_lm_head is not dpo_kernels.trl.add_fused_lm_head
    ids = torch.tensor([[3, 4, 5, 6]])
    plain = AutoModelForCausalLM.from_pretrained(folders("llama"))
    assert torch.equal(made.model(ids).logits, plain(ids).logits)
    assert made.model.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, 6)
