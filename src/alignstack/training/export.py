"""Checkpoint → one ONNX file that the runtime (`alignstack.models.embedded`) runs without torch.

The graph is written out by hand, operator by operator, so it depends on no exporter. Weights lie in the file as int8
with one float scale an output channel and are turned into float32 when the file is loaded: the file is a quarter of
the size, and the arithmetic is ordinary float32, whose results do not depend on which int8 instructions a CPU has.

Inputs: `ids` [1, T]; `past_k.i`, `past_v.i` [1, heads, P, head size] for each layer i. Outputs: `logits` [1, vocab] of
the last position, and `k.i`, `v.i` of length P + T.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignstack.core.errors import DataError
from alignstack.training import lineage, trainer

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto, ValueInfoProto

OPSET, IR = 18, 9
TOLERANCE = 0.8
"""Largest difference allowed between a logit of the file and of the checkpoint; int8 weights cost 0.05 to 0.2, after
preference losses, which drive logits apart, up to 0.5. A wrong graph is off by several."""


def run(checkpoint: Path, out: Path) -> Path:
    """Write `out/NAME.onnx` and `out/tokenizer.json`, NAME being the stage's name, and check the logits against the
    checkpoint. Returns the ONNX file. Raises DataError when they differ or the tokenizer there is another one."""
    import onnx

    stage = lineage.read(checkpoint)
    model, _ = trainer.load(checkpoint)
    file = out / f"{stage.stage}.onnx"
    out.mkdir(parents=True, exist_ok=True)
    _share_tokenizer(checkpoint / "tokenizer.json", out / "tokenizer.json")
    weights = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    proto = Graph(weights, model.config).build()
    known = lineage.weights(checkpoint)
    facts = {"stage": stage.stage, "method": stage.method, "weights": known[-1], "lineage": json.dumps(known)}
    facts["context"] = str(model.config.max_position_embeddings)
    onnx.helper.set_model_props(proto, facts)
    onnx.save(proto, file)
    if (gap := difference(file, model)) > TOLERANCE:
        raise DataError(f"{file.name}: logits differ from the checkpoint by {gap:.2f} (limit {TOLERANCE})")
    return file


def _share_tokenizer(source: Path, target: Path) -> None:
    if target.exists() and target.read_bytes() != source.read_bytes():
        raise DataError(f"{str(target)!r} belongs to other checkpoints; export to another folder")
    shutil.copyfile(source, target)


def difference(file: Path, model: Any) -> float:
    """Largest absolute logit difference, over every prefix of a fixed sequence of ids, in one pass each."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(5, model.config.vocab_size, (1, 24))
    with torch.no_grad():
        wanted = model(input_ids=torch.from_numpy(ids)).logits[0].float().numpy()
    past = empty_past(session)
    gaps = []
    for t in range(ids.shape[1]):
        logits, *present = session.run(None, {"ids": ids[:, t : t + 1], **past})
        past = dict(zip(past, present, strict=True))
        gaps.append(float(np.abs(logits[0] - wanted[t]).max()))
    return max(gaps)


def empty_past(session: Any) -> dict[str, np.ndarray]:
    """The cache before the first token."""
    inputs = [value for value in session.get_inputs() if value.name != "ids"]
    return {value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32) for value in inputs}


class Graph:
    """Collects nodes and constants; method names are the parts of a Llama block."""

    def __init__(self, weights: dict[str, np.ndarray], config: Any) -> None:
        self.weights, self.config = weights, config
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.heads = config.num_attention_heads
        self.size = config.hidden_size // self.heads

    def build(self) -> Any:
        """The whole model."""
        from onnx import TensorProto, helper

        layers, eps = range(self.config.num_hidden_layers), self.config.rms_norm_eps
        self.eps = self.constant(np.float32(eps))
        table = self.quantised(self.weights["model.embed_tokens.weight"].T, transpose=True)
        self.positions()
        x = self.op("Gather", table, "ids", axis=0)
        outputs: list[ValueInfoProto] = []
        for i in layers:
            x = self.op("Add", x, self.attention(i, self.norm(x, f"model.layers.{i}.input_layernorm.weight")))
            x = self.op("Add", x, self.mlp(i, self.norm(x, f"model.layers.{i}.post_attention_layernorm.weight")))
        last = self.op("Gather", x, self.constant(np.int64(-1)), axis=1)
        self.op("Gemm", self.norm(last, "model.norm.weight"), table, transB=1, out="logits")
        shape = [1, self.heads, "P", self.size]
        cache = [f"{kind}.{i}" for i in layers for kind in ("k", "v")]
        inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "T"])]
        inputs += [helper.make_tensor_value_info(f"past_{name}", TensorProto.FLOAT, shape) for name in cache]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, self.config.vocab_size])]
        grown = [1, self.heads, "PT", self.size]
        outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, grown) for name in cache]
        graph = helper.make_graph(self.nodes, "llama", inputs, outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        from onnx import helper

        out = out or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def split(self, x: str, sizes: list[int]) -> list[str]:
        """Cut the last axis."""
        from onnx import helper

        names = [f"n{len(self.nodes)}.{i}" for i in range(len(sizes))]
        inputs = [x, self.constant(np.array(sizes, np.int64))]
        self.nodes.append(helper.make_node("Split", inputs, names, axis=-1))
        return names

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def quantised(self, matrix: np.ndarray, transpose: bool = False) -> str:
        """`matrix` [in, out] as int8 with a scale for each output channel: scale = max |w| / 127."""
        scale = np.maximum(np.abs(matrix).max(axis=0, keepdims=True), 1e-8) / 127
        codes = np.rint(matrix / scale).astype(np.int8)
        codes, scale = (codes.T, scale.T) if transpose else (codes, scale)
        floats = self.op("Cast", self.constant(np.ascontiguousarray(codes)), to=1)
        return self.op("Mul", floats, self.constant(np.ascontiguousarray(scale, dtype=np.float32)))

    def linear(self, x: str, *names: str) -> str:
        """x @ W for one or several weights side by side."""
        return self.op("MatMul", x, self.quantised(np.concatenate([self.weights[name] for name in names]).T))

    def norm(self, x: str, name: str) -> str:
        """RMSNorm (Zhang & Sennrich 2019)."""
        square = self.op("ReduceMean", self.op("Mul", x, x), self.constant(np.array([-1])), keepdims=1)
        scaled = self.op("Div", x, self.op("Sqrt", self.op("Add", square, self.eps)))
        return self.op("Mul", scaled, self.constant(self.weights[name]))

    def positions(self) -> None:
        """Rotary tables of the new positions, and the causal mask [T, P + T]."""
        one, zero = self.constant(np.int64(1)), self.constant(np.int64(0))
        past = self.op("Gather", self.op("Shape", "past_k.0"), self.constant(np.int64(2)))
        end = self.op("Add", past, self.op("Gather", self.op("Shape", "ids"), one))
        new, everything = self.op("Range", past, end, one), self.op("Range", zero, end, one)
        angles = np.outer(np.arange(self.config.max_position_embeddings), self.frequencies()).astype(np.float32)
        self.cos = self.op("Gather", self.constant(np.cos(angles)), new)
        self.sin = self.op("Gather", self.constant(np.sin(angles)), new)
        rows = self.op("Unsqueeze", new, self.constant(np.array([1])))
        self.mask = self.op(
            "Where", self.op("GreaterOrEqual", rows, everything), self.constant(np.float32(0)),
            self.constant(np.float32(-1e9)),
        )  # fmt: skip

    def frequencies(self) -> np.ndarray:
        """Rotary embedding (Su et al. 2021): theta^(-2i/d)."""
        theta = float(self.config.rope_parameters["rope_theta"])
        return 1.0 / theta ** (np.arange(0, self.size, 2, dtype=np.float64) / self.size)

    def rotary(self, x: str) -> str:
        a, b = self.split(x, [self.size // 2] * 2)
        first = self.op("Sub", self.op("Mul", a, self.cos), self.op("Mul", b, self.sin))
        second = self.op("Add", self.op("Mul", b, self.cos), self.op("Mul", a, self.sin))
        return self.op("Concat", first, second, axis=-1)

    def attention(self, i: int, x: str) -> str:
        at = f"model.layers.{i}.self_attn"
        qkv = self.linear(x, f"{at}.q_proj.weight", f"{at}.k_proj.weight", f"{at}.v_proj.weight")
        q, k, v = (self.by_head(part) for part in self.split(qkv, [self.config.hidden_size] * 3))
        k = self.op("Concat", f"past_k.{i}", self.rotary(k), axis=2, out=f"k.{i}")
        v = self.op("Concat", f"past_v.{i}", v, axis=2, out=f"v.{i}")
        q = self.op("Mul", self.rotary(q), self.constant(np.float32(self.size**-0.5)))
        scores = self.op("Add", self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2])), self.mask)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        rows = self.op("Transpose", mixed, perm=[0, 2, 1, 3])
        joined = self.op("Reshape", rows, self.constant(np.array([1, -1, self.config.hidden_size])))
        return self.linear(joined, f"{at}.o_proj.weight")

    def by_head(self, x: str) -> str:
        """[1, T, hidden] → [1, heads, T, head size]."""
        shaped = self.op("Reshape", x, self.constant(np.array([1, -1, self.heads, self.size])))
        return self.op("Transpose", shaped, perm=[0, 2, 1, 3])

    def mlp(self, i: int, x: str) -> str:
        """SwiGLU (Shazeer 2020)."""
        at, wide = f"model.layers.{i}.mlp", self.config.intermediate_size
        gate, up = self.split(self.linear(x, f"{at}.gate_proj.weight", f"{at}.up_proj.weight"), [wide, wide])
        swish = self.op("Mul", gate, self.op("Sigmoid", gate))
        return self.linear(self.op("Mul", swish, up), f"{at}.down_proj.weight")


def main() -> None:
    """`python -m alignstack.training.export CHECKPOINT OUT`."""
    import argparse

    parser = argparse.ArgumentParser(description="Write a checkpoint as an ONNX file for `use: embedded`.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    try:
        print(run(args.checkpoint, args.out))
    except DataError as error:
        parser.exit(DataError.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
