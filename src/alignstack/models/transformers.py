"""Any causal language model of Hugging Face transformers in this process: a folder that `alignstack train` wrote, a
downloaded checkpoint, or a model that is being trained at the moment.

Weights are read from safetensors alone (pickled ones could run code), and code that lies in a checkpoint is never run.
With `batch: 1` an answer depends on checkpoint, messages and sampling alone; with more, requests that wait at the same
time are decoded together, whose rounding can flip a near tie between two tokens. Control tokens written out in a
request (`<|assistant|>`) are plain text to the model.

Needs torch: `pip install 'alignstack[local]'`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field

from alignstack.core.errors import AlignstackError, ConfigError, DataError, ModelUnavailable, Problem
from alignstack.core.messages import Message, digest
from alignstack.core.ports import Delta, Finish, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from alignstack.models.decoding import Answer, LogitsProcessor, Network, Wanted

RUNTIME = "1"
"""Raise it whenever our own code could answer the same input with another text."""
MAX_TOKENS = 1024
"""Of an answer, where neither request nor stack file says."""
GATHER_S = 0.005
"""How long a batch that is not full waits for requests that are about to come. One forward pass takes longer."""
WEIGHTS = "*.safetensors"
FILES = (
    WEIGHTS, "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json", "tokenizer*",
    "chat_template*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt",
)  # fmt: skip
"""What decides a checkpoint's answers."""
INSTALL = "pip install 'alignstack[local]'"


class TransformersConfig(BaseModel):
    """Keys in the stack file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: str = "transformers"
    checkpoint: str
    """A Hugging Face folder, relative to the stack file: `config.json`, safetensors, tokenizer and chat template. With
    `download` also a name on the Hugging Face hub."""
    adapter: str | None = None
    """A PEFT folder whose adapter is merged into the weights when they are loaded. A tokenizer in it goes first."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of weights and arithmetic; `auto` is what the checkpoint says."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, `mps` …; `auto` takes a GPU where there is one, and spreads the layers over several."""
    temperature: float | None = Field(default=None, ge=0)
    """Used in place of the request's."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Upper bound on the request's."""
    batch: int = Field(default=1, ge=1)
    """Answers decoded at the same time; further requests wait."""
    chat_template: str | None = None
    """A Jinja file that replaces the checkpoint's own template."""
    download: bool = False
    """May fetch the checkpoint; otherwise nothing here uses the network."""


class Transformers:
    """A checkpoint on disk, or with `of` a model in memory. The weights are loaded at the first request, or by `warm`,
    and shared by all clients of the same checkpoint."""

    Config = TransformersConfig

    def __init__(
        self, config: TransformersConfig, *, base: Path = Path(), processors: Sequence[LogitsProcessor] = ()
    ) -> None:
        """`processors` see and may change the logits of every token before it is drawn (transformers' own protocol,
        one request at a time); each request works with copies of its own. Raises DataError for files that are not
        there and for a missing package."""
        _installed(config)
        self.config, self._base = config, base
        self.name = "transformers:" + "+".join(
            Path(place).name for place in (config.checkpoint, config.adapter) if place
        )
        self._template = _text(base / config.chat_template) if config.chat_template else None
        if not config.download:
            _folder(base / config.checkpoint)
        if config.adapter:
            _folder(base / config.adapter, "adapter")
        self._processors, self._live = tuple(processors), False
        self._temperature, self._max_tokens = config.temperature, config.max_tokens
        self._work = _Work(self._network, config.batch)

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        name: str,
        version: str,
        batch: int = 16,
        max_tokens: int | None = None,
        processors: Sequence[LogitsProcessor] = (),
    ) -> Transformers:
        """A client of a model in memory, for example one in training: it decodes without dropout and gradients, leaves
        the modes of all its parts as they were, and does not touch torch's random state. When the last stream that was
        opened has ended or been closed, the model is free again. `version` is the caller's word for the weights."""
        from alignstack.models.decoding import Network
        from alignstack.models.template import Chat

        network = Network(model, tokenizer, Chat(tokenizer, context=_context(model, tokenizer)))
        client = cls.__new__(cls)
        client.name, client.version = name, version
        client._processors, client._live = tuple(processors), True
        client._temperature, client._max_tokens = None, max_tokens
        client._work = _Work(lambda: network, batch)
        return client

    @staticmethod
    def default_reference(config: TransformersConfig) -> dict[str, Any] | None:
        """Of a checkpoint with an adapter: the checkpoint without it."""
        if config.adapter is None:
            return None
        return {"use": config.use, **config.model_dump(exclude={"use", "adapter"}, exclude_unset=True)}

    @cached_property
    def version(self) -> str:
        config = self.config
        settings = [config.temperature, config.max_tokens, config.dtype, config.device, config.batch]
        names = [f"{type(p).__module__}.{type(p).__qualname__}" for p in self._processors]
        return digest(RUNTIME, self._contents, self._template, settings, names)[:16]

    def warm(self) -> None:
        """Loads the weights. Raises DataError when they cannot be used."""
        self._work.warm()

    async def stream(self, messages: Sequence[Message], sampling: Sampling) -> AsyncIterator[Delta | Finish]:
        """One delta a token that completes a character. Closing the stream ends the answer with the forward pass that
        is under way."""
        request = _Request(tuple(messages), self._wanted(sampling), self._processors)
        self._work.add(request)
        try:
            while True:
                item = await request.items.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, Finish):
                    return
        finally:
            request.close()
            if self._live:
                await request.left.wait()

    def _wanted(self, sampling: Sampling) -> Wanted:
        from alignstack.models.decoding import Wanted

        temperature = sampling.temperature if self._temperature is None else self._temperature
        limits = [limit for limit in (sampling.max_tokens, self._max_tokens) if limit is not None]
        return Wanted(
            temperature=temperature or 0.0,
            top_p=1.0 if sampling.top_p is None else sampling.top_p,
            seed=sampling.seed or 0,
            max_tokens=min(limits, default=MAX_TOKENS),
            stop=_stop(sampling.more),
        )

    # ---------------------------------------------------------------- files

    @cached_property
    def _folders(self) -> list[Path]:
        """The checkpoint's, and the adapter's if there is one."""
        place = self._base / self.config.checkpoint
        found = place if place.is_dir() or not self.config.download else _fetched(self.config.checkpoint)
        return [_folder(found), *([self._base / self.config.adapter] if self.config.adapter else [])]

    @cached_property
    def _contents(self) -> list[list[list[str]]]:
        """Name and SHA-256 of every file that matters, folder by folder."""
        found = [sorted({path for pattern in FILES for path in folder.glob(pattern)}) for folder in self._folders]
        return [[[path.name, _sha256(path, path.stat().st_mtime_ns)] for path in paths] for paths in found]

    def _network(self) -> Network:
        key = digest(self._contents, self._template, self.config.dtype, self.config.device)
        with _LOADING:
            network = _LOADED.get(key)
            if network is None:
                network = _LOADED[key] = _load(self.config, self._folders, self._template)
        return network


# ---------------------------------------------------------------- requests


class _Request:
    """One stream, between the loop that reads it and the thread that decodes."""

    def __init__(self, messages: tuple[Message, ...], wanted: Wanted, processors: tuple[LogitsProcessor, ...]) -> None:
        self.messages, self.wanted, self.processors = messages, wanted, processors
        self.items = asyncio.Queue[Delta | Finish | Exception]()
        self.left = asyncio.Event()
        """The model has been let go."""
        self.closed = False
        self._answer: Answer | None = None
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        self.closed = True
        if self._answer is not None:
            self._answer.over = True

    def begin(self, network: Network) -> Answer | None:
        """The answer to work on; None when there is nothing to do."""
        from alignstack.models.decoding import Answer

        if self.closed:
            return None
        try:
            prompt = network.chat.prompt(self.messages, self.wanted.max_tokens)
            answer = self._answer = Answer(network, prompt, self.wanted, self.processors, self.send)
        except Exception as error:  # of one request, which has nothing to do with the others
            self.send(_unavailable(error))
            return None
        answer.over = self.closed
        return answer

    def send(self, item: Delta | Finish | Exception) -> None:
        self._tell(self.items.put_nowait, item)

    def leave(self) -> None:
        self._tell(self.left.set)

    def _tell(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop has ended without closing its streams
            self.close()


class _Work:
    """Requests that wait, and the one thread that takes them up, `batch` at a time."""

    def __init__(self, load: Callable[[], Network], batch: int) -> None:
        self._load, self._batch = load, batch
        self._network: Network | None = None
        self._waiting = deque[_Request]()
        self._busy = False
        self._guard = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transformers")

    def add(self, request: _Request) -> None:
        with self._guard:
            self._waiting.append(request)
            if not self._busy:
                self._busy = True
                self._thread.submit(self._run)

    def warm(self) -> None:
        self._thread.submit(self._loaded).result()

    def _loaded(self) -> Network:
        if self._network is None:
            self._network = self._load()
        return self._network

    def _run(self) -> None:
        while requests := self._next():
            try:
                network = self._loaded()
                network.answer([answer for request in requests if (answer := request.begin(network)) is not None])
            except Exception as error:  # whatever it is, those who wait must hear of it
                for request in requests:
                    request.send(_unavailable(error))
            for request in requests:
                request.leave()

    def _next(self) -> list[_Request]:
        if self._batch > 1 and 0 < len(self._waiting) < self._batch:
            time.sleep(GATHER_S)
        with self._guard:
            found = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            self._busy = bool(found)
            return found


def _unavailable(error: Exception) -> AlignstackError:
    if isinstance(error, AlignstackError):
        return error
    return ModelUnavailable(f"the model failed: {type(error).__name__}: {error}"[:500])


def _stop(more: str) -> tuple[str, ...]:
    """Of the request's further keys. Servers take one text or a list of them."""
    found = json.loads(more).get("stop") if more else None
    return (found,) if isinstance(found, str) else tuple(text for text in found or () if isinstance(text, str))


# ---------------------------------------------------------------- loading

_LOADING = threading.Lock()
_LOADED: WeakValueDictionary[str, Network] = WeakValueDictionary()
"""By contents: a stack that is read again, or a second one, does not load the same weights twice."""


def _installed(config: TransformersConfig) -> None:
    """Raises DataError for a package that is not there; imports none."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise DataError(f"`use: transformers` needs {package}; {INSTALL}")
    if config.adapter and find_spec("peft") is None:
        raise DataError("`adapter` needs peft; pip install peft, or merge the adapter into the checkpoint")


def _folder(path: Path, kind: Literal["checkpoint", "adapter"] = "checkpoint") -> Path:
    """Raises DataError where a folder lacks what it must hold."""
    if not path.is_dir():
        ways = "`download: true` looks for it on the Hugging Face hub" if kind == "checkpoint" else "PEFT writes one"
        raise DataError(f"{kind} {str(path)!r}: no such folder; paths are relative to the stack file, {ways}")
    if kind == "adapter" and not (path / "adapter_config.json").is_file():
        raise DataError(f"adapter {str(path)!r} has no adapter_config.json; a merged model is a `checkpoint`")
    if kind == "checkpoint" and not (path / "config.json").is_file():
        raise DataError(f"checkpoint {str(path)!r} has no config.json; not a Hugging Face folder")
    if not any(path.glob(WEIGHTS)):
        raise DataError(
            f"{kind} {str(path)!r} has no {WEIGHTS}; other weights can run code when they are read: "
            "save it again with `save_pretrained`"
        )
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(where="chat_template", what=f"{str(path)!r} cannot be read: {error}")]) from None


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # network, names, rights
        raise DataError(f"checkpoint {name!r} could not be fetched: {type(error).__name__}: {error}"[:500]) from None


@cache
def _sha256(path: Path, changed_ns: int) -> str:
    """About a second a GB, once a process for each state of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(config: TransformersConfig, folders: Sequence[Path], template: str | None) -> Network:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from alignstack.models.decoding import Network
    from alignstack.models.template import Chat

    try:
        with _without_bars():
            model, tokenizer = _model(config, folders), _tokenizer(folders)
        chat = Chat(tokenizer, context=_context(model, tokenizer), template=template)
        return Network(model.eval(), tokenizer, chat)
    except AlignstackError as error:
        raise DataError(f"{str(folders[0])!r}: {error}") from None
    except Exception as error:  # transformers, safetensors and tokenizers fail in many ways
        reason = f"{type(error).__name__}: {error}"[:500]
        raise DataError(f"{str(folders[0])!r} cannot be loaded; fetch or train it again: {reason}") from None


@contextmanager
def _without_bars() -> Iterator[None]:
    """transformers draws a progress bar for every checkpoint it reads."""
    from transformers.utils import logging

    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _model(config: TransformersConfig, folders: Sequence[Path]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folders[0], dtype=config.dtype if config.dtype == "auto" else getattr(torch, config.dtype),
        device_map=_device(config.device), local_files_only=True, trust_remote_code=False, use_safetensors=True,
        output_loading_info=True,
    )  # fmt: skip
    model, report = loaded
    if report["missing_keys"]:  # transformers would draw them at random
        raise DataError(f"the weights lack {', '.join(sorted(report['missing_keys'])[:3])}; not a language model's")
    for folder in folders[1:]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder), local_files_only=True).merge_and_unload()
    return model


def _device(name: str) -> Any:
    """What transformers calls a device map. Raises DataError for a device that is not there."""
    import torch

    if name == "auto":
        if torch.cuda.device_count() > 1:
            return "auto"
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DataError(
            f"no device {name!r}: {str(error).splitlines()[0]}; `device: auto` takes what is there"
        ) from None
    return {"": name}


def _tokenizer(folders: Sequence[Path]) -> Any:
    from transformers import AutoTokenizer

    own = [folder for folder in folders[1:] if (folder / "tokenizer_config.json").is_file()]
    return AutoTokenizer.from_pretrained((own or folders)[0], local_files_only=True, trust_remote_code=False)


def _context(model: Any, tokenizer: Any) -> int:
    """Tokens of prompt and answer together."""
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length)
