"""Folders as training leaves them: whole weights are read, pieces are refused with the command that joins them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

import cli
from analysis.errors import NoWeights
from cache.weights.repository import layout
from tests.comparing import Tensors, compared, exact, in_torch, moved, truth
from tests.hub.builders import llama, safetensors_bytes, write_model

pytestmark = pytest.mark.usefixtures("terminal", "children_at_hand")


def pair(tmp_path: Path):
    base = in_torch(llama())
    tuned, changed = moved(base)
    return write_model(tmp_path / "base", base), tuned, changed


@pytest.mark.processes
def test_a_checkpoint_of_the_trainer_is_read_by_its_folder(tmp_path: Path):
    """Weights beside the optimizer's state and DeepSpeed's pieces, which are ignored."""
    base, tuned, changed = pair(tmp_path)
    folder = write_model(tmp_path / "run" / "checkpoint-500", tuned)
    torch.save({"state": {0: torch.zeros(3)}}, folder / "optimizer.pt")
    (folder / "global_step500").mkdir()
    torch.save({}, folder / "global_step500" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (folder / "latest").write_text("global_step500")
    assert exact(compared(tmp_path, base, folder)) == truth(changed)


def test_the_folder_above_lists_its_checkpoints_in_order(tmp_path: Path, capsys: pytest.CaptureFixture):
    base, tuned, _ = pair(tmp_path)
    for place in ("checkpoint-1000", "checkpoint-500", "global_step_100/actor/huggingface"):
        write_model(tmp_path / "run" / place, tuned)
    assert cli.main(["compare", str(base), str(tmp_path / "run")]) == 5
    said = capsys.readouterr().err
    assert "the weights lie in folders: checkpoint-500, checkpoint-1000, global_step_100/actor/huggingface" in said
    assert "Put the folder's name behind the model's" in said


def save_in_pieces(tensors: Tensors, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        dcp.save({"model": tensors}, checkpoint_id=folder, no_dist=True)


def command_in(said: str) -> list[str]:
    """The command that a message tells, up to its end."""
    return said.split("Put them together with: ")[1].split(";")[0].rstrip(".\n").split()


def run(command: list[str], at: Path, out: str) -> None:
    command = [word.replace("OUT", out) for word in command]
    if command[0] == "python":
        command[0] = sys.executable
    else:
        command[0] = str(Path(sys.executable).with_name(command[0]))
    subprocess.run(command, cwd=at, check=True, capture_output=True, timeout=200)


def test_a_distributed_checkpoint_is_refused_and_its_command_makes_it_comparable(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    base, tuned, changed = pair(tmp_path)
    save_in_pieces(tuned, tmp_path / "run" / "step-7")
    assert cli.main(["compare", str(base), str(tmp_path / "run")]) == 5
    said = capsys.readouterr().err
    assert "a distributed checkpoint of PyTorch (DCP), in pieces (in step-7)" in said
    (tmp_path / "whole").mkdir()
    run(command_in(said), tmp_path / "run", str(tmp_path / "whole"))
    report = compared(tmp_path, base, tmp_path / "whole", "--allow-pickles")
    assert exact(report) == truth(changed)


def test_accelerates_pieces_are_refused_and_its_command_makes_them_comparable(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    base, tuned, changed = pair(tmp_path)
    save_in_pieces(tuned, tmp_path / "run" / "pytorch_model_fsdp_0")
    assert cli.main(["compare", str(base), str(tmp_path / "run")]) == 5
    said = capsys.readouterr().err
    assert "accelerate merge-weights pytorch_model_fsdp_0/ OUT" in said
    run(command_in(said), tmp_path / "run", str(tmp_path / "whole"))
    assert exact(compared(tmp_path, base, tmp_path / "whole")) == truth(changed)


PIECES = {
    "DeepSpeed": (
        ["latest", "zero_to_fp32.py", "global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt"],
        "DeepSpeed's ZeRO checkpoint, in pieces. Expected: Weights are read from whole files. "
        "Put them together with: python ./zero_to_fp32.py ./ OUT --safe_serialization.",
    ),
    "DeepSpeed below": (
        ["checkpoint-5/global_step5/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"],
        "python checkpoint-5/zero_to_fp32.py checkpoint-5/ OUT --safe_serialization",
    ),
    "DeepSpeed, ZeRO 1": (["global_step5/mp_rank_00_model_states.pt"], "python ./zero_to_fp32.py ./ OUT"),
    "one step of DeepSpeed": (["mp_rank_00_model_states.pt"], "in the folder above, which has that script"),
    "verl": (
        ["global_step_9/actor/model_world_size_8_rank_0.pt", "global_step_9/actor/optim_world_size_8_rank_0.pt"],
        "python -m verl.model_merger merge --backend fsdp --local_dir global_step_9/actor/ --target_dir OUT",
    ),
    "verl with Megatron": (
        ["actor/dist_ckpt/__0_0.distcp", "actor/huggingface/config.json"],
        "python -m verl.model_merger merge --backend megatron --local_dir actor/ --target_dir OUT",
    ),
    "Megatron": (
        ["latest_checkpointed_iteration.txt", "iter_0000100/mp_rank_00/model_optim_rng.pt"],
        "Megatron's checkpoint, in pieces (in iter_0000100). Expected: Weights are read from whole files. Export it",
    ),
    "Megatron, distributed": (["iter_0000100/__0_0.distcp", "iter_0000100/.metadata"], "Megatron's checkpoint"),
    "DCP": ([".metadata", "__0_0.distcp", "__1_0.distcp"], "dcp_to_torch ./ OUT/pytorch_model.bin; then set SUBNET"),
    "Orbax": (["_CHECKPOINT_METADATA", "params/manifest.ocdbt"], "a checkpoint of Orbax (JAX)"),
}


@pytest.mark.parametrize(("names", "words"), PIECES.values(), ids=PIECES.keys())
def test_pieces_are_refused_with_the_command_that_joins_them(names: list[str], words: str):
    with pytest.raises(NoWeights) as refused:
        layout(["config.json", "trainer_state.json", *names], None)
    assert words in str(refused.value)


@pytest.mark.parametrize("copy", ["consolidated.safetensors", "model-extra.safetensors"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("with_index", [True, False])
def test_a_second_copy_of_the_weights_is_not_counted_and_said(copy: str, shards: int, with_index: bool, tmp_path: Path):
    """Mistral's: the same weights under other names beside those of transformers, with an index or without."""
    base, tuned, changed = pair(tmp_path)
    folder = write_model(tmp_path / "tuned", tuned, shards=shards)
    if not with_index:
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    other_names = {
        name.replace("model.layers", "layers").replace("self_attn", "attention"): t for name, t in tuned.items()
    }
    (folder / copy).write_bytes(safetensors_bytes(other_names))
    report = compared(tmp_path, base, folder)
    assert exact(report) == truth(changed)
    assert report["coverage"]["tuned_parameters"] == truth(changed)[1]
    [left] = report["coverage"]["not_compared"]
    holds = "model.safetensors holds" if shards == 1 else "3 others hold"
    assert (left["name"], left["side"]) == (copy, "tuned")
    assert left["reason"] == f"a file that is not read: {holds} the weights; not a parameter"
