"""What does Ray cost the training loop on a GPU: the finetune job against the same loop under plain torchrun.

One worker with one GPU, random weights of the shapes below, an adapter (LoRA) in bf16, the same rows in the same steps.
The two sides take turns, in processes of their own.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import Result, versions
from benchmarks.training_runs import run_side, write_setting
from benchmarks.training_sides import Setting

ROUNDS = 4
STEPS, WARM_UP = 18, 4  # the first don't count: CUDA loads its kernels, and the allocator grows
ROWS, MICRO = 32, 16  # of a step, of a forward pass
PROMPT, ANSWER = (265, 597), 16  # characters, which are tokens here: as long as the demo's rows
SHAPES: dict[str, dict[str, Any]] = {  # by whose shape it is
    "SmolLM2-135M": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "TinyLlama-1.1B": {
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def run() -> list[Result]:
    """Both shapes, one after the other.

    Raises:
        SystemExit: There is no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("launcher-gpu: torch sees no NVIDIA GPU on this machine")
    return [_run(name, shape) for name, shape in SHAPES.items()]


def _run(name: str, shape: dict[str, Any]) -> Result:
    import torch

    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="tandem-bench-", ignore_cleanup_errors=True) as scratch:
        root = Path(scratch)
        rows = _write_rows(root / "train.jsonl", STEPS * ROWS)
        setting = Setting(
            model=str(_write_model(root / "model", shape)),
            train=str(rows),
            eval=None,
            steps=STEPS,
            batch_size=ROWS,
            learning_rate=1e-4,
            rank=16,
            workers=1,
            gpus=1,
            micro_batch_size=MICRO,
        )
        for number in range(ROUNDS):
            # The first job prepares the examples that torchrun takes.
            sides = ["job", "torchrun"] if number % 2 == 0 else ["torchrun", "job"]
            rounds.append({side: _measure(side, root / f"{number}-{side}", setting) for side in sides})
            print(f"{name}, round {number}: {rounds[-1]}", flush=True)
    return Result(
        f"launcher-gpu-{name}",
        "useful tokens per second on one GPU under Ray Train and under torchrun",
        {
            "shape": name,
            "gpu": torch.cuda.get_device_name(),
            "steps": f"{ROUNDS} × {STEPS - WARM_UP}",
            "rows/step": ROWS,
            "rows/pass": MICRO,
        },
        versions("torch", "transformers", "deepspeed", "ray", "peft"),
        [
            {
                "contender": side,
                "tokens/s": statistics.median(one[side] for one in rounds),
                "÷ torchrun": statistics.median(one[side] / one["torchrun"] for one in rounds),
                "lowest": min(one[side] / one["torchrun"] for one in rounds),
                "highest": max(one[side] / one["torchrun"] for one in rounds),
            }
            for side in ("torchrun", "job")
        ],
    )


def _measure(side: str, folder: Path, setting: Setting) -> float:
    """Tokens of the steps that count over their seconds."""
    write_setting(folder, setting)
    (folder / "prepared").symlink_to(folder.parent / "0-job" / "storage" / "job")
    measured = run_side(side, folder)
    return float(sum(measured["tokens"][WARM_UP:]) / sum(measured["seconds"][WARM_UP:]))


def _write_rows(path: Path, count: int) -> Path:
    chance = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz "

    def text(length: int) -> str:
        return "".join(chance.choices(letters, k=length))

    with path.open("w") as file:
        for _ in range(count):
            turns = [("user", text(chance.randint(*PROMPT))), ("assistant", text(ANSWER))]
            file.write(json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]}) + "\n")
    return path


def _write_model(folder: Path, shape: dict[str, Any]) -> Path:
    """Random weights in bf16, and a tokenizer that makes a token of each byte."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[1], eos_token=special[2], pad_token=special[0]
    )
    fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=2048, **shape))
    model.to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
