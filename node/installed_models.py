"""The models of a configuration, with the budget and the inference servers that it gives them."""

from node.infer import Registry
from node.infer.packages import check_builds, installed_builds
from node.infer.pool import SessionPool, keep_large_arrays_apart
from node.infer.remote import RemoteEngine
from node.settings import Settings


def installed_models(settings: Settings) -> Registry:
    """All models of `settings.models`; nothing is loaded before it is used.

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
    pool = SessionPool(settings.work.memory_budget_mb * 1_000_000, engines)
    return Registry(settings.models.paths, pool, settings.models.trusted_keys)
