"""Pretraining against a loop written by hand, unbroken runs, and `training.evaluate`; in one process and in several."""

import csv
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from gptlib import muon, pretrain, pretrained, settings, training
from gptlib.model import GPT, GPTConfig
from gptlib.pretrain import Trainer, main, start_processes, windows
from gptlib.sampling import evaluating
from gptlib.settings import read_config
from gptlib.shards import Shards, prepare
from gptlib.tokenizers import CharTokenizer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")

CONFIG = """
[model]
architecture = "gpt"
context_length = 8
n_layer = 2
n_head = 3
n_embd = 12

[training]
steps = 8
batch_size = 12
learning_rate = 1e-2
warmup_steps = 2

[run]
shards = "{shards}"
folder = "{folder}"
micro_batch = 2
eval_every = 4
save_every = 3
"""
MODERN = ["model.architecture=modern", "model.n_kv_head=3", "model.n_hidden=16", "training.optimizer=muon"]
TIMES = ("tokens_per_second", "mfu", "seconds")
CONTEXT = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
CONTEXT.set_forkserver_preload(["gptlib.pretrain", "pytest", "torch._dynamo"])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Shards of 40 documents, several in each set."""
    folder = tmp_path_factory.mktemp("data")
    numbers = torch.randint(8, (40, 30), generator=torch.Generator().manual_seed(3)).tolist()
    (folder / "source.txt").write_text("\n\n".join("".join("abcdefgh"[i] for i in row) for row in numbers))
    prepare(
        folder / "source.txt", folder / "shards", CharTokenizer("\nabcdefgh"), separator="\n\n", val_fraction=0.2,
        shard_tokens=101, progress=False,
    )  # fmt: skip
    return folder / "shards"


@pytest.fixture
def config(shards, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(shards=shards.as_posix(), folder=(tmp_path / "run").as_posix()))
    return path


@pytest.fixture(autouse=True)
def calm(monkeypatch):
    """No measuring of the device; afterwards, signals do again what they did."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(pretrain, "peak_flops", lambda device, dtype: 1e9)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(config, *changes, **folder):
    """The sentence that a run ends with when it does not end well."""
    changes += tuple(f"run.{name}={path}" for name, path in folder.items())
    try:
        main([str(config), *changes])
    except SystemExit as end:
        return str(end.code or "")


def work(rank, size, port, function, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    pretrain.peak_flops = lambda device, dtype: 1e9
    sys.exit(1 if function(*arguments) else 0)


def together(size, function, *arguments):
    """Run `function` in `size` processes like torchrun; their exit codes, 1 where it has returned a sentence."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [CONTEXT.Process(target=work, args=(rank, size, port, function, arguments)) for rank in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=120)
    return [process.exitcode for process in started]


def interrupted(number, at, rank, config, *changes):
    """A run in which process `rank` receives a signal during the step `at`."""
    compute = Trainer.gradients

    def gradients(self, step):
        if step == at and self.rank == rank:
            os.kill(os.getpid(), number)
        return compute(self, step)

    Trainer.gradients = gradients
    try:
        return run(config, *changes)
    finally:
        Trainer.gradients = compute


def result(folder, step=8):
    """Everything that a run leaves, without times: tensors by name, and the rows of the log."""
    state = torch.load(folder / f"step-{step:08}.pt", weights_only=True)
    tensors = dict(state["model"])
    for name, moments in state["optimizer"]["state"].items():
        tensors |= {f"{name} {key}": torch.as_tensor(value) for key, value in moments.items()}
    with (folder / "log.csv").open() as file:
        rows = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    return tensors, rows, json.dumps(state["optimizer"]["param_groups"])  # lists and tuples alike


def same(one, other):
    return one[1:] == other[1:] and one[0].keys() == other[0].keys() and all(
        torch.equal(tensor, other[0][name]) for name, tensor in one[0].items()
    )  # fmt: skip


# --- the order of the windows -------------------------------------------------------------------------------------


def test_an_epoch_is_a_permutation_and_no_two_are_alike():
    order = windows(0, 300, 100, seed=1)
    epochs = [order[:100], order[100:200], order[200:]]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] != windows(0, 100, 100, seed=2)


@pytest.mark.parametrize("start, end", [(0, 7), (95, 105), (250, 251)])
def test_the_order_has_no_memory(start, end):
    assert windows(start, end, 100, seed=1) == windows(0, 300, 100, seed=1)[start:end]


def listed(folder, config, *changes):
    """A run that writes down which windows each process reads, batch by batch."""
    read = Shards.batch

    def batch(self, indices, T):
        if self.folder.name == "shards" and torch.is_grad_enabled():
            with open(f"{folder}/{os.environ.get('RANK', 0)}.txt", "a") as file:
                file.write(" ".join(map(str, indices)) + "\n")
        return read(self, indices, T)

    Shards.batch = batch
    try:
        return run(config, *changes)
    finally:
        Shards.batch = read


def numbers(path):
    """The windows of a process, without those of the pass that is dropped."""
    return [int(i) for line in path.read_text().splitlines()[1:] for i in line.split()]


def test_any_number_of_processes_reads_the_same_windows_in_the_same_order(config, tmp_path):
    n = Shards(read_config(str(config)).run.shards).n_windows(8)
    expected = windows(0, 8 * 12, n, seed=0)
    for size, micro in [(1, 4), (2, 3), (3, 2)]:
        folder = tmp_path / str(size)
        folder.mkdir()
        changes = (f"run.micro_batch={micro}", f"run.folder={folder}/run")
        assert together(size, listed, folder, config, *changes) == [0] * size
        read = [numbers(folder / f"{rank}.txt") for rank in range(size)]
        share = 12 // size
        steps = [[i for of in read for i in of[step * share : (step + 1) * share]] for step in range(8)]
        assert sum(steps, []) == expected


def test_with_other_processes_a_run_continues_with_the_next_windows(config, tmp_path):
    assert "stopped after step 4" in interrupted(signal.SIGTERM, 3, 0, config)
    assert together(2, listed, tmp_path, config) == [0, 0]
    n = Shards(read_config(str(config)).run.shards).n_windows(8)
    first, second = numbers(tmp_path / "0.txt"), numbers(tmp_path / "1.txt")
    for step in range(4):
        batch = windows((4 + step) * 12, (5 + step) * 12, n, seed=0)
        assert first[step * 6 : step * 6 + 6] + second[step * 6 : step * 6 + 6] == batch


# --- gradients and losses -----------------------------------------------------------------------------------------


def by_hand(config, step):
    """The loss and the gradients of a batch at once, without accumulation and without other processes."""
    torch.manual_seed(config.training.seed)
    model = pretrained.MODELS[type(config.model)](config.model)
    data, B = Shards(config.run.shards, "train"), config.training.batch_size
    x, y = data.batch(windows(step * B, (step + 1) * B, data.n_windows(8), config.training.seed), 8)
    loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def write_gradients(path, config, *changes):
    """The gradients of two steps in a row."""
    trainer = Trainer(read_config(str(config), changes), start_processes("cpu"))
    for step in (0, 1):
        loss, grads = trainer.gradients(step), {}
        for name, parameter in trainer.model.named_parameters():
            grad = parameter.grad
            grads[name] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad.clone()
        torch.save((loss, grads), f"{path}.{distributed.get_rank()}.{step}")
        trainer.optimizer.zero_grad()
    del trainer, parameter, grad, grads  # before the group of the processes
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    "size, micro, changes",
    [(1, 3, []), (1, 4, MODERN), (2, 6, []), (2, 2, ["run.parallel=fsdp"]), (2, 2, MODERN), (3, 1, [])],
)
def test_gradients_are_those_of_the_whole_batch(size, micro, changes, config, tmp_path):
    changes = [f"run.micro_batch={micro}", *changes]
    assert together(size, write_gradients, tmp_path / "grads", config, *changes) == [0] * size
    for step in (0, 1):
        loss, expected = by_hand(read_config(str(config), changes), step)
        for rank in range(size):
            found, grads = torch.load(f"{tmp_path}/grads.{rank}.{step}", weights_only=True)
            assert found == pytest.approx(loss, abs=1e-6)
            for name, grad in expected.items():
                torch.testing.assert_close(grads[name], grad, rtol=1e-5, atol=1e-6)


def exact(config):
    """The loss of the validation set, each shard by `training.evaluate`, weighted by its predictions."""
    torch.manual_seed(config.training.seed)
    model, data = GPT(config.model), Shards(config.run.shards, "val")
    ids = [torch.from_numpy(data.open(i).astype("int64")) for i in range(len(data.shards))]
    losses = [training.evaluate(model, part) * (len(part) - 1) for part in ids if len(part) > 1]
    assert len(losses) > 1 and any((len(part) - 1) % 8 for part in ids), "tails and several shards are to be tested"
    return sum(losses) / sum(len(part) - 1 for part in ids)


def write_loss(path, config, *changes):
    trainer = Trainer(read_config(str(config), changes), start_processes("cpu"))
    Path(f"{path}.{trainer.rank}").write_text(str(trainer.evaluate()))
    assert trainer.model.training
    del trainer  # before the group of the processes
    distributed.destroy_process_group()


@pytest.mark.parametrize("size, micro, parallel", [(1, 2, "ddp"), (1, 12, "ddp"), (2, 3, "ddp"), (3, 4, "fsdp")])
def test_every_prediction_of_the_validation_set_counts_once(size, micro, parallel, config, tmp_path):
    changes = [f"run.micro_batch={micro}", f"run.parallel={parallel}", "model.dropout=0.5"]
    assert together(size, write_loss, tmp_path / "loss", config, *changes) == [0] * size
    expected = exact(read_config(str(config), changes))
    for rank in range(size):
        assert float((tmp_path / f"loss.{rank}").read_text()) == pytest.approx(expected, abs=1e-6)


# --- a whole run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [[], ["training.optimizer=muon"], ["run.parallel=fsdp"]], ids=str)
def test_a_run_is_the_loop_by_hand(changes, config, tmp_path):
    assert run(config, "run.micro_batch=12", *changes) == ""
    c = read_config(str(config))
    torch.manual_seed(0)
    model, data = GPT(c.model), Shards(c.run.shards)
    make_optimizer = (muon if "muon" in str(changes) else training).make_optimizer
    optimizer, n = make_optimizer(model, 1.0, 0.1), data.n_windows(8)
    tensors, rows, _ = result(tmp_path / "run")
    for step, row in enumerate(rows):
        x, y = data.batch(windows(step * 12, step * 12 + 12, n, 0), 8)
        loss = training.next_token_loss(model(x), y)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate = training.cosine_schedule(step, 8, 1e-2, 2, 1e-3)
        optimizer.step()
        optimizer.zero_grad()
        assert int(row["step"]) == step + 1 and int(row["tokens"]) == (step + 1) * 96
        assert float(row["loss"]) == pytest.approx(loss.item(), abs=1e-5)
        assert float(row["gradient_norm"]) == pytest.approx(norm.item(), abs=1e-5)
        assert float(row["learning_rate"]) == pytest.approx(rate, rel=1e-5)
        assert (row["val_loss"] != "") == (step in (3, 7))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(tensors[name], parameter.detach(), rtol=1e-5, atol=1e-6)
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 9)]


@pytest.mark.parametrize(
    "size, changes",
    [
        (1, ["model.dropout=0.2"]),
        (1, [*MODERN, "training.precision=bfloat16"]),
        (2, ["model.dropout=0.2"]),
        (2, MODERN),
        (3, []),  # the order in which three numbers are added matters
        (2, ["run.parallel=fsdp", "model.dropout=0.2"]),
    ],
)
def test_a_stopped_run_ends_as_the_unbroken_one(size, changes, config, tmp_path):
    """The signal reaches one process alone, and all of them stop."""
    unbroken, broken = f"run.folder={tmp_path}/a", f"run.folder={tmp_path}/b"
    assert together(size, run, config, unbroken, *changes) == [0] * size
    assert together(size, interrupted, signal.SIGTERM, 3, size - 1, config, broken, *changes) == [1] * size
    assert sorted(path.name for path in (tmp_path / "b").glob("step*")) == ["step-00000003.pt", "step-00000004.pt"]
    assert together(size, run, config, broken, *changes) == [0] * size
    assert same(result(tmp_path / "a"), result(tmp_path / "b"))
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_a_stopped_run_says(number, config):
    assert interrupted(number, 4, 0, config).endswith("stopped after step 5 of 8: the same command continues")
    assert interrupted(number, 7, 0, config) == "", "the last step is the end"


def test_dropout_differs_between_steps_and_processes(config, monkeypatch):
    trainer, losses = Trainer(read_config(str(config), ["model.dropout=0.5"]), start_processes("cpu")), set()
    distributed.destroy_process_group()
    monkeypatch.setattr(pretrain, "windows", lambda start, end, n, seed: [0] * (end - start))  # all alike
    monkeypatch.setattr(pretrain, "total", lambda *values: values)
    for trainer.rank, step in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0)]:
        losses.add(trainer.gradients(step))
    assert len(losses) == 4


DRIVER = """
import os, signal, sys
from gptlib import pretrain
compute = pretrain.Trainer.gradients
def gradients(self, step):
    if step == 5 and self.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(self, step)
pretrain.Trainer.gradients = gradients
pretrain.main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_torchrun_restarts_when_a_process_is_killed(config, tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", "--standalone"]
    command += ["--monitor-interval=0.1", str(tmp_path / "driver.py"), str(config), f"run.folder={tmp_path}/b"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "exitcode: -9" in done.stderr
    assert together(2, run, config, f"run.folder={tmp_path}/a") == [0, 0]
    assert same(result(tmp_path / "a"), result(tmp_path / "b"))


# --- checkpoints and the log --------------------------------------------------------------------------------------


def test_the_log_is_cut_back_to_the_checkpoint(config, tmp_path):
    """As after a power cut in step 12: of its row there is one digit, and the checkpoint after step 9 is the newest."""
    changes = ("training.steps=12", "run.save_every=9")
    assert run(config, *changes, folder=tmp_path / "a") == run(config, *changes, folder=tmp_path / "b") == ""
    (tmp_path / "b" / "step-00000012.pt").unlink()
    log = tmp_path / "b" / "log.csv"
    log.write_text(log.read_text()[: log.read_text().rindex("\n12,") + 2])
    unfinished = tmp_path / "b" / ".step-00000012.pt-xyz"
    unfinished.mkdir()
    assert run(config, *changes, folder=tmp_path / "b") == ""
    assert same(result(tmp_path / "a", 12), result(tmp_path / "b", 12)) and not unfinished.exists()


def test_the_newest_checkpoints_are_kept(config, tmp_path):
    assert run(config, "run.save_every=1", "run.keep=3") == ""
    assert sorted(path.stem[-1] for path in (tmp_path / "run").glob("*.pt")) == ["6", "7", "8"]


def one_bit(content):
    """A setting with another name: one bit differs."""
    i = content.index(b"final_fraction")
    return content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[: len(content) // 2], lambda content: content[:-1],
     lambda content: bytes(len(content)), lambda content: b"To be", one_bit],
)  # fmt: skip
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, config, tmp_path):
    assert run(config) == ""
    expected, path = result(tmp_path / "run"), tmp_path / "run" / "step-00000008.pt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged, and the one before it is used: .*step-00000008.damaged"):
        assert run(config) == ""
    assert same(result(tmp_path / "run"), expected)


def test_a_run_begins_anew_when_no_checkpoint_is_complete(config, tmp_path):
    assert run(config) == ""
    expected = result(tmp_path / "run")
    for path in (tmp_path / "run").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-9])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert run(config) == ""
    assert sum("is damaged" in str(one.message) for one in said) == 2
    assert same(result(tmp_path / "run"), expected)


@pytest.mark.parametrize(
    "change, message",
    [
        ("training.steps=9", "has training.steps = 8, and here it is 9: restore it to continue that run, or name"),
        ("training.seed=1", "training.seed = 0, and here it is 1"),
        ("training.precision=bfloat16", "training.precision = float32"),
        ("model.n_embd=24", "model.n_embd = 12, and here it is 24"),
        ("model.dropout=0.1", "model.dropout = 0.0, and here it is 0.1"),
    ],
)
def test_a_run_goes_on_only_as_it_was(change, message, config):
    assert "stopped" in interrupted(signal.SIGTERM, 3, 0, config)
    assert message in run(config, change)


def test_a_run_goes_on_only_with_its_shards(config, shards, tmp_path):
    assert "stopped" in interrupted(signal.SIGTERM, 3, 0, config)
    prepare(
        shards.parent / "source.txt", tmp_path / "new", CharTokenizer("\nabcdefgh"), separator="\n\n", progress=False
    )
    assert "shards.manifest" in run(config, shards=tmp_path / "new")


def test_how_a_run_is_divided_may_change(config, tmp_path):
    assert "stopped" in interrupted(signal.SIGTERM, 3, 0, config, "run.folder=" + str(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert run(config, "run.micro_batch=4", "run.save_every=1", "run.keep=1", folder=tmp_path / "b") == ""
    assert run(config, folder=tmp_path / "c") == ""
    for name, tensor in result(tmp_path / "c")[0].items():
        torch.testing.assert_close(result(tmp_path / "b")[0][name], tensor, rtol=1e-4, atol=1e-5)


def test_a_full_disk_ends_the_run_with_a_sentence(config, tmp_path):
    from conftest import full_disk  # not above: the processes of these tests import this file, and may find another

    assert "stopped" in interrupted(signal.SIGTERM, 1, 0, config)
    with full_disk():
        assert "could not be written and is unchanged" in run(config)
    assert [path.name for path in (tmp_path / "run").glob("*step*")] == ["step-00000002.pt"]


@pytest.mark.parametrize("change", ["training.learning_rate=1e38", "training.learning_rate=1e30"])
def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_good_checkpoints(change, config, tmp_path):
    assert "not finite" in run(config, change, "run.save_every=1")
    for path in (tmp_path / "run").glob("*.pt"):
        model = torch.load(path, weights_only=True)["model"]
        assert all(tensor.isfinite().all() for tensor in model.values())


# --- the finished model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [[], MODERN, [*MODERN, "model.tied=false"]], ids=["gpt", "modern", "untied"])
def test_the_model_is_saved_without_the_rows_that_fill_up_the_vocabulary(changes, config, tmp_path):
    assert run(config, "model.vocab_size=16", *changes) == ""
    model, tokenizer = pretrained.load(tmp_path / "run")
    assert tokenizer.vocab_size == model.config.vocab_size == 9
    c = read_config(str(config), ["model.vocab_size=16", *changes])
    padded = pretrained.MODELS[type(c.model)](c.model)
    padded.load_state_dict(torch.load(tmp_path / "run" / "step-00000008.pt", weights_only=True)["model"])
    idx = torch.tensor([tokenizer.encode("abcd")])
    with evaluating(padded), torch.no_grad():
        torch.testing.assert_close(model(idx), padded(idx)[..., :9])


def test_a_finished_run_saves_its_model_again(config, tmp_path):
    assert run(config) == ""
    content = (tmp_path / "run" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "model.safetensors").unlink()  # as if it had been killed there
    assert run(config) == ""
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == content


# --- the settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        (["training.stepz=3"], "training.stepz is no setting: there are steps, batch_size, "),
        (["model.n_hidden=3"], "model.n_hidden is no setting: there are vocab_size, "),
        (["training.steps=many"], "training.steps = 'many' must be int"),
        (["training.steps=1.5"], "training.steps = 1.5 must be int"),
        (["training.steps=true"], "training.steps = True must be int"),
        (["run.compile=1"], "run.compile = 1 must be bool"),
        (["run.folder=3"], "run.folder = 3 must be str"),
        (["training.steps=0"], "steps = 0 must be positive"),
        (["run.micro_batch=-1"], "micro_batch = -1 must be positive"),
        (["training.learning_rate=nan"], "learning_rate = nan must be positive"),
        (["training.warmup_steps=-1"], "warmup_steps = -1 must be at least 0"),
        (["training.optimizer=sgd"], "training.optimizer = 'sgd': choose from adamw, muon"),
        (["model.architecture=rnn"], "model.architecture = 'rnn': choose from gpt, modern"),
        (["model.n_embd=13"], "[model]: n_embd=13 is not a multiple of n_head=3"),
        (["model.vocab_size=8"], "model.vocab_size = 8 is less than the 9 tokens of the shards' tokenizer"),
        (["steps=3"], "'steps=3' changes no setting: write section.key=value, such as training.steps=100"),
        (["training.steps"], "'training.steps' changes no setting"),
        (["optimizer.lr=3"], "[optimizer] is no section: there are [model], [training] and [run]"),
        (["training.batch_size=13"], "training.batch_size = 13 is no multiple of 1 (processes) times 2 (run.micro"),
        (["training.optimizer=muon", "run.parallel=fsdp"], "Muon orthogonalizes whole matrices, and fsdp divides them"),
        (["run.shards=nowhere"], "no shards in nowhere. This prepares them: python -m gptlib.shards SOURCE nowhere --"),
        (["run.shards=a/b", "run.prepare=make {shards}"], "there are no shards in a/b. This prepares them: make a/b"),
        (["run.device=tpu"], "run.device = 'tpu': choose from auto, cpu, cuda, mps"),
        (["model.context_length=500"], "needs a window of 501 tokens to train on"),
    ],
)
def test_a_mistake_in_the_settings_is_one_sentence(changes, message, config):
    said = run(config, *changes)
    assert message in said and "\n" not in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(config):
    assert "run.device=cuda does not fit 1 processes and 0 CUDA GPUs" in run(config, "run.device=cuda")


def test_a_mistake_in_the_file_is_one_sentence(config):
    assert "there is no config nothing: give the path of a TOML file, or one of " in run("nothing")
    text = config.read_text()
    config.write_text(text.replace("steps = 8", ""))
    assert "the section [training] lacks steps" in run(config)
    config.write_text(text.replace("[run]", "[run"))
    assert "config.toml is not TOML: " in run(config)
    config.write_text("steps = 8\n" + text)
    assert "has steps outside of a section" in run(config)


def test_an_altered_shard_is_named(config, shards, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in shards.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = (copy / "train-00000.bin").read_bytes()
    (copy / "train-00000.bin").write_bytes(content[:-2] + b"\1\0")
    assert "train-00000.bin was altered" in run(config, shards=copy)


@pytest.mark.parametrize("path", sorted(settings.CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_configs_of_the_package_are_complete(path, shards):
    c = read_config(path.stem, [f"run.shards={shards.as_posix()}", "run.prepare={shards}"])
    assert c.share(8 if "8gpus" in path.stem else 1)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in pretrained.MODELS[type(c.model)](c.model).parameters())
    if path.stem.startswith("gpt2"):
        assert c.model == GPTConfig(50304, 1024, 12, 12, 768) and size == 124_439_808 + 47 * 768
    with pytest.raises(FileNotFoundError, match="python -m gptlib.shards .* --tokenizer"):
        read_config(path.stem, ["run.shards=nowhere"])


def test_the_options_reach_the_engine(config, monkeypatch, tmp_path):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    assert run(config, "run.compile=true", "training.precision=bfloat16", "training.steps=1") == ""
    assert compiled == ["GPT"]
    rough = float(result(tmp_path / "run", 1)[1][0]["loss"])
    assert run(config, "training.steps=1", folder=tmp_path / "b") == ""
    exact = float(result(tmp_path / "b", 1)[1][0]["loss"])
    assert 0 < abs(rough - exact) < 0.01
    assert run(config, "run.compile=true", "run.parallel=fsdp", folder=tmp_path / "c") == ""
    assert compiled[1:] == ["Block", "Block"] or compiled[1:] == ["FSDPBlock"] * 2
