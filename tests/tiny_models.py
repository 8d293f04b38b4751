"""Tiny random-weight models with a real tokenizer: everything but quality behaves as with a large one."""

from __future__ import annotations

import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = (
    "The quick brown fox jumps over the lazy dog. What is the default value of the setting? "
    "Question: Documents, as data and not as instructions. Answer the question as briefly as you can. "
    "Tandem trains and retrieves; numbers 0 1 2 3 4 5 6 7 8 9 and marks ()[]{}'\"`_-=+*/:;,.!? "
)


def write_tokenizer(folder: Path, corpus: Iterable[str] = (TEXT,), vocabulary: int = 512) -> None:
    """Train a byte-level BPE tokenizer with a ChatML template on a few sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def write_llama(folder: Path, *, hidden: int = 64, layers: int = 2, heads: int = 2, seed: int = 0) -> Path:
    """A random Llama with its tokenizer, in safetensors.

    Args:
        folder: Where it goes; made if it isn't there.
        hidden: Width of the residual stream.
        layers: Number of blocks.
        heads: Attention heads; `hidden / heads` is the head's width (vLLM wants at least 32).
        seed: Of the weights.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    return folder


_SMALL = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
FAMILIES = {
    "gpt2": {"vocab_size": 512, "n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 64},
    "qwen2": _SMALL,
    "qwen3": _SMALL | {"head_dim": 16},
    "mistral": _SMALL | {"sliding_window": 8},
}


def write_family(folder: Path, family: str, *, seed: int = 0) -> Path:
    """A random model of another family, without a tokenizer, in safetensors.

    Args:
        folder: Where it goes; made if it isn't there.
        family: One of `FAMILIES`.
        seed: Of the weights.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(folder)
    return folder


def write_adapter(folder: Path, model: Path, *, rank: int = 4, seed: int = 1) -> Path:
    """A random LoRA adapter (not the identity) over a model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model)
    wrapped = get_peft_model(base, LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    wrapped.save_pretrained(folder)
    return folder


def write_embedder(folder: Path, *, hidden: int = 32) -> Path:
    """A random sentence-transformers BERT with mean pooling, in safetensors: the same one each time."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel

    fast = _words()
    inner = folder.parent / (folder.name + "-inner")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    BertModel(config).save_pretrained(inner)
    fast.save_pretrained(inner)
    transformer = modules.Transformer(str(inner), max_seq_length=128)
    pooling = modules.Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling, modules.Normalize()], device="cpu").save_pretrained(str(folder))
    return folder


def _words() -> Any:
    """A BERT tokenizer with the words of `TEXT`; made and not trained, since training breaks ties by chance."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import PreTrainedTokenizerFast

    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = {word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(TEXT))}
    letters = [f"{before}{letter}" for letter in string.ascii_lowercase for before in ("", "##")]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*special, *sorted(words.union(letters))]
    tokenizer = Tokenizer(WordPiece({piece: at for at, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, special.index(token)) for token in ("[CLS]", "[SEP]")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _dpr_config(vocabulary: int) -> Any:
    from transformers import DPRConfig

    return DPRConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        initializer_range=0.3,
    )


def _uneven(encoder: Any) -> None:
    """Give a random encoder's vectors different lengths, which the last normalization would make the same."""
    import torch

    for name, parameter in encoder.named_parameters():
        if "LayerNorm" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.5)


def write_dpr_context_encoder(folder: Path, *, seed: int = 3) -> Path:
    """A random DPR context encoder, as transformers saves it, with its tokenizer."""
    import torch
    from transformers import DPRContextEncoder

    fast = _words()
    torch.manual_seed(seed)
    encoder = DPRContextEncoder(_dpr_config(len(fast)))
    _uneven(encoder)
    encoder.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def convert_dpr_context_encoder(name: str, folder: Path) -> Path:
    """As docs/serving.md says: a DPR context encoder becomes a sentence-transformers model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel, DPRContextEncoder

    encoder = DPRContextEncoder.from_pretrained(name)
    # As a BERT: under DPR's name transformers would load it as a question encoder.
    plain = BertModel(BertConfig(**{**encoder.config.to_dict(), "model_type": "bert"}), add_pooling_layer=False)
    plain.load_state_dict(encoder.ctx_encoder.bert_model.state_dict())
    bert = folder.parent / f"{folder.name}-bert"
    plain.save_pretrained(bert)
    AutoTokenizer.from_pretrained(name).save_pretrained(bert)
    transformer = Transformer(str(bert))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="cls")
    SentenceTransformer(modules=[transformer, pooling]).save_pretrained(str(folder))
    return folder


def write_rag(folder: Path, *, generator: str = "bart", documents: int = 5, length: int = 300, seed: int = 0) -> Path:
    """A random RAG-Sequence model (a DPR question encoder; BART or T5) with its two tokenizers, in safetensors.

    Args:
        folder: Where it goes.
        generator: ``bart`` or ``t5``.
        documents: `n_docs` of its configuration.
        length: `max_combined_length` of its configuration.
        seed: Of the weights.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import (
        BartConfig,
        PreTrainedTokenizerFast,
        RagConfig,
        RagSequenceForGeneration,
        RagTokenizer,
        T5Config,
    )

    # A token for each character that is seen; of any other bytes a random model's answers couldn't be read.
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = [*special, *map(chr, range(ord("!"), ord("~") + 1)), "\u0120"]  # the last stands for a space
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(alphabet)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    around = "<s> $A </s>" if generator == "bart" else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(token, special.index(token)) for token in ("<s>", "</s>")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    words = _words()
    ends = {"pad_token_id": 1, "eos_token_id": 2, "vocab_size": len(fast), "d_model": 32}
    configs = {
        "bart": lambda: BartConfig(
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=512,
            init_std=0.4,
            **ends,
        ),
        "t5": lambda: T5Config(
            num_layers=1,
            num_heads=2,
            d_kv=16,
            d_ff=64,
            decoder_start_token_id=1,
            prefix="answer: ",
            initializer_factor=3.0,
            **ends,
        ),
    }
    torch.manual_seed(seed)
    config = RagConfig.from_question_encoder_generator_configs(
        _dpr_config(len(words)),
        configs[generator](),
        n_docs=documents,
        max_combined_length=length,
        retrieval_vector_size=32,
    )
    model = RagSequenceForGeneration(config)
    _uneven(model.question_encoder)
    model.save_pretrained(folder)
    RagTokenizer(words, fast).save_pretrained(folder)
    return folder


def write_cross_encoder(folder: Path, *, labels: int = 1, seed: int = 0) -> Path:
    """A random BERT that scores pairs of texts, with its tokenizer, in safetensors."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # With a chat template sentence-transformers would make a conversation of each pair.
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id,
        # Wide enough that scores of a random model differ by more than rounding.
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder
