"""The settings of `pretrain`: a TOML file of three sections as dataclasses, with each mistake in one sentence."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gptlib.model import GPTConfig
from gptlib.modern import ModernConfig
from gptlib.shards import Shards

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIGS = Path(__file__).parent / "configs"
ARCHITECTURES: dict[str, type] = {"gpt": GPTConfig, "modern": ModernConfig}


@dataclass(frozen=True)
class Training:
    steps: int
    batch_size: int  # windows per step, of all processes
    learning_rate: float  # after the warm-up; half a cosine follows
    warmup_steps: int
    final_fraction: float = 0.1  # of the learning rate, at the end
    weight_decay: float = 0.1
    clip: float = 1.0  # the largest norm of a gradient
    optimizer: Literal["adamw", "muon"] = "adamw"
    precision: Literal["float32", "bfloat16"] = "float32"  # of matrix products; parameters are float32
    seed: int = 0


@dataclass(frozen=True)
class Run:
    shards: str  # a folder that gptlib.shards has written
    folder: str  # for the checkpoints, the log and the finished model
    micro_batch: int  # windows that a process computes at once; their gradients add up to those of the batch
    eval_every: int  # steps, like the next
    save_every: int
    prepare: str = "python -m gptlib.shards SOURCE {shards} --tokenizer gpt2"  # what writes the shards
    keep: int = 2  # checkpoints
    parallel: Literal["ddp", "fsdp"] = "ddp"  # fsdp divides parameters, gradients and moments among the processes
    compile: bool = False
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True)
class Config:
    model: Any
    training: Training
    run: Run

    def share(self, processes: int) -> int:
        """The windows per step of each process; raises ValueError when the batch cannot be divided."""
        c, run = self.training, self.run
        if c.batch_size % (processes * run.micro_batch):
            raise ValueError(
                f"training.batch_size = {c.batch_size} is no multiple of {processes} (processes) times "
                f"{run.micro_batch} (run.micro_batch): change one of them"
            )
        return c.batch_size // processes

    def identity(self) -> dict[str, dict]:
        """What decides what is computed."""
        manifest = Path(self.run.shards, "manifest.json").read_bytes()
        model = {"architecture": type(self.model).__name__, **asdict(self.model)}
        data = {"manifest": hashlib.sha256(manifest).hexdigest()}
        return {"model": model, "training": asdict(self.training), "shards": data}


def check_identity(here: dict[str, dict], found: dict[str, dict], path: Path) -> None:
    """Raises ValueError when the checkpoint at `path`, with the identity `found`, belongs to another run."""
    for section, values in here.items():
        for name, value in values.items():
            if (there := found[section].get(name)) != value:
                raise ValueError(
                    f"{path} has {section}.{name} = {there}, and here it is {value}: restore it to continue that run, "
                    "or name another run.folder to begin a new one"
                )


def read_config(source: str, changes: Sequence[str] = ()) -> Config:
    """The settings in a TOML file, with changes such as "training.steps=100". Raises ValueError, or OSError."""
    found = read_sections(source, changes)
    if unknown := found.keys() - {"model", "training", "run"}:
        raise ValueError(f"[{min(unknown)}] is no section: there are [model], [training] and [run]")
    c, run = section("training", Training, found), section("run", Run, found)
    for name, value in {**vars(c), **vars(run)}.items():
        least = 0 if name in ("warmup_steps", "final_fraction", "weight_decay", "seed") else 1e-30
        if type(value) in (int, float) and not value >= least:
            raise ValueError(f"{name} = {value} must be {'positive' if least else 'at least 0'}")
    if c.optimizer == "muon" and run.parallel == "fsdp":
        raise ValueError("Muon orthogonalizes whole matrices, and fsdp divides them: use run.parallel=ddp, or adamw")
    if not Path(run.shards, "manifest.json").is_file():
        command = run.prepare.replace("{shards}", run.shards)
        raise FileNotFoundError(f"there are no shards in {run.shards}. This prepares them: {command}")
    V = Shards(run.shards, "train", verify=False).vocab_size
    sizes = {"vocab_size": V, **found.get("model", {})}
    kind = ARCHITECTURES.get(name := sizes.pop("architecture", None))
    if kind is None:
        raise ValueError(f"model.architecture = {name!r}: choose from {', '.join(ARCHITECTURES)}")
    model = section("model", kind, {"model": sizes})
    if model.vocab_size < V:
        raise ValueError(f"model.vocab_size = {model.vocab_size} is less than the {V} tokens of the shards' tokenizer")
    return Config(model, c, run)


def read_sections(source: str, changes: Sequence[str] = ()) -> dict[str, dict]:
    """The sections of a TOML file, or of gptlib/configs/`source`.toml, with changes such as "training.steps=100".

    Raises FileNotFoundError, and ValueError for a file that is not TOML or a change that names no setting.
    """
    path = Path(source) if Path(source).is_file() else CONFIGS / f"{source}.toml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.toml")))
        raise FileNotFoundError(f"there is no config {source}: give the path of a TOML file, or one of {names}")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    for change in changes:
        name, equals, text = change.partition("=")
        section, dot, key = name.partition(".")
        if not (dot and equals):
            raise ValueError(f"{change!r} changes no setting: write section.key=value, such as training.steps=100")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except ValueError:
            value = text  # a string needs no quotes here
        found.setdefault(section, {})[key] = value
    if outside := [name for name, section in found.items() if not isinstance(section, dict)]:
        raise ValueError(f"{path} has {outside[0]} outside of a section: put it below a line such as [run]")
    return found


def section(name: str, kind: type, found: Mapping[str, dict]) -> Any:
    """The dataclass `kind` with the values of section `name`; raises ValueError for what does not fit its fields."""
    hints, values = get_type_hints(kind), dict(found.get(name, {}))
    for key, value in values.items():
        if key not in hints:
            raise ValueError(f"{name}.{key} is no setting: there are {', '.join(hints)}")
        wanted = hints[key]
        if get_origin(wanted) is Literal:
            if value not in get_args(wanted):
                raise ValueError(f"{name}.{key} = {value!r}: choose from {', '.join(get_args(wanted))}")
        elif type(value) is int and float in (wanted, *get_args(wanted)):
            values[key] = float(value)
        elif not isinstance(value, wanted) or type(value) is bool is not wanted:
            raise ValueError(f"{name}.{key} = {value!r} must be {getattr(wanted, '__name__', wanted)}")
    if missing := [field.name for field in fields(kind) if field.default is MISSING and field.name not in values]:
        raise ValueError(f"the section [{name}] lacks {', '.join(missing)}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"[{name}]: {error}") from None
