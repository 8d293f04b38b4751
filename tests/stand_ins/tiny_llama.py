"""A Llama with random weights, small enough to make in a test, and LoRA adapters for it."""

from __future__ import annotations

from pathlib import Path

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def make_model(folder: Path, *, seed: int = 0, head_dim: int = 64) -> Path:
    """Save a two-layer Llama with a byte-level tokenizer and a chat template; vLLM's CPU kernels take it too."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(folder)

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=2 * head_dim,
            intermediate_size=2 * head_dim,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=head_dim,
            max_position_embeddings=1024,
            eos_token_id=0,
            bos_token_id=None,
            pad_token_id=0,
            # Small weights give near-ties between tokens, which batching could break differently.
            initializer_range=0.4,
            tie_word_embeddings=False,
        )
    )
    model.generation_config.eos_token_id = 0
    model.save_pretrained(folder)
    return folder


def make_adapter(model: Path, folder: Path, *, seed: int, r: int = 4) -> Path:
    """Save a LoRA adapter whose weights are random too, so that it changes every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=r, lora_alpha=8 * r, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(folder)
    return folder
