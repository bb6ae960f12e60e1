"""Ranks: the processes of one run, and what they tell each other.

Imports no torch until a run meets its ranks, since the process that launches them passes through here.
"""

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tuneoff.distributed.launch import get_world_size
from tuneoff.record import describe_error

if TYPE_CHECKING:
    from tuneoff.measure.memory_peaks import PhasePeaks

# Longer than any export or download by one rank, for which the others wait; whoever started them ends the lost ones.
PATIENCE = timedelta(hours=12)
STORE_TIMEOUT = timedelta(seconds=5)
MEETING_TIMEOUT = timedelta(minutes=5)  # for all ranks to connect to each other
# A launcher that starts all ranks again keeps its store.
FAILURE_KEY = f"tuneoff/failure/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


class RankLost(RuntimeError):
    """Another process of this run has ended without a word."""


class Ranks:
    """The processes of a run, this one among them. A run in one process speaks to itself."""

    def __init__(self, **settings: Any):
        """Meet the other processes; `settings` are the Accelerator's.

        Raises:
            RuntimeError: accelerate did not form the group that was launched.
        """
        self.accelerator = _make_accelerator(settings)
        self.count: int = self.accelerator.num_processes
        self.index: int = self.accelerator.process_index
        self.device = _plain_device(self.accelerator.device)
        if self.count != get_world_size():
            raise RuntimeError(
                f"{get_world_size()} processes were launched, and accelerate has joined {self.count}"
            )
        if self.count > 1:
            self._store = connect_to_store()
            self._host_group = join_hosts()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.index == 0

    def gather(self, item: Any) -> list:
        """Return each process's `item`, in the order of the ranks; all must call. Waits for no device."""
        if self.count == 1:
            return [item]
        from torch.distributed import all_gather_object

        items: list = [None] * self.count
        all_gather_object(items, item, group=self._host_group)
        return items

    def gather_with_peaks(self, item: Any, peaks: "PhasePeaks") -> list:
        """`gather`, and on the way every rank's memory peaks, which are put into `peaks.by_rank`."""
        pairs = self.gather((item, peaks.so_far()))
        peaks.by_rank = [rank_peaks for _, rank_peaks in pairs]
        return [rank_item for rank_item, _ in pairs]

    def gather_generator_states(self) -> list[dict]:
        """The states of all processes' generators, in the order of the ranks: dropout differs between them."""
        import torch

        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return self.gather(states)

    def set_generator_states(self, states: list[dict]) -> None:
        """Go on from what `gather_generator_states` gave, in as many processes as there were."""
        import torch

        own = states[self.index]
        torch.set_rng_state(own["cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], self.device)

    def leave(self) -> None:
        """Part from the other processes; all must call, and speak to each other no more.

        A process that ends in the group may be aborted by Gloo's threads (PyTorch's issue 190489), and its launcher
        then ends the others, though they are not done.
        """
        if self.count == 1:
            return
        from torch.distributed import destroy_process_group

        self.gather(None)  # NCCL's groups are left together
        destroy_process_group()

    def agree_on_failure(self, status: str, caught: BaseException) -> tuple[str, dict]:
        """Return status and error of what went wrong first, on whichever process.

        The others see no more of it than a closed connection, so each asks the store of the group what came first.

        Args:
            status: what `caught`, this process's own error, stands for.
        """
        error = describe_error(caught)
        if self.count == 1:
            return status, error
        from torch.distributed import DistError

        if isinstance(caught, DistError) or "gloo/transport" in str(caught):
            status = "killed"
            error["type"] = RankLost.__name__
            error["message"] = (
                f"another of the {self.count} processes has ended: {error['message']}"
            )
        own = json.dumps([self.index, status, error])
        try:
            first = self._store.compare_set(FAILURE_KEY, "", own)
        except DistError:  # the store went with the first process
            return status, error
        index, status, error = json.loads(first)
        if index != self.index:
            error["message"] = f"rank {index}: {error['message']}"
        return status, error


def _make_accelerator(settings: dict) -> Any:
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import GradientAccumulationPlugin

    # DDP would be told the rank's number for its device, which is another one where each rank is shown its own alone.
    os.environ.setdefault("ACCELERATE_BYPASS_DEVICE_MAP", "true")
    # A test process trains more than once; accelerate keeps the first precision.
    AcceleratorState._reset_state()
    return Accelerator(
        # Without a device accelerate forms no group unless it is told so, and every process trains by itself.
        cpu=get_world_size() > 1 and not torch.cuda.is_available(),
        # A step divides by its label tokens itself. Left open, `accelerate launch` with a gradient_accumulation_steps
        # of its own would have every gradient divided by that once more, unseen.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[
            # Gradients lie in the buckets that are sent, instead of beside them.
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
        **settings,
    )


def _plain_device(device: Any) -> Any:
    """The device of a rank; a CPU has the same name in a group (where accelerate says cpu:1) as alone."""
    import torch

    return torch.device("cpu") if device.type == "cpu" else device


def join_hosts() -> Any:
    """The group in which the ranks speak from host to host, by gloo.

    What NCCL sends lies on the device: to read it waits for all steps that were launched, the next one's too.

    Raises:
        RuntimeError: they do not reach each other that way.
    """
    from torch import distributed

    if distributed.get_backend() == "gloo":
        return distributed.group.WORLD
    try:
        group = distributed.new_group(backend="gloo", timeout=MEETING_TIMEOUT)
    except RuntimeError as error:
        raise RuntimeError(
            "the ranks do not reach each other from host to host by gloo; GLOO_SOCKET_IFNAME=NAME names the network "
            f"interface between them ({error})"
        ) from error
    distributed.distributed_c10d._set_pg_timeout(PATIENCE, group)
    return group


def connect_to_store() -> Any:
    """The key-value store by which the launcher let the ranks find each other."""
    from torch.distributed import TCPStore

    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=STORE_TIMEOUT,
    )
