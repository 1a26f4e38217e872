"""From stack.yaml to a `Stack`, or to every problem in it at once."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from alignstack import policy as policies
from alignstack.core.errors import AlignstackError, ConfigError, NotFound, Problem, nearest
from alignstack.core.judge import Judge
from alignstack.core.layer import Layer, LayerInfo, Scope
from alignstack.core.ports import ModelClient, Sampling
from alignstack.engine import registry
from alignstack.engine.keys import JudgeKeys, LayerKeys, ModelKeys, StackKeys
from alignstack.engine.stack import WEIGHTS, Placed, Stack, in_order
from alignstack.policy import Policy
from alignstack.policy.strict import expand_env, join, load_yaml, problems

BUILTIN = Path(__file__).with_name("builtin.yaml")
"""The built-in stack, to read and to copy from."""

BUILTIN_SOURCE = "built-in"

K = TypeVar("K", bound=BaseModel)


def load_stack(path: Path | str | None = None) -> Stack:
    """The stack in a file; None (or the `source` of the built-in stack) gives the built-in one. Raises ConfigError
    that lists every problem found in the stack file and in the policy file it names."""
    builtin = path is None or str(path) == BUILTIN_SOURCE
    file = BUILTIN if builtin else Path(path or "")
    written = load_yaml(file)
    loading = _Loading(file=BUILTIN_SOURCE if builtin else str(file), base=file.resolve().parent)
    stack = loading.stack(written)
    if stack is None or loading.problems or loading.unset:
        raise ConfigError(loading.distinct())
    source = BUILTIN_SOURCE if builtin else str(file.resolve())
    return replace(stack, source=source, config=written, fingerprint=_fingerprint(stack, written))


def _fingerprint(stack: Stack, written: Mapping[str, Any]) -> str:
    """SHA-256 over the file as written (`${NAME}` unexpanded, so no secret enters, and without the place of the policy
    or of any absolute path, and without the gateway's settings) and over the versions of everything it led to."""
    models = [stack.model.version, stack.reference.version if stack.reference else None]
    layers = [[placed.name, placed.info.version] for placed in stack.layers]
    judges = [[judge.name, judge.version] for judge in stack.judges]
    config = {key: _without_places(value) for key, value in written.items() if key not in ("policy", "serve")}
    parts = [config, layers, models, judges, stack.policy.fingerprint]
    return sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str).encode()).hexdigest()


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


@dataclass(kw_only=True)
class _Loading:
    """One file being read; problems pile up instead of ending it."""

    file: str
    base: Path
    problems: list[Problem] = field(default_factory=list)
    unset: list[Problem] = field(default_factory=list)
    """Variables that the environment lacks. What else is wrong with the values they stand in follows from that."""

    def distinct(self) -> list[Problem]:
        """One problem a place, of several the last, which knows most."""
        last = {problem.where: problem for problem in self.problems}
        return [*self.unset, *(last[where] for where in last if where not in {one.where for one in self.unset})]

    def stack(self, written: Any) -> Stack | None:
        data = self._expanded(written)
        keys = self._keys(StackKeys, data, "", StackKeys.model_fields)
        policy = self._policy(data)
        model, reference = self._models(_mapping(data, "model"))
        layers = self._layers(_list(data, "layers"), policy)
        judges = self._judges(data.get("judge") if isinstance(data, Mapping) else None, policy)
        if model is not None:
            self._independent(judges, model, reference)
        if keys is None or policy is None or model is None or self.problems:
            return None
        weights = Placed(layer=None, info=_weights(model, data["model"]["use"], policy), where=self._where("model"))
        return Stack(
            layers=in_order(layers, weights),
            model=model,
            reference=reference,
            judges=tuple(judge for _, judge in judges),
            policy=policy,
            sampling=Sampling(**keys.sampling.model_dump()),
            race=keys.race,
            streaming=keys.streaming,
            window=keys.window,
            refusal=keys.refusal or policies.render.refusal(policy, None),
            on_block=keys.on_block,
        )

    def _where(self, at: str) -> str:
        return f"{self.file}: {at}" if at else self.file

    def _problem(self, at: str, what: str) -> None:
        self.problems.append(Problem(where=self._where(at), what=what))

    def _expanded(self, written: Any) -> Any:
        try:
            return expand_env(written, self.file)
        except ConfigError as error:
            self.unset += error.problems
            return written

    def _keys(self, model: type[K], data: Any, at: str, known: Iterable[str]) -> K | None:
        """`data` as one of our own models or a plugin's `Config`; unknown keys are compared with `known`, which are
        all that may stand here."""
        if not isinstance(data, Mapping):
            self._problem(at, "should be a mapping (`key: value` lines)")
            return None
        valid = {key: value for key, value in data.items() if key in model.model_fields}
        for key in data:
            if key not in known:
                self._problem(join(at, str(key)), f"unknown key{nearest(str(key), known)}")
        try:
            return model.model_validate(valid)
        except ValidationError as error:
            self.problems += problems(error, self.file, model, at)
            return None

    def _policy(self, data: Any) -> Policy | None:
        path = data.get("policy") if isinstance(data, Mapping) else None
        try:
            return policies.load(self.base / path if isinstance(path, str) else None)
        except ConfigError as error:
            self.problems += error.problems
            return None

    def _plugin(self, group: registry.Group, use: Any, at: str) -> Any:
        """The class that `use` names."""
        if not isinstance(use, str):
            self._problem(join(at, "use"), f"missing; valid: {', '.join(registry.names(group))}")
            return None
        try:
            plugin = registry.find(group, use)
        except NotFound as error:
            self._problem(join(at, "use"), str(error))
            return None
        if plugin.loaded is None:
            self._problem(join(at, "use"), f"{use!r} from {plugin.distribution!r} does not load: {plugin.error}")
        return plugin.loaded

    def _configured(self, group: registry.Group, data: Any, at: str, common: type[BaseModel]) -> Any:
        """The class that `data` asks for and its validated `Config`; None when anything is wrong with them."""
        if not isinstance(data, Mapping):
            self._problem(at, "should be a mapping (`key: value` lines)")
            return None
        kind = self._plugin(group, data.get("use"), at)
        if kind is None:
            return None
        own = {key: value for key, value in data.items() if key not in common.model_fields}
        config = self._keys_of_plugin(kind, own, at, common)
        return None if config is None else (kind, config)

    def _started(self, configured: Any, at: str, **given: Any) -> Any:
        """The layer, model or judge itself; None when it refuses to start."""
        if configured is None:
            return None
        kind, config = configured
        try:
            return kind(config, base=self.base, **given)
        except ConfigError as error:
            self.problems += [self._placed(problem, at) for problem in error.problems]
        except AlignstackError as error:
            self._problem(at, str(error))
        except OSError as error:
            self._problem(at, f"{error.filename or 'file'}: {error.strerror or error}")
        except Exception as error:  # a plugin may refuse its configuration in any way
            self._problem(at, f"{kind.__name__} does not start: {type(error).__name__}: {error}")
        return None

    def _keys_of_plugin(self, kind: Any, own: Mapping[str, Any], at: str, common: type[BaseModel]) -> BaseModel | None:
        model: type[BaseModel] = kind.Config
        before = len(self.problems)
        aliases = [entry.alias for entry in model.model_fields.values() if entry.alias]
        known = {*model.model_fields, *aliases, *common.model_fields}
        config = self._keys(model, own, at, known)
        return config if len(self.problems) == before else None

    def _placed(self, problem: Problem, at: str) -> Problem:
        """A plugin's own problem, under our path unless it is about another file."""
        if problem.where.startswith(self.file) or "/" in problem.where:
            return problem
        key = problem.where.rpartition(": ")[2]  # plugins write `layer 'name': key`
        return replace(problem, where=self._where(join(at, key) if key else at))

    def _models(self, data: Mapping[str, Any]) -> tuple[ModelClient | None, ModelClient | None]:
        if not data:
            return None, None
        self._keys(ModelKeys, {key: data[key] for key in data if key in ModelKeys.model_fields}, "model", list(data))
        configured = self._configured("models", data, "model", ModelKeys)
        model = self._started(configured, "model")
        reference = data["reference"] if "reference" in data else _default_reference(configured)
        if reference is None:
            return model, None
        if isinstance(reference, Mapping) and "reference" in reference:
            self._problem("model.reference.reference", "a reference has none of its own")
        other = self._configured("models", reference, "model.reference", ModelKeys)
        return model, self._started(other, "model.reference")

    def _layers(self, rows: list[Any], policy: Policy | None) -> list[Placed]:
        found: list[Placed] = []
        seen: dict[str, str] = {WEIGHTS: "the weights"}
        for index, row in enumerate(rows):
            at = f"layers[{index}]"
            if not isinstance(row, Mapping):
                continue  # reported with the top-level keys
            keys = self._keys(LayerKeys, row, at, list(row))
            name = row.get("name") or row.get("use")
            if isinstance(name, str):
                if name in seen:
                    self._problem(join(at, "name"), f"{name!r} is {seen[name]} already; give this one another `name`")
                seen.setdefault(name, at)
            placed = self._layer(row, keys, at, policy) if policy else None
            found += [placed] if placed else []
        return found

    def _layer(self, row: Mapping[str, Any], keys: LayerKeys | None, at: str, policy: Policy) -> Placed | None:
        for index, hazard in enumerate(_list(row, "hazards")):
            if isinstance(hazard, str) and hazard not in policy.hazards:
                self._problem(
                    join(join(at, "hazards"), index), f"no hazard {hazard!r}{nearest(hazard, policy.hazards)}"
                )
        hazards = frozenset(keys.hazards) if keys and keys.hazards is not None else None
        given = {
            "name": str(row.get("name") or row.get("use")),
            "phase": keys.phase if keys else None,
            "hazards": hazards,
            "policy": policy,
        }
        layer: Layer | None = self._started(self._configured("layers", row, at, LayerKeys), at, **given)
        if layer is None or keys is None:
            return None
        if keys.max_chars and layer.info.kind == "modifier":
            self._problem(join(at, "max_chars"), "only for layers that judge; this one changes what others see")
        return Placed(
            layer=layer,
            info=_scoped(layer.info, hazards, keys.max_chars, policy),
            mode=keys.mode,
            on_error=keys.on_error,
            timeout_s=keys.timeout_ms / 1000,
            threshold=layer.info.threshold,
            where=self._where(at),
        )

    def _judges(self, data: Any, policy: Policy | None) -> list[tuple[str, Judge]]:
        if data is None or policy is None:
            return []
        rows = [("judge", data)] if isinstance(data, Mapping) else []
        if isinstance(data, list):
            rows = [(f"judge[{index}]", row) for index, row in enumerate(data) if isinstance(row, Mapping)]
        made = [(at, self._judge(row, at, policy)) for at, row in rows]
        return [(at, judge) for at, judge in made if judge is not None]

    def _judge(self, row: Mapping[str, Any], at: str, policy: Policy) -> Judge | None:
        keys = self._keys(JudgeKeys, row, at, list(row))
        judge: Judge | None = self._started(self._configured("judges", row, at, JudgeKeys), at, policy=policy)
        if judge is not None and keys is not None and keys.name is not None:
            judge.name = keys.name
        return judge

    def _independent(self, judges: list[tuple[str, Judge]], model: ModelClient, other: ModelClient | None) -> None:
        """A judge must not be what it judges, and opinions are kept by the judge's name."""
        versions = {model.version} | ({other.version} if other else set())
        names: set[str] = set()
        for at, judge in judges:
            if getattr(judge, "model_version", None) in versions:
                self._problem(at, "judges with the model under test; use another model or another kind of judge")
            if judge.name in names:
                self._problem(at, f"a second judge named {judge.name!r}; give this one another `name`")
            names.add(judge.name)


def _mapping(data: Any, key: str) -> Mapping[str, Any]:
    value = data.get(key) if isinstance(data, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def _list(data: Any, key: str) -> list[Any]:
    value = data.get(key) if isinstance(data, Mapping) else None
    return value if isinstance(value, list) else []


def _default_reference(configured: Any) -> Mapping[str, Any] | None:
    """The checkpoint that the model's own class names as its unaligned parent."""
    kind, config = configured or (None, None)
    choose = getattr(kind, "default_reference", None)
    return choose(config) if choose else None


def _scoped(info: LayerInfo, hazards: frozenset[str] | None, max_chars: int | None, policy: Policy) -> LayerInfo:
    """The layer's own scope, narrowed by what the stack file declares and the policy allows. A layer whose verdicts
    hang on who asks, not on what is asked, covers no hazard unless the file says so."""
    limits = [limit for limit in (info.scope.max_chars, max_chars) if limit is not None]
    own = frozenset[str]() if info.stateful and info.scope.hazards is None else info.scope.hazards
    scope = Scope(
        hazards=own if hazards is None else hazards,
        allowed=_allowed(info.name, policy),
        max_chars=min(limits, default=None),
    )
    return replace(info, scope=scope)


def _allowed(name: str, policy: Policy) -> frozenset[str]:
    return frozenset(policy.hazards) - policy.covered(name)


def _weights(model: ModelClient, use: str, policy: Policy) -> LayerInfo:
    return LayerInfo(
        name=WEIGHTS,
        use=use,
        phases=("model",),
        kind="modifier",
        version=model.version,
        side="training",
        scope=Scope(allowed=_allowed(WEIGHTS, policy)),
    )
