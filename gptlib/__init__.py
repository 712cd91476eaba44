"""gptlib: the pieces of a GPT, in the order in which the course builds them.

text to batches → bigram → attention → blocks → GPT; then training it, drawing text from it, looking inside.
"""

from gptlib import bigram, data, plot, positions, pretrained, probe, training
from gptlib.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer
from gptlib.data import batch, load, split
from gptlib.bigram import BigramLM, NGram
from gptlib.attention import Head, MultiHeadAttention, attention_weights, merge_heads, split_heads
from gptlib.cache import Cache, LayerCache
from gptlib.model import GPT, Block, FeedForward, GPTConfig
from gptlib.sampling import complete, distribution, generate, keep_top_k, keep_top_p, stream
from gptlib.rows import few_rows
from gptlib.training import evaluate, train

__version__ = "0.1.0"
