"""The sampler: requests in, finished paths out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import torch

from rftfast import ops as operations
from rftfast.cores import usable_cores
from rftfast.engine.device import find_device
from rftfast.engine.gpu_runner import GpuRunner
from rftfast.engine.memory import Batch, MemoryPlan, human, parse_bytes, plan_memory
from rftfast.engine.monitor import Monitor, Watch
from rftfast.engine.params import Generation, Request, SamplingParams
from rftfast.engine.rng import sample_key
from rftfast.engine.runner import Launched, Noise, Runner
from rftfast.engine.scheduler import Scheduler, SequenceState, Step
from rftfast.engine.stats import Meter, Stats, StepTimes
from rftfast.engine.stops import Endings, StopStrings, cut
from rftfast.engine.tree import PAGE, UNKNOWN, KVTree
from rftfast.errors import UserError
from rftfast.models.config import ModelConfig
from rftfast.models.decoder import Decoder
from rftfast.models.kv_scales import kv_scales
from rftfast.models.resolve import resolve
from rftfast.models.rope import rope_table
from rftfast.models.tokenizer import Tokenizer
from rftfast.models.weights import load_weights
from rftfast.ops import fp8
from rftfast.ops.kv import KVPool
from rftfast.ops.stops import TEXT

_END = object()
_DTYPES = {"bf16": torch.bfloat16, "bfloat16": torch.bfloat16, "float32": torch.float32, "fp32": torch.float32}


@dataclass(eq=False)
class _Path:
    """The payload of a sequence: who asked for it and what has been drawn and is known."""

    request: Request
    sample_index: int
    noise: Noise
    stops: StopStrings | None
    drawn: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _InFlight:
    """A step that was launched: its sequences, and the place in ``tokens`` where each one's new token goes."""

    sequences: list[SequenceState]
    places: list[int]
    launched: Launched


class Sampler:
    """Draws many paths a prompt. Build it with ``from_pretrained``.

    A path is a function of (params.seed, request.name, sample index) alone: always as to its noise, and in invariant
    mode as to its tokens, whatever else is in the batch, in whatever order, after however many restarts.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer,
        memory: MemoryPlan,
        *,
        prefix_share: bool = True,
        invariant: bool = True,
        batch: Batch | None = None,
        ahead: bool = False,
        graphs: bool = True,
        scales: torch.Tensor | None = None,
    ) -> None:
        """``ahead``: launch each step before the tokens of the one before have reached the host. ``graphs``: on a GPU, replay
        captured steps. ``scales`` [L, K, 2]: of keys and values in float8 (``models.kv_scales``)."""
        if memory.pages < 1:
            raise UserError(f"KV memory holds no page of {human(memory.page_bytes)}: give more with --kv-memory")
        self.decoder = decoder
        self.config: ModelConfig = decoder.config
        self.tokenizer = tokenizer
        self.memory = memory
        self.prefix_share = prefix_share
        self.invariant = invariant
        self.kv_scales = scales
        self.ahead = ahead
        batch = Batch.of(decoder.embed.device, None) if batch is None else batch
        self.tree = KVTree(memory.pages)
        self.pool, self.runner = self._make_runner(batch, graphs)
        ordered = isinstance(self.runner, Runner)
        self.scheduler = Scheduler(self.tree, batch.max_running, batch.max_rows, ordered=ordered)
        self.on_step: Callable[[StepTimes], None] | None = None
        """Called after each step."""
        self._meter = Meter(self.scheduler, self.runner.seconds)
        self._endings = Endings(self.config.vocab_size, self.config.eos_ids, tokenizer.token_bytes)
        self._watch: Watch | None = None
        self._in_flight: _InFlight | None = None
        self._streaming = False

    def _make_runner(self, batch: Batch, graphs: bool) -> tuple[KVPool, Runner | GpuRunner]:
        c, device, dtype = self.config, self.decoder.embed.device, self.decoder.dtype
        kept = dtype if self.kv_scales is None else fp8.kept_in_pages(dtype, device)
        pool = KVPool.allocate(c.layers, self.memory.pages, c.kv_heads, c.head_dim, kept, device, scales=self.kv_scales)
        sizes = batch.max_running, batch.max_rows
        if device.type == "cuda":
            return pool, GpuRunner(self.decoder, pool, self.tree, *sizes, graphs=graphs)
        return pool, Runner(self.decoder, pool, self.tree, *sizes)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        threads: int | None = None,
        kv_memory: str | int | None = None,
        prefix_share: bool = True,
        invariant: bool | None = None,
        backend: str = "auto",
        max_running: int | None = None,
        ahead: bool | None = None,
        graphs: bool = True,
        quantization: str | None = None,
        kv_cache_dtype: str = "auto",
    ) -> Sampler:
        """Loads ``model`` (a folder, a GGUF file, a named model or a Hugging Face name).

        ``dtype``: auto (bf16 where the CPU multiplies it natively, else float32), bf16 or float32. ``threads``: CPU
        threads, all cores that are ours by default. ``kv_memory``: bytes, or text such as "4GiB". ``invariant``: tokens independent of
        the batch; the default on CPUs. ``max_running``: paths drawn at once, 256 by default on CPUs, 1,024 on GPUs.
        ``ahead``: launch each step before the tokens of the one before are here; the default on GPUs. ``graphs``: replay
        captured steps on GPUs. ``quantization``: "fp8" for the products of the layers (``ops.fp8``); emulated, and slow,
        on CPUs. ``kv_cache_dtype``: auto (as the model) or fp8. Raises UserError for anything that cannot be used.
        """
        target = find_device(device)
        batch = Batch.of(target, max_running)
        if target.type == "cuda":
            torch.cuda.set_device(target)  # Triton launches on the current one
        if threads is not None and threads < 1:
            raise UserError(f"threads is {threads}: use at least 1")
        operations.native.set_threads(threads or min(torch.get_num_threads(), usable_cores()))
        if invariant is None:
            invariant = target.type == "cpu"
        folder = resolve(str(model))
        config = ModelConfig.from_folder(folder)
        ops = operations.select(
            target, backend=backend, invariant=invariant, head_dim=config.head_dim, quantization=quantization
        )
        if target.type == "cuda" and (plain := [name for name, how in ops.backends.items() if how[0] == "reference"]):
            why = ops.backends[plain[0]][1]
            raise UserError(f"sampling on a GPU needs its kernels, and {', '.join(plain)} would run without: {why}")
        chosen = choose_dtype(dtype, target)
        float8_kv = fp8.in_kv_cache(kv_cache_dtype, target)
        if quantization is not None and target.type == "cuda" and chosen != torch.bfloat16:
            raise UserError(f"--quantization {quantization} on a GPU goes with --dtype bf16, not {dtype}")
        plan = plan_memory(
            config,
            chosen,
            target,
            kv_memory=parse_bytes(kv_memory) if isinstance(kv_memory, str) else kv_memory,
            batch=batch,
            quantization=quantization,
            kv_cache_dtype=kv_cache_dtype,
        )
        tokenizer = Tokenizer.from_folder(folder)
        cos, sin = rope_table(config, config.max_positions)
        weights = load_weights(folder, config, chosen, target)
        scales = (
            kv_scales(config, weights, (cos, sin)) if float8_kv else None
        )  # before the layers' weights are taken out
        decoder = Decoder(config, weights, ops, (cos.to(target), sin.to(target)))
        return cls(
            decoder,
            tokenizer,
            plan,
            prefix_share=prefix_share,
            invariant=invariant,
            batch=batch,
            ahead=target.type != "cpu" if ahead is None else ahead,
            graphs=graphs,
            scales=scales,
        )

    # -- drawing --------------------------------------------------------------------------------------------------

    def generate(
        self, prompts: Sequence[str | Sequence[int]], params: SamplingParams | None = None
    ) -> list[list[Generation]]:
        """``params.k`` paths for each prompt (text or token ids), in the order of the prompts and sample indices.

        A prompt's noise is named by the prompt itself, so its paths do not depend on the others.
        """
        params = params or SamplingParams()
        names: list[str] = []
        requests: dict[str, Request] = {}
        for prompt in prompts:
            tokens = tuple(self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
            name = "prompt:" + blake2b(b",".join(b"%d" % t for t in tokens), digest_size=8).hexdigest()
            names.append(name)
            requests[name] = Request(name, tokens, params)
        results: dict[str, list[Generation]] = {name: [] for name in requests}
        for generation in self.stream(requests.values()):
            results[generation.name].append(generation)
        for paths in results.values():
            paths.sort(key=lambda g: g.sample_index)
        return [results[name] for name in names]

    def stream(self, requests: Iterable[Request | None], monitor: Monitor | None = None) -> Iterator[Generation]:
        """Paths as they finish. ``requests`` is read as room appears, so it may be as long as you like.

        A source that waits for paths of its own before it knows what to ask for next gives None: "nothing now", and is
        asked again after the next step. ``monitor`` may end paths early (``rftfast.engine.monitor``).
        One stream at a time: raises UserError while another one of this sampler is neither exhausted nor closed.
        """
        if self._streaming:
            raise UserError("this sampler is still drawing: exhaust or close its other stream first")
        self._streaming = True
        more = True
        try:
            self._watch = None if monitor is None else Watch(monitor, self._endings.token_bytes)
            source = iter(requests)
            while True:
                while more and len(self.scheduler.waiting) < self.scheduler.max_running:
                    request = next(source, _END)
                    if request is _END:
                        more = False
                    elif request is None:
                        break
                    else:
                        assert isinstance(request, Request)
                        self._add(request)
                if not self.scheduler.busy and self._in_flight is None:
                    assert not more, "the source waits for paths and none is being drawn"
                    return
                yield from self._step()
        finally:
            self._in_flight = None
            self.scheduler.abort()
            self._streaming = False

    def check_request(self, request: Request) -> None:
        """Raises UserError if the request can never be served."""
        length, longest = len(request.tokens), self.config.max_positions
        if not request.tokens:
            raise UserError(f"request '{request.name}': the prompt is empty")
        if length + 1 > longest:
            raise UserError(
                f"request '{request.name}': the prompt has {length} tokens and the model's context is {longest}: "
                "use fewer shots or shorten the question"
            )
        bad = [t for t in request.tokens if not 0 <= t < self.config.vocab_size]
        if bad:
            raise UserError(f"request '{request.name}': token {bad[0]} is outside the vocabulary")
        need = -(-min(length + request.params.max_tokens, longest) // PAGE) + 1
        if need > self.memory.pages:
            raise UserError(
                f"request '{request.name}': one sequence needs {need} KV pages ({human(need * self.memory.page_bytes)})"
                f" and there are {self.memory.pages}: give more with --kv-memory or lower --max-tokens"
            )

    def _add(self, request: Request) -> None:
        self.check_request(request)
        p = request.params
        stops, ends = self._endings.strings(p), self._endings.tokens(p)
        key = sample_key(p.seed, request.name)
        longest = min(p.max_tokens, self.config.max_positions - len(request.tokens))
        for index in request.indices():
            noise = Noise(key, index, p.temperature, p.top_k, p.top_p, p.min_p, ends)
            payload = _Path(request, index, noise, stops)
            self.scheduler.add(
                SequenceState(payload, list(request.tokens), len(request.tokens), longest, share=self.prefix_share)
            )

    def _step(self) -> list[Generation]:
        """Launches a step and takes in the tokens of the one before (or of this one, unless steps run ahead)."""
        begin = time.perf_counter()
        before = self._in_flight
        try:
            step = self.scheduler.schedule(ahead=before is not None)
            scheduled = time.perf_counter()
            self._in_flight = self._launch(step, before) if step.rows else None
            if before is None and not self.ahead:
                before, self._in_flight = self._in_flight, None
            tokens, logprobs = before.launched.result() if before else ([], [])
        except BaseException:  # an interrupt too: what this step should have computed must not be taken for computed
            self._in_flight = None
            self.scheduler.abort()
            self.tree.forget()
            raise
        ran = time.perf_counter()
        finished = self._take(before, tokens, logprobs) if before else []
        self._meter.count(step, len(finished), schedule=scheduled - begin, host=time.perf_counter() - ran)
        if self.on_step is not None:
            self.on_step(self._meter.step_times(step, time.perf_counter() - begin))
        return finished

    def _launch(self, step: Step, before: _InFlight | None) -> _InFlight:
        paths = [s.payload for s in step.decode]
        noise = [p.noise for p in paths]  # type: ignore[attr-defined]
        launched = self.runner.launch(step, noise, before.launched if before else None)
        places = []
        for row, sequence in enumerate(step.decode):
            places.append(len(sequence.tokens))
            sequence.tokens.append(UNKNOWN)
            sequence.row = row
        return _InFlight(step.decode, places, launched)

    def _take(self, step: _InFlight, tokens: Sequence[int], logprobs: Sequence[float]) -> list[Generation]:
        """Tokens have reached the host: the paths that end with them. What the device has flagged 0 goes on."""
        finished = []
        learn = self.scheduler.learn
        flags = step.launched.flags
        if flags is None or self._watch is not None:
            flags = [TEXT] * len(tokens)  # look at every path
        for sequence, place, token, logprob, flag in zip(
            step.sequences, step.places, tokens, logprobs, flags, strict=True
        ):
            path = sequence.payload
            assert isinstance(path, _Path)
            if sequence.ended:
                self._meter.beyond_end += 1
                continue
            if token < 0:
                raise UserError(
                    f"request '{path.request.name}': the model gives NaN logits; its weights are damaged, or this "
                    "dtype overflows: try --dtype float32"
                )
            learn(sequence, place, token)
            path.drawn.append(token)
            path.logprobs.append(logprob)
            reason = self._finish_reason(sequence, path, token) if flag else None
            if reason:
                self.scheduler.finish(sequence)
                finished.append(self._generation(path, reason))
        return finished

    def _finish_reason(self, sequence: SequenceState, path: _Path, token: int) -> str | None:
        if token in self.config.eos_ids and not path.request.params.ignore_eos:
            return "eos"
        if path.stops is not None and path.stops.found(path.drawn, 0):
            return "stop"
        if self._watch is not None:
            word = self._watch.verdict(path.request.name, path.sample_index, path.drawn)
            if word:
                return word
        return "length" if len(path.drawn) >= sequence.max_tokens else None

    def _generation(self, path: _Path, reason: str) -> Generation:
        drawn = path.drawn
        text = self.tokenizer.decode(drawn[:-1] if reason == "eos" else drawn)
        if path.request.params.stop:
            text = cut(text, path.request.params.stop)
        return Generation(path.request.name, path.sample_index, text, tuple(drawn), tuple(path.logprobs), reason)

    @property
    def dtype(self) -> str:
        """What the model is computed in: bfloat16 or float32; with the layers' products in float8, that and "+fp8"; with keys
        and values in float8, that and "+kv-fp8"."""
        name, quantization = str(self.decoder.dtype).removeprefix("torch."), self.decoder.ops.quantization
        return name + fp8.marks(quantization, None if self.kv_scales is None else "fp8")

    @property
    def stats(self) -> Stats:
        return self._meter.stats()


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """``auto``: bf16 on GPUs and on CPUs that multiply it natively, else float32."""
    if dtype == "auto":
        fast = device.type != "cpu" or operations.native.multiplies_bf16()
        return torch.bfloat16 if fast else torch.float32
    if dtype not in _DTYPES:
        raise UserError(f"unknown dtype '{dtype}': choose auto, bf16 or float32")
    return _DTYPES[dtype]
