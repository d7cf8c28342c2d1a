"""The models of a configuration, with the budget and the inference servers that it gives them."""

from node.infer import Registry
from node.infer.packages import check_builds, installed_builds
from node.infer.pool import SessionPool, keep_large_arrays_apart, resident_bytes, used_bytes
from node.infer.providers import Acceleration
from node.infer.remote import RemoteEngine
from node.settings import Settings

TENSORRT_FOLDER = "tensorrt"


def installed_models(settings: Settings, worker: int = 0) -> Registry:
    """All models of `settings.models`, for the worker process of this number; nothing is loaded before it is used.

    Raises
    ------
    Permanent
        When not exactly one build of ONNX Runtime is installed, or a trusted key cannot be read.
    """
    check_builds(installed_builds())
    keep_large_arrays_apart()
    engines = {
        (each.model, each.file): RemoteEngine(each.url, each.name, each.version, each.timeout_seconds)
        for each in settings.models.remote
    }
    work = settings.work
    gpu = work.gpus[worker % len(work.gpus)]
    spare = tuple(dict.fromkeys(each for each in work.gpus if each != gpu))
    acceleration = Acceleration(work.accelerators, gpu, settings.node.data_dir.absolute() / TENSORRT_FOLDER, spare)
    watched = resident_bytes if work.device == "cpu" else lambda: used_bytes(gpu)
    pool = SessionPool(work.memory_budget_mb * 1_000_000, engines, acceleration, watched)
    return Registry(settings.models.paths, pool, settings.models.trusted_keys)
