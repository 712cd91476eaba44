"""The checks of notebook 01, the last ones that are not in notebooks/checks yet."""

from gptlib.checks.judge import Mistake
from gptlib.checks.text_to_batches import batch_lessons, one_epoch, repaired_tokenizer, windows
