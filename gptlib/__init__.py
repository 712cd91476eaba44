"""gptlib: the pieces of a GPT, in the order in which the course builds them.

text to batches → bigram → attention → blocks → GPT; then training, sampling, and looking inside.
"""

from gptlib import (
    checkpoint, data, encoder_decoder, finetuning, gpt2, live, lora, muon, ngram, plot, positions, pretrained, probe,
    quantization, rewards, scaling, smollm2, stories, training,
)  # fmt: skip
from gptlib.data import get_batch, load_text, train_val_split
from gptlib.tokenizers import CharTokenizer, WordTokenizer
from gptlib.bpe import BPETokenizer
from gptlib.ngram import BigramLM, NGram
from gptlib.attention import (
    Head, KVCache, MultiHeadAttention, attention_weights, causal_mask, merge_heads, split_heads,
)  # fmt: skip
from gptlib.model import GPT, Block, FeedForward, GPTConfig
from gptlib.modern import GroupedQueryAttention, ModernBlock, ModernConfig, ModernGPT, RMSNorm, SquaredReLU, SwiGLU
from gptlib.sampling import generate, keep_top_k, keep_top_p, next_token_probs, stream
from gptlib.training import evaluate, train

__version__ = "0.2.0"
