"""The checks of the exercises: one line when the answer is right, the name of the mistake when it is not.

from gptlib import checks as check

check.causal_mask(my_function)

One file for each notebook, in the order of the course; `judge` holds how a check works.
"""

from gptlib.checks.judge import Mistake
from gptlib.checks.text_to_batches import batch_lessons, one_epoch, repaired_tokenizer, windows
from gptlib.checks.bigram import counted_table, drawn_tokens, jumping_curve, steady_loss, two_losses
from gptlib.checks.masked_average import average_weights, fading_average, repaired_weights, share
from gptlib.checks.single_head import causal_mask, four_maps, head_shapes, one_back, one_head
from gptlib.checks.multi_head import contributions, habits, merged_heads, repaired_heads, stages
from gptlib.checks.blocks import feed_forward_size, folded_norm, layer_norm, repaired_block, silent_start
from gptlib.checks.gpt import parameter_count, parting_curves, previous_head, training_step, whole_loss
from gptlib.checks.sampling import draft_and_check, keep_min_p, positions_read, repaired_cache, sharpened
from gptlib.checks.positions import pair_order, repaired_rotation, turned_score, wave_table
from gptlib.checks.bpe import bits_per_byte, by_hand, longest_match, stream_decode, unused
from gptlib.checks.gpt2 import blocks_that_fit, first_difference, released_name, sliding_loss, split_qkv
