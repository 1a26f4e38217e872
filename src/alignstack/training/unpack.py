"""One ONNX file of the embedded runtime → a checkpoint folder that trainers can start from: the inverse of `export`.

The weights are the file's own, int8 times scale, so the folder answers exactly as the shipped file does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignstack.core.errors import DataError, NotFound
from alignstack.models.embedded import ASSETS, SHIPPED
from alignstack.store.home import home
from alignstack.training import chat, lineage, trainer
from alignstack.training.export import difference

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-2
"""Largest difference allowed between a logit of the folder and of the file; both compute in float32."""


def shipped(name: str) -> Path:
    """The folder of a checkpoint that ships in the package, made on first use. Raises NotFound, DataError."""
    file = ASSETS / f"{name}.onnx"
    if not file.is_file():
        raise NotFound("embedded checkpoint", name, SHIPPED)
    folder = home() / "checkpoints" / f"{name}-{lineage.sha256(file)[:12]}"
    if not (folder / lineage.FILE).is_file():
        unpack(file, folder)
    return folder


def unpack(file: Path, out: Path) -> Path:
    """Write the checkpoint folder of an exported file. Raises DataError when the file is no such export."""
    import onnx

    try:
        proto = onnx.load(file)
        facts = {entry.key: entry.value for entry in proto.metadata_props}
        weights = matrices(proto)
        context, heads = int(facts["context"]), proto.graph.input[1].type.tensor_type.shape.dim[1].dim_value
        ancestors = tuple(json.loads(facts["lineage"]))
        model = _model(weights, context, heads)
    except Exception as error:  # onnx and a damaged file fail in many ways
        raise DataError(f"{str(file)!r} is no export of `alignstack.training.export`: {error}") from None
    if (gap := difference(file, model)) > TOLERANCE:
        raise DataError(f"{str(file)!r}: unpacked logits differ by {gap:.3f} (limit {TOLERANCE})")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    trainer.save(model, chat.tokenizer(file.with_name("tokenizer.json")), part)
    lineage.write(
        part, stage=facts["stage"], method="unpacked", parent=None, recipe=file, data=[], seed=0, tokens=0, seconds=0.0,
        ancestors=ancestors,
    )  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return out


def matrices(proto: ModelProto) -> list[np.ndarray]:
    """Float weights in the order in which `export.Graph` writes them: the matrices (int8 times scale) and the gains of
    the norms, among one another as the graph computes them."""
    from onnx import numpy_helper

    constants = {entry.name: numpy_helper.to_array(entry) for entry in proto.graph.initializer}
    codes = {n.output[0]: constants[n.input[0]] for n in proto.graph.node if n.op_type == "Cast"}
    found = []
    for node in proto.graph.node:
        if node.op_type != "Mul" or node.input[1] not in constants:
            continue
        gain = constants[node.input[1]]
        if node.input[0] in codes:
            found.append(codes[node.input[0]].astype(np.float32) * gain)
        elif gain.ndim == 1:
            found.append(gain)
    return found


def _model(found: list[np.ndarray], context: int, heads: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    table, *blocks, last = found
    layers, hidden = len(blocks) // 6, table.shape[1]
    config = LlamaConfig(
        vocab_size=table.shape[0], hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=blocks[5].shape[0], max_position_embeddings=context,
        tie_word_embeddings=True, pad_token_id=chat.SPECIAL.index(chat.PAD),
        eos_token_id=chat.SPECIAL.index(chat.END), bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    weights = {"model.embed_tokens.weight": table, "lm_head.weight": table, "model.norm.weight": last}
    for i in range(layers):
        weights |= _block(f"model.layers.{i}.", *blocks[6 * i : 6 * i + 6])
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    return model


def _block(at: str, norm: Any, qkv: Any, o: Any, norm2: Any, gate_up: Any, down: Any) -> dict[str, np.ndarray]:
    """Matrices lie in the file as [in, out], side by side where they share an input."""
    q, k, v = np.split(qkv.T, 3)
    gate, up = np.split(gate_up.T, 2)
    return {
        f"{at}input_layernorm.weight": norm,
        f"{at}self_attn.q_proj.weight": q,
        f"{at}self_attn.k_proj.weight": k,
        f"{at}self_attn.v_proj.weight": v,
        f"{at}self_attn.o_proj.weight": o.T,
        f"{at}post_attention_layernorm.weight": norm2,
        f"{at}mlp.gate_proj.weight": gate,
        f"{at}mlp.up_proj.weight": up,
        f"{at}mlp.down_proj.weight": down.T,
    }


def main() -> None:
    """`python -m alignstack.training.unpack FILE.onnx OUT`."""
    import argparse

    parser = argparse.ArgumentParser(description="Write the checkpoint folder of an exported ONNX file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    try:
        print(unpack(args.file, args.out))
    except DataError as error:
        parser.exit(DataError.exit_code, f"{error}\n")


if __name__ == "__main__":
    main()
