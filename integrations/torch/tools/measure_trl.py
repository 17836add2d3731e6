"""TRL's trainer and ours side by side: seconds, processor seconds and memory of a step, as the README's table has them.

python tools/measure_trl.py          # all rows, each run in a process of its own, in turns
python tools/measure_trl.py lora     # those of a frozen head
"""

import json
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).resolve().parents[1] / "tests"
STEPS, ROUNDS = 5, 3
VOCAB, HIDDEN, PAIRS, TOKENS = 32000, 256, 4, 64


def preferences():
    from datasets import Dataset

    words = random.Random(0)

    def text():
        return " ".join(f"w{words.randrange(90)}" for _ in range(TOKENS))

    return Dataset.from_list([{"prompt": text(), "chosen": " " + text(), "rejected": " " + text()} for _ in range(8)])


def run(whose, lora):
    """One run, in this process; prints its numbers as JSON."""
    sys.path.insert(0, str(TESTS))
    import torch
    import trl
    import trl_models
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

    from dpo_kernels.trl import DPOTrainer

    torch.set_num_threads(2)
    steps = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            usage = resource.getrusage(resource.RUSAGE_SELF)
            self.begin = time.perf_counter(), usage.ru_utime + usage.ru_stime

        def on_step_end(self, *args, **kwargs):
            usage = resource.getrusage(resource.RUSAGE_SELF)
            steps.append((time.perf_counter() - self.begin[0], usage.ru_utime + usage.ru_stime - self.begin[1]))

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=2, num_attention_heads=4,
            pad_token_id=0, bos_token_id=1, eos_token_id=1,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        args = trl.DPOConfig(
            output_dir=folder, max_steps=STEPS, per_device_train_batch_size=PAIRS, logging_steps=1, report_to=[], use_cpu=True, learning_rate=1e-3,
            save_strategy="no", disable_tqdm=True, bf16=False, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = (trl.DPOTrainer if whose == "trl" else DPOTrainer)(
            model=folder, args=args, train_dataset=preferences(), processing_class=trl_models.tokenizer(), callbacks=[Clock()],
            peft_config=LoraConfig(r=8, target_modules=["q_proj", "v_proj"]) if lora else None,
        )  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        trainer.train()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    numbers = {"wall": min(s[0] for s in steps[1:]), "cpu": statistics.median(s[1] for s in steps[1:])}
    print(json.dumps({**numbers, "mib": (peak - before) / 1024, "log": log}))


def main():
    if len(sys.argv) > 2:
        return run(sys.argv[1], sys.argv[2] == "lora")
    print(
        f"vocabulary {VOCAB}, hidden size {HIDDEN}, {PAIRS} pairs of {TOKENS} + {TOKENS} tokens, f32, the best of {ROUNDS} runs"
    )
    for lora in sys.argv[1:] or ("full", "lora"):
        runs = {"trl": [], "dpo_kernels": []}
        for _ in range(ROUNDS):
            for whose, found in runs.items():
                command = [sys.executable, "-W", "ignore", __file__, whose, lora]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
        for whose, found in runs.items():
            wall, cpu, mib = (min(one[key] for one in found) for key in ("wall", "cpu", "mib"))
            print(
                f"{lora} {whose}: {wall:.2f} s a step, {cpu:.2f} s of processor, {mib:.0f} MiB beyond the trainer's start"
            )
        apart = max(
            abs(ours[key] - theirs[key]) / max(1, abs(theirs[key]))
            for ours, theirs in zip(runs["dpo_kernels"][0]["log"], runs["trl"][0]["log"])
            for key in theirs
            if key != "runtime"
        )
        print(f"{lora}: the two logs are at most {apart:.1e} apart")


if __name__ == "__main__":
    main()
