"""Several processes: the shared pass runs through the wrapped model, so gradients are averaged as in the stock pass."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from child import prepared

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")
PATIENCE = 120  # seconds


def gradient(rank: int, world: int, folder: Path, out: Path) -> None:
    """One process's gradient of its own rows' loss, averaged by DistributedDataParallel; written to `out`."""
    import torch.distributed as processes
    from test_shared import batch, decoder_of, model_of
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    there, patience = f"file://{out / 'meeting'}", timedelta(seconds=2 * PATIENCE)
    processes.init_process_group("gloo", init_method=there, rank=rank, world_size=world, timeout=patience)
    torch.manual_seed(0)
    model = model_of(folder, lora=True)
    decoder_of(model)
    wrapped = DistributedDataParallel(model)
    ids, mask, width = batch([[4, 1], [3, 2]])
    rows = slice(2 * rank, 2 * rank + 2)
    for _ in range(2):  # a second pass waits in vain if the first was not seen by the wrapper
        model.zero_grad()
        wrapped(shared_pass=(ids[rows], mask[rows], width, 1.0))[0].sum().backward()
    torch.save({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, out / f"{rank}.pt")
    processes.destroy_process_group()


@pytest.mark.timeout(6 * PATIENCE)
def test_two_processes_average_their_gradients(tiny_model: Path, tmp_path: Path) -> None:
    from test_shared import batch, decoder_of, model_of

    given = {"args": (2, tiny_model, tmp_path), "nprocs": 2, "start_method": prepared().get_start_method()}
    both = torch.multiprocessing.start_processes(gradient, **given, join=False, daemon=True)
    assert any(both.join(PATIENCE) for _ in range(4)), "one of them does not end"  # each call waits for the next one to end
    torch.manual_seed(0)
    model = model_of(tiny_model, lora=True)
    decoder_of(model)
    ids, mask, width = batch([[4, 1], [3, 2]])
    (model(shared_pass=(ids, mask, width, 1.0))[0].sum() / 2).backward()
    wanted: dict[str, Any] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == wanted.keys()
        assert all(torch.allclose(found[n], wanted[n], atol=1e-5) for n in wanted)
