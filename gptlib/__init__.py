"""gptlib: the pieces of a GPT, in the order in which the course builds them.

text to batches → bigram → attention → blocks → GPT; then training it, drawing text from it, looking inside.
"""

from gptlib import bpe, data, files, ngram
from gptlib.tokenizers import CharTokenizer, WordTokenizer
from gptlib.bpe import BPETokenizer
from gptlib.data import get_batch, load_text, train_val_split
from gptlib.ngram import BigramLM, NGram

__version__ = "0.1.0"
